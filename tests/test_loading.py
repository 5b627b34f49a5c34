"""Everything put together, on two small CLIPs that see nothing: what goes in and what can go wrong."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.loading import choose_device, choose_dtype, load_segmenter
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.refine.crf import CrfRefiner
from random_sam import save_random_sam

GOLDEN = Path(__file__).parent / "golden"
MODELS = {"model": GOLDEN / "generator", "classifier": GOLDEN / "classifier", "device": "cpu", "dtype": "float32"}
QUICK = {
    "max_side_px": 96,
    "score_threshold": 0.1,
    "templates": ("a photo of a {}.",),
    "background_texts": ("sky", "wall"),
}
TEXTS = ["cat", "red car", "whiskers"]


def photo(height, width, seed=0):
    """Make a picture with a few soft shapes in it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter("default", **MODELS, **QUICK)


def same(a, b):
    return a.texts == b.texts and np.array_equal(a.masks, b.masks) and np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 3000), (3000, 1), (2, 3), (17, 16), (5, 200)])
def test_images_of_any_size_come_back_at_their_size(segmenter, size_hw):
    result = segmenter.segment(photo(*size_hw), TEXTS)
    assert result.size_hw == size_hw
    assert result.label_map().shape == size_hw
    assert not (result.masks.sum(0) > 1).any()
    assert set(result.texts) | {one.text for one in result.rejections} == set(TEXTS)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 400), (33, 47)])
def test_the_official_presets_take_images_of_any_size(size_hw):
    official = load_segmenter("official-voc", **MODELS, templates=("{}",), background_texts=("sky",))
    result = official.segment(photo(*size_hw), TEXTS)
    assert result.size_hw == size_hw
    assert result.texts  # the best one stays


@pytest.mark.parametrize(("limit_px", "long_side_px"), [(None, 96), (120, 120), (640, 160)])
def test_the_crf_works_at_a_size_of_its_own(segmenter, monkeypatch, limit_px, long_side_px):
    seen, refine = [], CrfRefiner.refine
    monkeypatch.setattr(CrfRefiner, "refine", lambda *given: seen.append(given[1].shape) or refine(*given))
    result = segmenter.replace(max_steps=0, crf_max_side_px=limit_px).segment(photo(100, 160), TEXTS, trace=True)
    assert seen == [(round(100 * long_side_px / 160), long_side_px, 3)]
    assert result.trace.steps[0].proposals.shape[1:] == (60, 96)  # as the classifier saw them
    assert result.size_hw == (100, 160)


def test_every_kind_of_image_gives_the_same_result(segmenter, tmp_path):
    pixels = photo(60, 80)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "photo.png")
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    expected = segmenter.segment(pixels, TEXTS)
    kinds = [
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        stream.getvalue(),
        picture,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
    ]
    for kind in kinds:
        assert same(segmenter.segment(kind, TEXTS), expected), type(kind)


def test_a_gray_image_is_one_of_three_equal_channels(segmenter):
    gray = photo(40, 50)[:, :, 0]
    assert same(segmenter.segment(gray, TEXTS), segmenter.segment(np.stack([gray] * 3, axis=2), TEXTS))


def test_a_result_does_not_depend_on_calls_before(segmenter):
    before = segmenter.segment(photo(60, 80), TEXTS)
    segmenter.segment(photo(80, 60, seed=1), ["something else"])
    assert same(segmenter.segment(photo(60, 80), TEXTS), before)


def test_images_side_by_side_find_what_each_finds_alone(segmenter):
    pictures = [photo(60, 80, seed) for seed in range(3)]
    alone = [segmenter.segment(picture, TEXTS) for picture in pictures]
    for one, other in zip(segmenter.segment_many(pictures, TEXTS), alone, strict=True):
        assert one.texts == other.texts
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        assert (one.label_map() == other.label_map()).mean() > 0.999


def test_on_processors_images_encoded_together_give_to_the_last_bit_what_each_gives_alone(segmenter):
    pictures = [photo(60, 80, seed) for seed in range(5)] + [photo(80, 60)]
    alone = [segmenter.segment(picture, TEXTS) for picture in pictures]
    for _ in range(2):  # by the second time it is known which sizes may share a pass
        for one, other in zip(segmenter.encode_each(pictures), alone, strict=True):
            assert same(segmenter.segment(one, TEXTS), other)


def test_the_order_of_the_texts_changes_rows_only(segmenter):
    forth = segmenter.segment(photo(60, 80), TEXTS)
    back = segmenter.segment(photo(60, 80), TEXTS[::-1])
    assert sorted(forth.texts) == sorted(back.texts)
    for i, text in enumerate(forth.texts):
        j = back.texts.index(text)
        assert forth.scores[i] == pytest.approx(back.scores[j], abs=1e-5)
        assert (forth.masks[i] == back.masks[j]).mean() > 0.999


