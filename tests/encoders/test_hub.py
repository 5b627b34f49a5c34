"""Loading a CLIP: what is read, what is refused, and what is said then."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_as_rnn.encoders.hub import BUNDLED_FOLDER, find_folder, fingerprint, load_clip
from clip_as_rnn.errors import InputError, WeightsError

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "generator", tmp_path / "model"))


def load(source, **options):
    return load_clip(source, device=CPU, dtype=torch.float32, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_have_the_precision_asked_for(folder, dtype):
    clip = load_clip(folder, device=CPU, dtype=dtype)
    assert clip.dtype == dtype
    assert {weight.dtype for weight in clip.model.parameters()} == {dtype}


def test_a_loaded_clip_is_frozen(folder):
    clip = load(folder)
    assert not clip.model.training
    assert not any(weight.requires_grad for weight in clip.model.parameters())


def test_the_preprocessor_file_sets_mean_and_deviation(folder):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}), encoding="utf-8")
    assert load(folder).preparation.image_mean == (0.1, 0.2, 0.3)
    assert load(folder).preparation.image_std == (0.5, 0.6, 0.7)


def test_without_a_preprocessor_file_clips_own_numbers_hold(folder):
    (folder / "preprocessor_config.json").unlink()
    preparation = load(folder).preparation
    assert preparation.image_size == 224
    assert preparation.image_mean == (0.48145466, 0.4578275, 0.40821073)
    assert preparation.image_std == (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_logit_scale_is_never_rounded(folder, dtype):
    stored = load_file(folder / "model.safetensors")["logit_scale"]
    assert load_clip(folder, device=CPU, dtype=dtype).logit_scale == float(stored.float().exp())


def test_a_clip_loaded_in_inference_mode_is_as_good_as_any(folder):
    with torch.inference_mode():
        clip = load(folder)
    view = clip.view_patches(torch.zeros(1, 3, 32, 32), affinity_layers=0)
    assert clip.pull_back(view, torch.ones(1, clip.width)).isfinite().all()


def test_a_path_and_its_name_are_the_same_model(folder):
    assert load(str(folder)).fingerprint == load(folder).fingerprint


def test_tiny_is_the_bundled_model():
    assert find_folder("tiny") == BUNDLED_FOLDER
    assert (BUNDLED_FOLDER / "model.safetensors").is_file()


# What cannot be loaded


@pytest.mark.parametrize(
    ("missing", "told"), [("model.safetensors", r"\*\.safetensors file"), ("config.json", "config.json")]
)
def test_a_folder_without_a_part_says_which(folder, missing, told):
    (folder / missing).unlink()
    with pytest.raises(InputError, match=rf"holds no {told}; a CLIPModel folder of Hugging Face has both\."):
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
    with pytest.raises(InputError, match=r"There is no model folder '.*nowhere.*'; give a CLIPModel folder, a Hugging"):
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


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "bert"}', "null"])
def test_a_damaged_config_is_told_in_one_sentence(folder, text):
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"^The model in '.*' cannot be read: ") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_weights_of_other_shapes_than_the_config_says_are_refused(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["hidden_size"] = 128
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"^The model in '.*' cannot be read: "):
        load(folder)


def test_missing_weights_are_never_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks .*visual_projection\.weight"):
        load(folder)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_tokenizer_without_its_files_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=r"^The model in '.*' cannot be read: "):
        load(folder)


@pytest.mark.parametrize("content", ["[", "[1, 2]", '{"image_mean": [0.5]}', '{"image_mean": "grey"}'])
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
    with pytest.raises(InputError, match=r"holds no \*\.safetensors file"):
        load(folder)
    assert not sprung.exists()


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


@pytest.mark.parametrize("name", ["config.json", "merges.txt", "vocab.json"])
def test_a_fingerprint_changes_with_what_else_texts_depend_on(folder, name):
    before = fingerprint(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert fingerprint(folder) != before


def test_different_models_have_different_fingerprints():
    assert fingerprint(GOLDEN / "generator") != fingerprint(GOLDEN / "classifier")
