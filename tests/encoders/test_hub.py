"""Loading a CLIP: what is read, what is refused, and what is said then."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_as_rnn.encoders.fingerprint import fingerprint
from clip_as_rnn.encoders.hub import BUNDLED_FOLDER, find_folder, load_encoder
from clip_as_rnn.errors import InputError, WeightsError
from forks import fork_ends

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "generator", tmp_path / "model"))


def load(source, **options):
    return load_encoder(source, device=CPU, dtype=torch.float32, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_have_the_precision_asked_for(folder, dtype):
    clip = load_encoder(folder, device=CPU, dtype=dtype)
    assert clip.dtype == dtype
    assert {weight.dtype for weight in clip.model.parameters()} == {dtype}


def test_a_loaded_clip_is_frozen(folder):
    clip = load(folder)
    assert not clip.model.training
    assert not any(weight.requires_grad for weight in clip.model.parameters())


def test_the_preprocessor_file_sets_mean_and_deviation(folder):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}), encoding="utf-8")
    assert load(folder).preprocessor.image_mean == (0.1, 0.2, 0.3)
    assert load(folder).preprocessor.image_std == (0.5, 0.6, 0.7)


def test_without_a_preprocessor_file_clips_own_numbers_hold(folder):
    (folder / "preprocessor_config.json").unlink()
    preparation = load(folder).preprocessor
    assert preparation.image_size == 224
    assert preparation.image_mean == (0.48145466, 0.4578275, 0.40821073)
    assert preparation.image_std == (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_logit_scale_is_never_rounded(folder, dtype):
    stored = load_file(folder / "model.safetensors")["logit_scale"]
    assert load_encoder(folder, device=CPU, dtype=dtype).logit_scale == float(stored.float().exp())


def test_a_clip_loaded_in_inference_mode_is_as_good_as_any(folder):
    with torch.inference_mode():
        clip = load(folder)
    view = clip.encode_patches(torch.zeros(1, 3, 32, 32), attention_layers=0)[0]
    assert clip.pooled_gradient(view, torch.ones(1, clip.embed_dim)).isfinite().all()


def test_a_path_and_its_name_are_the_same_model(folder):
    assert load(str(folder)).fingerprint == load(folder).fingerprint


def test_tiny_is_the_bundled_model():
    assert find_folder("tiny") == BUNDLED_FOLDER
    assert (BUNDLED_FOLDER / "model.safetensors").is_file()


# What cannot be loaded


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("model.safetensors", r"model\.safetensors \(pickles are never loaded\)"),
        ("config.json", r"config\.json"),
        ("vocab.json", r"tokenizer \(tokenizer\.json, or vocab\.json and merges\.txt\)"),
        ("merges.txt", r"tokenizer \(tokenizer\.json, or vocab\.json and merges\.txt\)"),
    ],
)
def test_a_folder_without_a_part_says_which_and_the_way_out(folder, missing, told):
    (folder / missing).unlink()
    with pytest.raises(InputError, match=rf"holds no {told}; give a whole model folder .* `hf download MODEL_ID"):
        load(folder)


def test_a_folder_without_any_file_of_a_tokenizer_is_refused(folder):
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        load(folder)


@pytest.mark.parametrize(
    "source",
    [
        "/nowhere/at/all",
        "./nowhere",
        "~/nowhere-at-all",
        "nowhere",
        Path("nowhere"),
        "~nowhere/clip",
        "nowhere" * 50,
        "nowhere" * 50 + "/a",
        "nowhere\0/a",
    ],
)
def test_a_path_to_nothing_is_a_users_mistake(source):
    with pytest.raises(InputError, match=r"There is no model folder '.*nowhere.*'; give a model folder, a Hugging"):
        load(source)


def test_an_id_that_is_not_in_the_cache_says_the_way_out(tmp_path):
    with pytest.raises(WeightsError) as caught:
        load("openai/clip-vit-base-patch16", cache_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith(
        "The weights of 'openai/clip-vit-base-patch16' are not in the cache and cannot be fetched"
    )
    assert "`hf download openai/clip-vit-base-patch16`" in message
    assert "--model" in message
    assert "--preset tiny" in message
    assert "\n" not in message


def test_weights_cut_short_are_damaged(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"^The (weights|model) in '.*' (are damaged|cannot be read): "):
        load(folder)


def test_weights_that_are_no_safetensors_are_damaged(folder):
    (folder / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match=r"^The (weights|model) in '.*' (are damaged|cannot be read): "):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "bert"}', "null", "[" * 5000, "\xff"])
def test_a_damaged_config_is_told_in_one_sentence(folder, text):
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"^The model in '.*' cannot be read: ") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_weights_of_other_shapes_than_the_config_says_are_refused(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["hidden_size"] = 128
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    told = r"vision_model\.\S+ has the size 64, but config\.json asks for 128\.$"
    with pytest.raises(WeightsError, match=rf"^The model in '.*' cannot be read: the weight {told}"):
        load(folder)


def test_missing_weights_are_never_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks .*visual_projection\.weight"):
        load(folder)


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[1, 2]",
        '{"image_mean": [0.5]}',
        '{"image_mean": "grey"}',
        '{"image_mean": [NaN, 0, 0]}',
        '{"image_std": [1, Infinity, 1]}',
        '{"image_std": [0, 1, 1]}',
        '{"image_std": [1, 1, -1]}',
    ],
)
def test_a_damaged_preprocessor_file_is_told_in_one_sentence(folder, content):
    (folder / "preprocessor_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"^The model in '.*' cannot be read: "):
        load(folder)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_loaded(folder, tmp_path):
    sprung = tmp_path / "sprung"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match=r"holds no model\.safetensors \(pickles"):
        load(folder)
    assert not sprung.exists()


# Code of a folder

EVIL_CODE = """
from pathlib import Path
Path(__file__).with_name("sprung").touch()
from transformers import CLIPConfig as Cfg, CLIPModel as Model, CLIPTokenizer as Tok
"""
EVIL = {"auto_map": {"AutoConfig": "evil.Cfg", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tok", None]}}


def edit(file, **fields):
    """Change fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"model_type": "evil"},
            "has the model_type 'evil', which is not supported; supported are 'clip': CLIP .CLIPModel., ",
        ),
        (
            {**EVIL, "model_type": "evil"},
            "has the model_type 'evil', which is not supported; supported are 'clip': CLIP .CLIPModel., ",
        ),
        (EVIL, "asks for code of its own, which is never run .auto_map."),
    ],
)
def test_code_of_a_folder_is_never_run_and_nothing_is_asked(folder, fields, told):
    (folder / "evil.py").write_text(EVIL_CODE, encoding="utf-8")
    edit(folder / "config.json", **fields)
    program = (
        "import sys, torch; from clip_as_rnn.encoders.hub import load_encoder\n"
        "try: load_encoder(sys.argv[1], device=torch.device('cpu'), dtype=torch.float32)\n"
        "except Exception as error: print(error)\n"
        "print(repr(sys.stdin.read()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        input="a\nyes\nyes\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    refusal, rest = done.stdout.splitlines()
    assert re.search(told, refusal)
    assert rest == repr("a\nyes\nyes\n")
    assert not (folder / "sprung").exists()


def test_a_tokenizer_of_a_folders_own_is_never_run(folder):
    (folder / "evil.py").write_text(EVIL_CODE, encoding="utf-8")
    edit(folder / "tokenizer_config.json", tokenizer_class="Tok", **EVIL)
    with pytest.raises(WeightsError, match="asks for the tokenizer 'Tok', but only CLIPTokenizer is supported"):
        load(folder)
    assert not (folder / "sprung").exists()


def test_kernels_that_a_config_asks_for_are_never_fetched(folder):
    expected = load(folder).encode_text(["cat"])
    edit(folder / "config.json", _attn_implementation="someone/kernels", attn_implementation="someone/kernels")
    assert torch.equal(load(folder).encode_text(["cat"]), expected)


# What a host program does


def test_features_do_not_depend_on_the_default_precision_of_the_program(folder):
    expected = load(folder).encode_text(["cat", "a dog"])
    torch.set_default_dtype(torch.float64)
    try:
        clip = load(folder)
        assert clip.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(clip.encode_text(["cat", "a dog"]), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_fork_of_a_used_model_computes_on():
    before = f"""
import torch
from clip_as_rnn.encoders.hub import load_encoder
torch.set_num_threads(4)
clip = load_encoder({str(BUNDLED_FOLDER)!r}, device=torch.device("cpu"), dtype=torch.float32)
see = lambda: clip.encode_image(torch.ones(4, 3, 224, 224) @ torch.ones(224, 224))
see()
"""
    assert fork_ends(before, "see()")


# Fingerprints


def test_a_fingerprint_is_the_same_for_a_copy(folder):
    assert fingerprint(folder) == fingerprint(GOLDEN / "generator")


def test_a_fingerprint_changes_with_the_weights(folder):
    before = fingerprint(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: -weight for name, weight in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    assert fingerprint(folder) != before


@pytest.mark.parametrize(
    "name", ["text_model.final_layer_norm.weight", "vision_model.post_layernorm.bias", "visual_projection.weight"]
)
def test_a_fingerprint_changes_with_one_number_of_any_weight(folder, name):
    before = fingerprint(folder)
    weights = load_file(folder / "model.safetensors")
    for place in (0, -1):
        changed = weights[name].clone()
        changed.view(-1)[place] += 1
        save_file({**weights, name: changed}, folder / "model.safetensors", metadata={"format": "pt"})
        assert fingerprint(folder) != before


def test_a_fingerprint_covers_weights_of_many_pieces(folder, monkeypatch):
    monkeypatch.setattr("clip_as_rnn.encoders.fingerprint._PIECE_BYTES", 1000)
    file = folder / "model.safetensors"
    content, known = bytearray(file.read_bytes()), {fingerprint(folder)}
    for place in (5000, 999_999, 1_000_000, len(content) - 1):
        content[place] ^= 1
        file.write_bytes(content)
        known.add(fingerprint(folder))
    assert len(known) == 5


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "preprocessor_config.json", "merges.txt", "vocab.json", "tokenizer.json"),
        *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    ],
)
def test_a_fingerprint_changes_with_what_else_features_depend_on(folder, name):
    before = fingerprint(folder)
    (folder / name).touch()
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert fingerprint(folder) != before


def test_different_models_have_different_fingerprints():
    assert fingerprint(GOLDEN / "generator") != fingerprint(GOLDEN / "classifier")
