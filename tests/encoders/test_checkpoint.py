"""Reading a CLIPModel folder as data: what is read, and what is refused before it can do harm."""

import json
import pickle
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from clip_as_rnn.encoders.checkpoint import load_model, weight_files
from clip_as_rnn.encoders.clip import CLIP_FORMAT
from clip_as_rnn.encoders.hub import load_encoder
from clip_as_rnn.encoders.model_config import read_config
from clip_as_rnn.errors import WeightsError

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "generator", tmp_path / "model"))


def load(folder):
    return load_encoder(folder, device=CPU, dtype=torch.float32)


def refused(folder):
    """Return the sentence by which a folder is refused."""
    with pytest.raises(WeightsError, match=r"^The model in '.*' cannot be read: .*\.$") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).split("cannot be read: ")[1]


def edit_config(folder, section=None, **fields):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (config if section is None else config[section]).update(fields)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def split(folder):
    """Keep the weights in two parts and an index, as large models do."""
    weights = load_file(folder / "model.safetensors")
    names = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(weights))}
    for part in set(names.values()):
        save_file({name: weights[name] for name in weights if names[name] == part}, folder / part)
    (folder / "model.safetensors").unlink()
    write_index(folder, names)
    return names


def write_index(folder, names):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_and_buffers_are_those_that_transformers_loads(folder, dtype):
    ours = load_model(CLIP_FORMAT, read_config(CLIP_FORMAT, folder), weight_files(folder), CPU, dtype)
    theirs = CLIPModel.from_pretrained(folder, dtype=dtype)
    for mine, other in (
        (ours.state_dict(), theirs.state_dict()),
        (dict(ours.named_buffers()), dict(theirs.named_buffers())),
    ):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_positions_that_old_files_hold_among_the_weights_are_left_alone(folder):
    expected = load(folder).encode_text(["cat"])
    edit_weights(folder, lambda weights: weights.update({"text_model.embeddings.position_ids": torch.arange(77)[None]}))
    assert torch.equal(load(folder).encode_text(["cat"]), expected)


def test_sections_of_the_first_conversions_are_read(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    expected = load(folder).encode_text(["cat"])
    edit_config(folder, text_config_dict=config["text_config"], vision_config_dict=None)
    assert torch.equal(load(folder).encode_text(["cat"]), expected)


# Parts and their index


def test_weights_in_parts_are_read_whole(folder):
    expected = load(folder).encode_text(["cat"])
    split(folder)
    assert torch.equal(load(folder).encode_text(["cat"]), expected)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "../ok/model.safetensors", "/etc/passwd", "absent.safetensors", "..safetensors", "", 7],
)
def test_an_index_names_nothing_but_safetensors_files_of_its_folder(folder, name):
    shutil.copytree(folder, folder.parent / "ok")
    names = split(folder)
    shutil.copy(folder.parent / "ok" / "model.safetensors", folder / "decoy.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    write_index(folder, {**names, "logit_scale": name})
    assert f"names {str(name)!r}, which is no safetensors file of this folder" in refused(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": ["model.safetensors"]}'])
def test_a_damaged_index_is_told_in_one_sentence(folder, content):
    split(folder)
    (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    assert "model.safetensors.index.json holds no " in refused(folder)


def test_a_weight_in_two_parts_is_refused(folder):
    split(folder)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
    assert "both hold the weight" in refused(folder)


# Numbers that are none


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["text_model.final_layer_norm.weight", "vision_model.post_layernorm.bias"])
def test_weights_that_are_no_numbers_are_refused(folder, name, value):
    edit_weights(folder, lambda weights: weights[name].view(-1)[-1:].fill_(value))
    assert f"the weight {name} holds values that are no finite numbers" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1000.0, -1000.0])
def test_a_scale_of_no_use_is_refused(folder, value):
    edit_weights(folder, lambda weights: weights["logit_scale"].fill_(value))
    assert "logit_scale" in refused(folder)


