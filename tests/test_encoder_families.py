"""Everything put together on every family of encoders: a whole segmentation, what is kept, and what is refused."""

import shutil

import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.errors import InputError, WeightsError
from clip_as_rnn.loading import load_segmenter
from tiny_models import SAVED, save_tiny

QUICK = {"templates": ("a photo of a {}.",), "score_threshold": 0.1, "background_texts": ("sky", "wall")}
TEXTS = ["cat", "red car", "a dog"]
WAYS = {
    "prompts": {},
    "mask tokens": {"classify_by": "mask-tokens"},
    "dense": {"proposals": "dense", "classify_by": "mask-tokens", "affinity_layers": 2},
}


def photo(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module", params=SAVED)
def folder(request, tmp_path_factory):
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param)).folder


def load(folder, **settings):
    options = {"model": folder, "classifier": folder, "device": "cpu", "dtype": "float32", **QUICK, **settings}
    return load_segmenter("default", **options)


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_segmentation(folder, way):
    result = load(folder, **WAYS[way]).segment(photo(45, 70), TEXTS, trace=True)
    assert result.size_hw == (45, 70)
    assert set(result.texts) | {one.text for one in result.rejections} == set(TEXTS)
    assert np.isfinite(result.scores).all()
    assert result.trace.steps[0].cams.amax() == 1  # definite maps, scaled


def test_a_copy_of_the_files_gives_the_same_result_from_kept_text_features(folder, tmp_path, monkeypatch):
    expected = load(folder, classify_by="mask-tokens").segment(photo(45, 70), TEXTS)
    copied = load(shutil.copytree(folder, tmp_path / "copy"), classify_by="mask-tokens")
    encoder = copied.models.proposal_encoder
    monkeypatch.setattr(encoder, "encode_text", lambda texts: pytest.fail(f"{texts} were read again"))
    result = copied.segment(photo(45, 70), TEXTS)
    assert result.texts == expected.texts
    assert np.array_equal(result.masks, expected.masks)
    assert np.array_equal(result.scores, expected.scores)


def test_settings_that_make_no_sense_for_a_family_are_refused_when_the_segmenter_is_made(folder):
    segmenter = load(folder)
    for name in segmenter.models.classifier_encoder.refused:
        with pytest.raises(InputError, match=rf"The setting `{name}` makes no sense for .*; leave it out\."):
            segmenter.replace(**{name: 1 if name != "half_position_embeddings" else True})


def test_half_precision_gives_definite_masks(folder):
    result = load(folder, dtype="bfloat16", classify_by="mask-tokens", max_steps=0).segment(photo(45, 70), TEXTS)
    assert result.label_map().shape == (45, 70)


# What is wrong with a folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def test_a_folder_without_its_tokenizer_says_what_to_do(copy):
    next(copy.glob("tokenizer.[jm]*")).unlink()
    with pytest.raises(
        InputError, match=r"holds no tokenizer \(tokenizer.json.*`hf download MODEL_ID --local-dir FOLDER"
    ):
        load(copy)


def test_a_damaged_tokenizer_is_told_in_one_sentence(copy):
    next(copy.glob("tokenizer.[jm]*")).write_text('{"model": {"type": "Unigram", "vocab": 7}}', encoding="utf-8")
    with pytest.raises(WeightsError, match=r"cannot be read: tokenizer\.\w+ holds no (tokenizer|pieces) \(") as told:
        load(copy)
    assert "\n" not in str(told.value)


def test_pickles_alone_say_how_they_are_converted(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"pickles are never loaded\); convert it once with `python -c .*save_pretrained"
    ):
        load(copy)


def test_weights_fetched_in_part_say_how_to_fetch_them_again(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"damaged, or were fetched in part: fetch them again with `hf download"):
        load(copy)