def test_in_referring_mode_a_text_has_the_same_proposal_in_any_company(segmenter):
    referring = segmenter.replace(mode="referring", max_steps=1)
    together = referring.segment(photo(60, 80), TEXTS, trace=True).trace.steps[0]
    alone = referring.segment(photo(60, 80), TEXTS[1:2], trace=True).trace.steps[0]
    torch.testing.assert_close(together.maps[1], alone.maps[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_agrees_with_single(dtype):
    single, half = (
        load_segmenter("default", **{**MODELS, "dtype": kind}, **QUICK, max_steps=0) for kind in ("float32", dtype)
    )
    exact, rough = (one.segment(photo(60, 80), TEXTS, trace=True) for one in (single, half))
    assert half.describe()["dtype"] == dtype
    difference = (exact.trace.steps[0].cams - rough.trace.steps[0].cams).abs()
    assert difference.mean() < 0.05
    assert (exact.label_map() == rough.label_map()).mean() > 0.8  # random weights: every text is as likely as any


def test_background_texts_are_optional(segmenter):
    assert segmenter.replace(background_texts=()).segment(photo(40, 50), TEXTS).size_hw == (40, 50)


def test_a_config_of_ones_own_is_taken_as_it_is():
    config = with_settings(SegmenterConfig(), {"score_threshold": 0.2})
    segmenter = load_segmenter(config, **MODELS, crf=False)
    assert segmenter.config.classify.score_threshold == 0.2
    assert not segmenter.config.refine.crf
    assert segmenter.config.propose.model == str(GOLDEN / "generator")


def test_other_settings_keep_the_loaded_models(segmenter):
    other = segmenter.replace(score_threshold=0.7)
    assert other.config.classify.score_threshold == 0.7
    assert segmenter.config.classify.score_threshold == 0.1
    assert other.models is segmenter.models


def test_other_models_need_a_segmenter_of_their_own(segmenter):
    with pytest.raises(InputError, match=r"Other models need a segmenter of their own; call load_segmenter\."):
        segmenter.replace(model="tiny")


def test_one_model_in_both_places_is_loaded_once():
    segmenter = load_segmenter("default", **{**MODELS, "classifier": GOLDEN / "generator"})
    assert segmenter.models.classifier_encoder is segmenter.models.proposal_encoder


def test_a_description_names_models_device_and_precision(segmenter):
    told = segmenter.describe()
    assert told["model"].endswith("generator")
    assert told["classifier"].endswith("classifier")
    assert (told["device"], told["dtype"], told["classifier_dtype"]) == ("cpu", "float32", "float32")
    assert told["model_fingerprint"] != told["classifier_fingerprint"]


def test_a_text_too_long_in_its_template_is_refused(segmenter):
    with pytest.raises(
        InputError,
        match=r"The text 'x .*\.\.\.' has \d+ tokens when worded as '.*', but CLIP reads at most 77; shorten it\.",
    ):
        segmenter.segment(photo(20, 20), ["x " * 74])


# What cannot be chosen


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta:x", "", "meta", "hpu", "privateuseone", "vulkan", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(
        InputError, match=rf"There is no device '{device}' on this machine; use 'auto', 'cpu', 'cuda', 'mps', 'xpu'\."
    ):
        choose_device(device)


def test_the_cpu_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")


def test_an_unknown_precision_is_refused():
    with pytest.raises(
        InputError, match=r"Expected dtype to be one of auto, float32, bfloat16, float16, but got 'int8'\."
    ):
        choose_dtype("int8", torch.device("cpu"), "openai/clip-vit-base-patch16")


@pytest.mark.parametrize("fast", [True, False])
def test_auto_takes_bfloat16_where_the_processor_multiplies_it_fast(monkeypatch, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast, "amx_bf16": False})
    chosen = choose_dtype("auto", torch.device("cpu"), "openai/clip-vit-base-patch16")
    assert chosen == (torch.bfloat16 if fast else torch.float32)
    assert choose_dtype("auto", torch.device("cpu"), "tiny") == torch.float32


def test_an_unknown_preset_is_refused_before_anything_is_loaded():
    with pytest.raises(InputError, match=r"No preset named 'tny'\. Did you mean 'tiny'\?"):
        load_segmenter("tny")


def test_an_unknown_setting_is_refused_before_anything_is_loaded():
    with pytest.raises(InputError, match=r"No setting named 'scores_threshold'\. Did you mean 'score_threshold'\?"):
        load_segmenter("default", scores_threshold=0.5)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"tiny"}))
def test_every_preset_runs_on_given_models(name, tmp_path):
    sam = {"sam": save_random_sam(tmp_path, "sam_hq"), "sam_points_per_side": 2} if PRESETS[name].refine.sam else {}
    segmenter = load_segmenter(name, **MODELS, **sam, max_side_px=32, crf_iterations=1)
    result = segmenter.segment(photo(24, 32), ["cat", "dog"])
    assert result.size_hw == (24, 32)
    assert result.queries == ("cat", "dog")