def test_weights_too_large_for_the_precision_are_refused(folder):
    def enlarge(weights):
        weights["visual_projection.weight"] = weights["visual_projection.weight"].float().fill_(1e6)

    edit_weights(folder, enlarge)
    load(folder)
    with pytest.raises(
        WeightsError, match=r"visual_projection.weight holds values .* no finite numbers in torch.float16"
    ):
        load_encoder(folder, device=CPU, dtype=torch.float16)


def test_a_text_tower_that_tells_no_texts_apart_is_refused(folder):
    edit_weights(folder, lambda weights: weights["text_model.final_layer_norm.weight"].zero_())
    assert refused(folder) == "it reads different texts as the same."


# Weights and config that disagree


def test_weights_that_the_config_has_no_place_for_are_refused(folder):
    name = "vision_model.encoder.layers.0.mlp.fc3.weight"
    edit_weights(folder, lambda weights: weights.update({name: torch.zeros(2, 2)}))
    assert refused(folder) == f"it holds the weight {name}, which the model of config.json lacks."


@pytest.mark.parametrize(("layers", "shown"), [(1, "1"), (9, "9"), (100_000, "100,000")])
def test_another_number_of_layers_is_refused_before_they_are_made(folder, layers, shown):
    edit_config(folder, "vision_config", num_hidden_layers=layers)
    tracemalloc.start()
    told = refused(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told == f"config.json gives the vision tower {shown} layers, but the weights hold 10."
    assert peak < 20e6


def test_weights_of_another_size_are_named_with_both_sizes(folder):
    edit_config(folder, "text_config", intermediate_size=300)
    assert refused(folder) == (
        "the weight text_model.encoder.layers.0.mlp.fc1.weight has the size 256 x 64, "
        "but config.json asks for 300 x 64."
    )


def test_weights_stored_as_whole_numbers_are_refused(folder):
    name = "visual_projection.weight"
    edit_weights(folder, lambda weights: weights.update({name: weights[name].to(torch.int8)}))
    assert refused(folder) == f"the weight {name} is stored as I8, but F64, F32, F16, BF16 are read."


@pytest.mark.parametrize(
    ("section", "fields", "told"),
    [
        (
            "text_config",
            {"num_attention_heads": 3},
            "gives text_config 3 heads, which do not divide its width of 64",
        ),
        ("vision_config", {"num_attention_heads": 5}, "gives vision_config 5 heads, which do not divide its width"),
        ("vision_config", {"num_attention_heads": 0}, "has the num_attention_heads 0 in vision_config"),
        ("vision_config", {"image_size": "224"}, "has the image_size '224' in vision_config"),
        ("vision_config", {"image_size": None}, "has the image_size None in vision_config"),
        ("vision_config", {"patch_size": 0}, "has the patch_size 0 in vision_config"),
        ("vision_config", {"patch_size": 500}, "patches of 500 pixels in images of 224 pixels"),
        ("vision_config", {"num_channels": 4}, "4 channels, which is no CLIP"),
        ("vision_config", {"num_hidden_layers": 10**12}, "has the num_hidden_layers 1000000000000 in vision_config"),
        ("vision_config", {"hidden_size": True}, "has the hidden_size True in vision_config"),
        ("text_config", {"hidden_act": "no such thing"}, "no such thing"),
        ("text_config", {"hidden_act": 7}, "describes no CLIPModel (Validation error for field 'hidden_act'"),
        ("text_config", {"layer_norm_eps": "small"}, "field 'layer_norm_eps'"),
        (None, {"projection_dim": "wide"}, "field 'projection_dim'"),
        (None, {"text_config": "evil"}, "holds no JSON object as text_config"),
        (None, {"quantization_config": {"quant_method": "bitsandbytes"}}, r"asks for quantized weights"),
    ],
)
def test_a_config_that_cannot_be_is_told_in_one_sentence(folder, section, fields, told):
    edit_config(folder, section, **fields)
    assert told in refused(folder)
