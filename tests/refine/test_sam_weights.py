"""What is loaded as a SAM, and the one line that everything else gets."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Sam2Model

from clip_as_rnn.encoders.hub import BUNDLED_FOLDER
from clip_as_rnn.errors import DependencyError, InputError, WeightsError
from clip_as_rnn.refine.sam import checkpoint
from clip_as_rnn.refine.sam.weights import load_sam
from random_sam import random_model, save_random_sam

CPU = torch.device("cpu")


def load(folder, dtype=torch.float32):
    return load_sam(folder, device=CPU, dtype=dtype)


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("kind", "family", "keeps_aspect"),
    [("sam", "sam", True), ("sam_hq", "sam_hq", True), ("sam2", "sam2", False), ("sam2_video", "sam2", False)],
)
def test_the_family_is_read_from_the_folder(tmp_path, kind, family, keeps_aspect):
    sam = load(save_random_sam(tmp_path, kind))
    assert (sam.family, sam.preprocessing.keep_aspect) == (family, keeps_aspect)
    assert sam.preprocessing.mean == (0.485, 0.456, 0.406)


def test_the_image_part_of_a_video_model_is_what_transformers_takes(tmp_path):
    """Published SAM 2.1 checkpoints are video models."""
    sam = load(save_random_sam(tmp_path, "sam2_video"))
    theirs = Sam2Model.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sam._model.get_image_embeddings(pixels)[-1], theirs.get_image_embeddings(pixels)[-1])


def test_mean_and_deviation_come_from_the_folder(tmp_path):
    save_random_sam(tmp_path, "sam")
    content = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    preprocessing = load(tmp_path).preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_other_weights_have_another_fingerprint(tmp_path):
    first = load(save_random_sam(tmp_path / "a", "sam", seed=0))
    assert first.fingerprint == load(save_random_sam(tmp_path / "b", "sam", seed=0)).fingerprint
    assert first.fingerprint != load(save_random_sam(tmp_path / "c", "sam", seed=1)).fingerprint


def test_half_precision_is_for_encoder_and_decoder(tmp_path):
    sam = load(save_random_sam(tmp_path, "sam"), torch.float16)
    assert next(sam._model.vision_encoder.parameters()).dtype == torch.float16
    assert next(sam._model.mask_decoder.parameters()).dtype == torch.float16
    assert next(sam._model.prompt_encoder.parameters()).dtype == torch.float32


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(
        InputError, match=r"^There is no model folder '.*none'; give a SAM's folder or a Hugging Face id"
    ):
        load(str(tmp_path / "none"))


def test_an_empty_folder_is_no_sam(tmp_path):
    with pytest.raises(InputError, match=r"is no SAM: it holds no config\.json\.$"):
        load(tmp_path)


def test_a_clip_is_no_sam():
    with pytest.raises(
        InputError, match=r"is no SAM: its config\.json says model_type 'clip'; known are the types sam, "
    ):
        load(BUNDLED_FOLDER)


@pytest.mark.parametrize("kind", [None, 3, ["sam"]])
def test_a_folder_without_a_type_is_no_sam(tmp_path, kind):
    with pytest.raises(InputError, match=r"is no SAM: its config\.json says model_type"):
        load(edit(save_random_sam(tmp_path, "sam"), model_type=kind))


@pytest.mark.parametrize("kind", ["sam3", "sam3_tracker", "edgetam"])
def test_a_relative_of_sam_is_named(tmp_path, kind):
    with pytest.raises(
        InputError, match=f"is of the family '{kind}', which is not supported; known are the types sam, "
    ):
        load(edit(save_random_sam(tmp_path, "sam"), model_type=kind))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "sam_vit_h.pth"])
def test_a_pickle_is_not_opened(tmp_path, name):
    save_random_sam(tmp_path, "sam")
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    with pytest.raises(InputError, match=rf"is a pickle \({name}\), .* take a repository with model\.safetensors\.$"):
        load(tmp_path)


def test_a_folder_without_weights_is_no_sam(tmp_path):
    save_random_sam(tmp_path, "sam")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"is no SAM: it holds no model\.safetensors\.$"):
        load(tmp_path)


def test_damaged_weights_are_refused(tmp_path):
    save_random_sam(tmp_path, "sam")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"^The SAM in '.*' cannot be read: [^\n]*\.$"):
        load(tmp_path)


def test_a_damaged_config_is_refused(tmp_path):
    save_random_sam(tmp_path, "sam")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(WeightsError, match=r"cannot be read: config\.json holds no JSON object\.$"):
        load(tmp_path)


def test_missing_weights_are_not_made_up(tmp_path):
    save_random_sam(tmp_path, "sam")
    stored = load_file(tmp_path / "model.safetensors")
    lost = [name for name in stored if name.startswith("mask_decoder.iou_token")]
    save_file({name: value for name, value in stored.items() if name not in lost}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"cannot be read: it lacks the weight {lost[0]}\.$"):
        load(tmp_path)


def edit_section(folder, section, **changes):
    content = json.loads((folder / "config.json").read_text())
    return edit(folder, **{section: {**content[section], **changes}})


@pytest.mark.parametrize(
    ("kind", "section", "told"),
    [
        ("sam", "vision_config", r"vision_encoder\.layers\.1\.attn\.proj\.bias and 13 more"),
        ("sam_hq", "mask_decoder_config", r"mask_decoder\.transformer\.layers\.1\.\S+ and \d+ more"),
        ("sam2_video", "mask_decoder_config", r"mask_decoder\.transformer\.layers\.1\.\S+ and \d+ more"),
    ],
)
def test_layers_that_the_config_leaves_out_are_refused(tmp_path, kind, section, told):
    folder = edit_section(save_random_sam(tmp_path, kind), section, num_hidden_layers=1)
    with pytest.raises(WeightsError, match=rf"it holds the weight {told}, which the model of config\.json lacks\.$"):
        load(folder)


def test_weights_of_parts_that_no_sam_has_are_left_alone(tmp_path):
    save_random_sam(tmp_path, "sam")
    stored = load_file(tmp_path / "model.safetensors")
    save_file({**stored, "classifier.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert load(tmp_path).family == "sam"


@pytest.mark.parametrize(
    ("kind", "section", "changes", "told"),
    [
        (
            *("sam", "vision_config", {"mlp_dim": 100}),
            "vision_encoder.layers.0.mlp.lin1.bias has the size 128, but config.json asks for 100",
        ),
        (
            *("sam2", "mask_decoder_config", {"mlp_dim": 65}),
            "mask_decoder.transformer.layers.0.mlp.proj_in.bias has the size 64, but config.json asks for 65",
        ),
        (
            *("sam_hq", "mask_decoder_config", {"vit_dim": 48}),
            "mask_decoder.compress_vit_conv1.weight has the size 32 x 32 x 2 x 2, but config.json asks for "
            "48 x 32 x 2 x 2",
        ),
    ],
)
def test_weights_of_another_size_are_named_with_both_sizes(tmp_path, kind, section, changes, told):
    folder = edit_section(save_random_sam(tmp_path, kind), section, **changes)
    with pytest.raises(WeightsError) as caught:
        load(folder)
    assert str(caught.value) == f"The SAM in '{folder}' cannot be read: the weight {told}."


def test_an_id_that_cannot_be_fetched_says_how_to_mend_it():
    with pytest.raises(WeightsError, match=r"hf download nobody/no-sam`, or give a local folder with --sam\.$"):
        load("nobody/no-sam")


def test_without_the_extra_the_command_is_named(tmp_path, monkeypatch):
    save_random_sam(tmp_path, "sam_hq")
    monkeypatch.setattr(checkpoint, "transformers", SimpleNamespace(__version__="4.0"))  # one without it
    with pytest.raises(DependencyError, match=r"needs SamHQModel.*pip install --upgrade 'clip-as-rnn\[sam\]'`\.$"):
        load(tmp_path)


def test_nothing_of_the_folder_is_executed(tmp_path):
    folder = save_random_sam(tmp_path, "sam")
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    sam = load(edit(folder, auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}))
    assert sam.family == "sam"


@pytest.mark.parametrize(
    "named",
    [
        {"_attn_implementation": "nobody/evil-kernel"},
        {"attn_implementation": "nobody/evil-kernel"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"torch_dtype": "float16"},
    ],
)
def test_what_a_config_names_besides_the_model_is_not_looked_up(tmp_path, named):
    folder = save_random_sam(tmp_path, "sam")
    plain = load(folder)
    content = json.loads((folder / "config.json").read_text())
    sections = {name: {**value, **named} if isinstance(value, dict) else value for name, value in content.items()}
    (folder / "config.json").write_text(json.dumps({**sections, **named}))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "no/body"}))
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    torch.testing.assert_close(load(folder).encode(image).features, plain.encode(image).features, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("vision_config", {"num_hidden_layers": 1_000_000}),
        ("vision_config", {"hidden_size": 10**9}),
        ("vision_config", {"global_attn_indexes": [10**9]}),
        ("vision_config", {"num_channels": 4}),
        ("vision_config", {"layer_norm_eps": float("nan")}),
        ("mask_decoder_config", {"iou_head_depth": 100_000}),
        ("prompt_encoder_config", {"image_size": -5}),
        ("vision_config", {"hidden_act": "evil"}),
        ("vision_config", {"num_attention_heads": 0}),
        ("mask_decoder_config", {"hidden_size": 33}),
        ("vision_config", {"hidden_size": "wide"}),
        ("prompt_encoder_config", {"patch_size": 0}),
    ],
)
def test_a_config_of_no_sam_is_refused_in_one_sentence(tmp_path, section, changes):
    folder = save_random_sam(tmp_path, "sam")
    content = json.loads((folder / "config.json").read_text())
    content[section].update(changes)
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"^The SAM in '.*' cannot be read: [^\n]*\.$"):
        load(folder)


def test_a_section_that_is_no_object_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot be read: config\.json holds no JSON object as vision_config\.$"):
        load(edit(save_random_sam(tmp_path, "sam"), vision_config=[1]))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    save_random_sam(tmp_path, "sam2")
    stored = load_file(tmp_path / "model.safetensors")
    name = next(iter(stored))
    stored[name].view(-1)[0] = float("nan")
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"the weight {name} holds values that are no finite numbers\.$"):
        load(tmp_path)


def test_weights_in_several_files_are_joined(tmp_path):
    whole = load(save_random_sam(tmp_path / "a", "sam"))
    random_model("sam").save_pretrained(tmp_path / "b", max_shard_size="100KB")
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 1
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    torch.testing.assert_close(load(tmp_path / "b").encode(image).features, whole.encode(image).features)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("MPS backend out of memory (MPS allocated: 9 GB).")])
def test_too_little_memory_is_not_called_damage(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("clip_as_rnn.refine.sam.weights._load_model", fail)
    with pytest.raises(InputError, match=r"^There is too little memory for the SAM in '.*' on cpu; take a smaller one"):
        load(save_random_sam(tmp_path, "sam"))
