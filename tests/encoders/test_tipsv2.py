"""TIPSv2's files: the layouts and perceptrons that are published, its temperature, and its tokenizer."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from torch.nn import functional

from clip_as_rnn.encoders.hub import load_encoder
from clip_as_rnn.errors import DependencyError, WeightsError
from tiny_models import save_tipsv2

CLOSE = {"atol": 1e-5, "rtol": 0}
TEXTS = ["cat", "a photo of the red car", "Sky"]


def load(folder):
    return load_encoder(folder, device=torch.device("cpu"), dtype=torch.float32)


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_both_layouts_and_both_perceptrons_are_read(tmp_path, as_published, gated):
    library = save_tipsv2(tmp_path, as_published=as_published, use_swiglu_ffn=gated)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert any(name.startswith("vision_encoder.") for name in names) == as_published
    encoder, pixels = load(tmp_path), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.encode_image(pixels), library.images(pixels), **CLOSE)
    with torch.no_grad():
        theirs = functional.normalize(library.texts(TEXTS), dim=1)
    torch.testing.assert_close(encoder.encode_text(TEXTS), theirs, **CLOSE)


@pytest.fixture
def folder(tmp_path):
    save_tipsv2(tmp_path)
    return tmp_path


def test_perceptrons_of_the_image_tower_go_by_either_name(folder):
    expected, pixels = load(folder), torch.ones(1, 3, 32, 32)
    old, new = (".mlp.c_fc.", ".mlp.c_proj."), (".mlp.fc1.", ".mlp.fc2.")
    stored = load_file(folder / "model.safetensors")
    was, becomes = (old, new) if any(name.startswith("vision") and old[0] in name for name in stored) else (new, old)

    def rename(weights):
        for name in [one for one in weights if one.startswith("vision")]:
            weights[name.replace(was[0], becomes[0]).replace(was[1], becomes[1])] = weights.pop(name)

    edit_weights(folder, rename)
    assert torch.equal(load(folder).encode_image(pixels), expected.encode_image(pixels))


def test_the_temperature_is_that_of_the_weights_or_else_of_the_config(folder):
    edit_weights(folder, lambda weights: weights.update(temperature=torch.tensor(0.02)))
    assert load(folder).logit_scale == pytest.approx(50)
    edit_weights(folder, lambda weights: weights.pop("temperature"))
    assert load(folder).logit_scale == pytest.approx(1 / 0.005065968260169029)


def test_a_temperature_of_zero_is_refused(folder):
    edit_weights(folder, lambda weights: weights.update(temperature=torch.tensor(0.0)))
    with pytest.raises(WeightsError, match=r"the weight temperature stands for a scale of 0\.0, which is no use"):
        load(folder)


def test_code_that_a_published_config_names_is_left_alone(folder):
    file = folder / "config.json"
    named = {"auto_map": {"AutoModel": "evil.Model"}}
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **named}), encoding="utf-8")
    (folder / "evil.py").write_text("raise SystemExit('run')", encoding="utf-8")
    assert load(folder).encode_text(["cat"]).isfinite().all()


def test_ids_are_those_of_small_letters(folder):
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert load(folder).tokenize(["A Red CAR", "<pad> x"]) == [pieces.Encode("a red car"), pieces.Encode("<pad> x")]


def test_without_sentencepiece_it_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DependencyError, match=r"pip install 'clip-as-rnn\[tipsv2\]'"):
        load(folder)


def test_more_pieces_than_the_text_tower_knows_are_refused(folder):
    file = folder / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["text_config"]["vocab_size"] = 300
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"tokenizer.model has 320 pieces, but the text tower knows 300"):
        load(folder)
