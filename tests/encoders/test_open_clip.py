"""OpenCLIP's format against features that open_clip itself computed (`make check-open-clip` computes them anew)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_as_rnn.encoders.hub import load_encoder
from clip_as_rnn.errors import InputError, WeightsError
from clip_as_rnn.loading import load_segmenter

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")
ACTIVATIONS = ("gelu", "quick_gelu")
CLOSE = {"atol": 1e-5, "rtol": 0}
QUICK = {  # for 20 tokens a text
    "device": "cpu",
    "dtype": "float32",
    "score_threshold": 0.0,
    "crf": False,
    "background_texts": ("sky",),
    "templates": ("a {}.",),
    "first_proposal_template": "{}",
    "proposal_template": "{}",
}


def copy_model(name, folder):
    """Copy a recorded model, and give it the tokenizer of a tiny CLIP."""
    shutil.copytree(GOLDEN / "open_clip" / name, folder)
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(GOLDEN / "generator" / file, folder)
    return folder


def load(folder):
    return load_encoder(folder, device=CPU, dtype=torch.float32)


def edit(folder, section=None, **fields):
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    described = content["model_cfg"]
    (described if section is None else described[section]).update(fields)
    file.write_text(json.dumps(content), encoding="utf-8")


def rename(folder, change):
    file = folder / "open_clip_model.safetensors"
    save_file({change(name): weight for name, weight in load_file(file).items()}, file)


@pytest.fixture
def folder(tmp_path):
    return copy_model("gelu", tmp_path / "model")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_features_are_open_clips_own(name, tmp_path):
    encoder = load(copy_model(name, tmp_path / "model"))
    recorded = {
        key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "open_clip" / name / "features.npz").items()
    }
    torch.testing.assert_close(encoder.encode_image(recorded["pixels"]), recorded["images"], **CLOSE)
    ids = [[one for one in row.tolist() if one] for row in recorded["ids"]]  # 0 pads
    with torch.no_grad():
        texts = torch.nn.functional.normalize(encoder.read_texts(ids), dim=1)
    torch.testing.assert_close(texts, recorded["texts"], **CLOSE)
    assert encoder.logit_scale == pytest.approx(float(recorded["logit_scale"]), rel=1e-5)


def test_the_activations_are_told_apart(tmp_path):
    pixels = torch.from_numpy(np.load(GOLDEN / "open_clip" / "gelu" / "features.npz")["pixels"])
    right, wrong = (copy_model("gelu", tmp_path / name) for name in ("right", "wrong"))
    edit(wrong, quick_gelu=True)
    difference = (load(right).encode_image(pixels) - load(wrong).encode_image(pixels)).abs().max()
    assert difference > 1e-3


def test_a_text_tower_under_a_name_of_its_own_is_found(folder):
    expected = load(folder).encode_text(["cat", "dog"])
    edit(folder, custom_text=True)
    rename(folder, lambda name: name if name.startswith(("visual.", "logit_scale")) else f"text.{name}")
    assert torch.equal(load(folder).encode_text(["cat", "dog"]), expected)


def test_colors_are_those_of_the_config(folder):
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}), encoding="utf-8")
    assert load(folder).preprocessor.image_mean == (0.5, 0.5, 0.5)
    assert load(folder).preprocessor.image_std == (0.25, 0.25, 0.25)


def test_transformers_own_files_come_first(folder):
    for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
        shutil.copy(GOLDEN / "generator" / name, folder)
    assert load(folder).embed_dim == load(GOLDEN / "generator").embed_dim


@pytest.mark.parametrize(
    ("section", "fields", "told"),
    [
        (
            "vision_cfg",
            {"timm_model_name": "vit_pe_core_base"},
            "asks for timm_model_name = 'vit_pe_core_base'",
        ),
        ("vision_cfg", {"pool_type": "avg"}, "asks for pool_type = 'avg' in vision_cfg; of OpenCLIP's models only"),
        ("vision_cfg", {"attentional_pool": True}, "asks for attentional_pool = True"),
        ("vision_cfg", {"ls_init_value": 0.1}, "asks for ls_init_value = 0.1"),
        ("text_cfg", {"hf_model_name": "xlm-roberta-base"}, "asks for hf_model_name = 'xlm-roberta-base' in text_cfg"),
        ("text_cfg", {"no_causal_mask": True}, "asks for no_causal_mask = True in text_cfg"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "has the layers [3, 4, 6, 3] in vision_cfg"),
        ("vision_cfg", {"width": 0}, "has the width 0 in vision_cfg"),
        ("text_cfg", {"heads": 5}, "describes 5 heads, which do not divide a width of 24"),
        ("vision_cfg", {"mlp_ratio": "wide"}, "has the mlp_ratio 'wide' in vision_cfg"),
        ("vision_cfg", {"patch_size": 64}, "describes patches of 64 pixels in images of 32 pixels"),
        (
            None,
            {"embed_dim": 13},
            "visual.proj has the size 16 x 12, but open_clip_config.json asks for 16 x 13",
        ),
        (None, {"text_cfg": 7}, "holds no JSON object as text_cfg"),
        ("vision_cfg", {"layers": 3}, "gives the vision tower 3 layers, but the weights hold 2"),
    ],
)
def test_what_is_no_standard_model_is_refused_in_one_sentence(folder, section, fields, told):
    edit(folder, section, **fields)
    with pytest.raises(WeightsError, match=r"^The model in '.*' cannot be read: .*\.$") as caught:
        load(folder)
    assert told in str(caught.value)


def test_a_weight_of_no_standard_model_is_refused(folder):
    rename(folder, lambda name: "logit_bias" if name == "logit_scale" else name)
    with pytest.raises(WeightsError, match="it lacks the weight logit_scale"):
        load(folder)


def test_without_a_tokenizer_it_says_whose_will_do(folder):
    (folder / "vocab.json").unlink()
    with pytest.raises(InputError, match=r"holds no tokenizer .*CLIP's, which `hf download openai/clip-vit-base"):
        load(folder)


def test_a_pickle_of_open_clip_says_how_it_is_converted(folder):
    torch.save(load_file(folder / "open_clip_model.safetensors"), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"convert open_clip_pytorch_model.bin once with `python -c ") as caught:
        load(folder)
    command = str(caught.value).split('python -c "')[1].split('"`')[0]
    weights = load_file(GOLDEN / "open_clip" / "gelu" / "open_clip_model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(command)  # the command that the message names
    made = load_file(folder / "open_clip_model.safetensors")
    assert all(torch.equal(made[name], weights[name]) for name in weights)


@pytest.fixture(params=ACTIVATIONS)
def both(request, tmp_path):
    """Return an OpenCLIP folder, and a folder in transformers' format with the model that was made of it."""
    open_clip, converted = copy_model(request.param, tmp_path / "open_clip"), tmp_path / "transformers"
    encoder = load(open_clip)
    encoder.model.save_pretrained(converted)
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(open_clip / file, converted)
    colors = {"image_mean": encoder.preprocessor.image_mean, "image_std": encoder.preprocessor.image_std}
    side = encoder.preprocessor.image_size
    content = {**colors, "crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    (converted / "preprocessor_config.json").write_text(json.dumps(content), encoding="utf-8")
    return open_clip, converted


@torch.no_grad()
def test_gradients_and_mask_tokens_are_those_of_the_same_clip_in_transformers_format(both):
    """Which are held against autograd and boolean masks in test_grad_cam and test_clip_masks."""
    ours, theirs = (load(folder) for folder in both)
    pixels = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    masks = torch.rand(5, *ours.encode_patches(pixels, attention_layers=1)[0].grid_hw) < 0.5
    for directions in (torch.eye(ours.embed_dim)[:3], torch.eye(ours.embed_dim)):  # in either order
        pulled = [
            one.pooled_gradient(one.encode_patches(pixels, attention_layers=0)[0], directions) for one in (ours, theirs)
        ]
        assert pulled[0].abs().max() > 0
        assert torch.equal(*pulled)
    features = [one.encode_masks([one.encode_keys(pixels, first_block=0)[0]], [masks])[0] for one in (ours, theirs)]
    assert features[0].shape == (5, ours.embed_dim)
    assert torch.equal(*features)


@pytest.mark.parametrize("way", [{}, {"classify_by": "mask-tokens"}, {"proposals": "dense", "affinity_layers": 1}])
def test_a_whole_segmentation_is_that_of_the_same_clip_in_transformers_format(both, way):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    ours, theirs = (
        load_segmenter("default", model=folder, classifier=folder, **QUICK, **way).segment(
            pixels, ["cat", "dog", "car"]
        )
        for folder in both
    )
    assert ours.texts
    assert ours.texts == theirs.texts
    assert np.array_equal(ours.masks, theirs.masks)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4)  # products of other shapes round otherwise


def test_a_copy_of_the_files_finds_the_text_features_that_were_kept(folder, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    expected = load_segmenter("default", model=folder, classifier=folder, **QUICK).segment(pixels, ["cat", "dog"])
    copy = shutil.copytree(folder, tmp_path / "copy")
    copied = load_segmenter("default", model=copy, classifier=copy, **QUICK)
    monkeypatch.setattr(copied.models.proposal_encoder, "encode_text", lambda texts: pytest.fail(f"{texts} read again"))
    result = copied.segment(pixels, ["cat", "dog"])
    assert result.texts == expected.texts
    assert np.array_equal(result.masks, expected.masks)
