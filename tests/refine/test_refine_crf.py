"""The last stage against its definition on whole arrays, mode by mode, with and without the CRF."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_as_rnn.dense_crf.crf import Bilateral, DenseCrf, Gaussian
from clip_as_rnn.ops import upsample_maps
from clip_as_rnn.refine import crf
from clip_as_rnn.refine.base import MaskRefiner
from clip_as_rnn.refine.crf import CrfRefiner, wrap_colors

GOLDEN = Path(__file__).parents[1] / "golden"
KERNELS = (Gaussian(xy=2, weight=3), Bilateral(xy=20, rgb=13, weight=4))


def photo() -> np.ndarray:
    """Cut a piece out of a photo."""
    return np.ascontiguousarray(np.load(GOLDEN / "crf_open_5.npz")["image"][40:72, 60:108])


def soft_masks(texts: int, seed: int = 0) -> torch.Tensor:
    """Make proposals (texts, 3, 4) in [0, 1] of which some are equal and some 0 or 1."""
    drawn = np.random.default_rng(seed).random((texts, 3, 4), dtype=np.float32)
    return torch.from_numpy(np.clip(np.round(drawn * 5 - 0.5) / 4, 0, 1))


def slowly(refiner: CrfRefiner, image: np.ndarray, masks: torch.Tensor) -> torch.Tensor:
    """Hold all (1 + n) probabilities at once and refine them, the background first."""
    texts = upsample_maps(masks, image.shape[:2])
    background = (1 - texts.amax(0, keepdim=True)).clamp(min=0) ** refiner.background_factor
    probabilities = torch.cat([background, texts])
    if not refiner.crf:
        return probabilities
    colors = image if refiner.crf_image == "rgb" else wrap_colors(image)
    return DenseCrf(colors, refiner.kernels).infer(probabilities, iterations=refiner.iterations)


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("factor", [1.0, 2.5])
@pytest.mark.parametrize("texts", [1, 3, 8])
def test_a_label_map_is_the_arg_max_over_background_and_texts(texts: int, factor: float, is_on: bool) -> None:
    refiner = CrfRefiner(crf=is_on, kernels=KERNELS, background_factor=factor)
    labels = refiner.refine(photo(), soft_masks(texts))
    np.testing.assert_array_equal(labels, slowly(refiner, photo(), soft_masks(texts)).argmax(0).numpy())
    assert len(np.unique(labels)) > 1


@pytest.mark.parametrize("texts", [1, 3, 8, 9])
def test_where_probabilities_are_too_many_to_keep_labels_stay_the_same(
    texts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refiner = CrfRefiner(kernels=KERNELS)
    expected = refiner.refine(photo(), soft_masks(texts))
    monkeypatch.setattr(crf, "_FLOATS_KEPT", 0)
    assert (refiner.refine(photo(), soft_masks(texts)) == expected).mean() > 0.998


@settings(max_examples=20, deadline=None)
@given(texts=st.integers(1, 5), factor=st.sampled_from([0.5, 1.0, 2.0]), seed=st.integers(0, 99))
def test_without_a_crf_ties_go_to_the_background_then_to_the_earlier_text(texts: int, factor: float, seed: int) -> None:
    refiner, image = CrfRefiner(crf=False, background_factor=factor), np.zeros((3, 4, 3), np.uint8)
    masks = soft_masks(texts, seed)
    expected = slowly(refiner, image, masks).numpy().argmax(0)
    np.testing.assert_array_equal(refiner.refine(image, masks), expected)


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("texts", [1, 2, 5])
def test_in_referring_mode_every_text_stands_alone_against_the_background(texts: int, is_on: bool) -> None:
    refiner = CrfRefiner(mode="referring", crf=is_on, kernels=KERNELS)
    masks = refiner.refine(photo(), soft_masks(texts))
    assert masks.dtype == bool
    for mask, one in zip(masks, soft_masks(texts), strict=True):
        np.testing.assert_array_equal(mask, slowly(refiner, photo(), one[None]).argmax(0).numpy() == 1)


@pytest.mark.parametrize("mode", ["semantic", "referring"])
def test_marginals_are_what_the_masks_are_made_of(mode: str) -> None:
    refiner = CrfRefiner(mode=mode, kernels=KERNELS)
    masks = soft_masks(3)
    marginals = refiner.marginals(photo(), masks)
    assert marginals.shape == (3, 32, 48)
    if mode == "semantic":
        torch.testing.assert_close(marginals, slowly(refiner, photo(), masks)[1:], rtol=0, atol=0)
    else:
        np.testing.assert_array_equal(marginals.numpy() > 0.5, refiner.refine(photo(), masks))


def test_without_a_crf_marginals_are_the_enlarged_proposals() -> None:
    masks = soft_masks(2)
    assert torch.equal(CrfRefiner(crf=False).marginals(photo(), masks), upsample_maps(masks, (32, 48)))


@pytest.mark.parametrize("mode", ["semantic", "referring"])
def test_masks_and_marginals_of_one_inference_are_those_of_two(mode: str) -> None:
    refiner, masks = CrfRefiner(mode=mode, kernels=KERNELS), soft_masks(3)
    refined, marginals = refiner.refine_softly(photo(), masks)
    np.testing.assert_array_equal(refined, refiner.refine(photo(), masks))
    torch.testing.assert_close(marginals, refiner.marginals(photo(), masks), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["semantic", "referring"])
def test_marginals_hold_no_more_than_the_texts_and_one_background(mode: str) -> None:
    _, marginals = CrfRefiner(mode=mode, kernels=KERNELS).refine_softly(photo(), soft_masks(3))
    assert marginals is not None
    assert marginals.untyped_storage().nbytes() <= 4 * (1 + 3) * 32 * 48


@pytest.mark.parametrize("mode", ["semantic", "referring"])
@pytest.mark.parametrize(("texts", "is_on", "kept"), [(0, True, 1 << 26), (3, False, 1 << 26), (3, True, 0)])
def test_marginals_that_are_not_there_or_too_many_are_none(
    mode: str, texts: int, is_on: bool, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crf, "_FLOATS_KEPT", kept)
    refiner, masks = CrfRefiner(mode=mode, crf=is_on, kernels=KERNELS), soft_masks(texts)
    refined, marginals = refiner.refine_softly(photo(), masks)
    assert marginals is None
    np.testing.assert_array_equal(refined, refiner.refine(photo(), masks))


@pytest.mark.parametrize("is_on", [True, False])
def test_no_texts_give_nothing_but_background(is_on: bool) -> None:
    nothing = torch.zeros(0, 3, 4)
    labels = CrfRefiner(crf=is_on).refine(photo(), nothing)
    assert labels.shape == (32, 48)
    assert not labels.any()
    referring = CrfRefiner(mode="referring", crf=is_on)
    assert referring.refine(photo(), nothing).shape == (0, 32, 48)
    assert referring.marginals(photo(), nothing).shape == (0, 32, 48)


def test_the_image_of_the_release_gives_other_edges() -> None:
    plain, wrapped = CrfRefiner(kernels=KERNELS), CrfRefiner(kernels=KERNELS, crf_image="bgr-wrapped")
    labels = wrapped.refine(photo(), soft_masks(3))
    np.testing.assert_array_equal(labels, slowly(wrapped, photo(), soft_masks(3)).argmax(0).numpy())
    assert (labels != plain.refine(photo(), soft_masks(3))).any()


def test_soft_masks_in_half_precision_are_taken() -> None:
    masks = soft_masks(3)  # multiples of 1/4: exact in any precision
    np.testing.assert_array_equal(
        CrfRefiner(kernels=KERNELS).refine(photo(), masks.bfloat16()),
        CrfRefiner(kernels=KERNELS).refine(photo(), masks),
    )


def test_a_crf_refiner_is_a_mask_refiner() -> None:
    assert isinstance(CrfRefiner(), MaskRefiner)
