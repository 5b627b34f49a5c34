"""The CRF over a clip against the mean field over all pairs of its pixels, and against that of its frames."""

import numpy as np
import pytest
import torch

from clip_as_rnn.dense_crf.kernels import Bilateral, Gaussian
from clip_as_rnn.ops import upsample_maps
from clip_as_rnn.refine import crf
from clip_as_rnn.refine.clip_crf import ClipMasks
from clip_as_rnn.refine.crf import CrfRefiner
from slow_crf import GOLDEN, infer_points_exactly

KERNELS = (Gaussian(xy=2, weight=2), Bilateral(xy=10, rgb=30, weight=3))
SIZE_HW = (10, 14)


def clip(frames: int = 3) -> np.ndarray:
    """Cut a window out of a photo that passes over it."""
    image = np.load(GOLDEN / "crf_open_5.npz")["image"]
    height, width = SIZE_HW
    return np.stack([image[40 : 40 + height, 60 + 2 * t : 60 + 2 * t + width] for t in range(frames)])


def clip_masks(texts: list[list[int]]) -> ClipMasks:
    """Make soft masks of these texts, frame by frame."""
    generator = torch.Generator().manual_seed(1)
    maps = [torch.rand(len(of_frame), 5, 7, generator=generator) ** 2 for of_frame in texts]
    return ClipMasks(maps, [np.array(of_frame, dtype=np.int64) for of_frame in texts])


def exact_marginals(images: np.ndarray, soft: np.ndarray, deviations: tuple[float, float], iterations: int):
    """Run the mean field over (x, y, t) and (x, y, t, r, g, b)."""
    times, rows, columns = np.mgrid[: images.shape[0], : images.shape[1], : images.shape[2]]
    features = [
        [columns / 2, rows / 2, times / deviations[0]],
        [columns / 10, rows / 10, times / deviations[1], *(images[..., c] / 30 for c in range(3))],
    ]
    points = [np.stack(planes).reshape(len(planes), -1) for planes in features]
    return infer_points_exactly(points, [2.0, 3.0], soft, iterations)


@pytest.mark.parametrize("mode", ["semantic", "referring"])
def test_frames_are_refined_as_one_volume(mode):
    images, masks = clip(), clip_masks([[0, 2], [0, 1, 2], [0, 1, 2]])
    refiner = CrfRefiner(mode=mode, kernels=KERNELS, iterations=3, kernel_frames=(0.8, 1.5))
    refined = refiner.refine_clip(images, masks)
    soft = np.zeros((3, *images.shape[:3]), np.float32)
    for t, (maps, texts) in enumerate(zip(masks.maps, masks.texts, strict=True)):
        soft[texts, t] = upsample_maps(maps, SIZE_HW)
    if mode == "semantic":
        exact = exact_marginals(images, np.concatenate([1 - soft.max(0, keepdims=True), soft]), (0.8, 1.5), 3)[1:]
    else:
        exact = np.stack([exact_marginals(images, np.stack([1 - one, one]), (0.8, 1.5), 3)[1] for one in soft])
    for t, (frame, texts) in enumerate(zip(refined, masks.texts, strict=True)):
        marginals = frame.probabilities
        assert marginals.shape == (len(texts), *SIZE_HW)
        assert np.abs(marginals.numpy() - exact[texts, t]).mean() < 0.03  # the lattice is an approximation


@pytest.mark.parametrize("mode", ["semantic", "referring"])
def test_frames_far_apart_in_time_are_refined_one_by_one(mode):
    images, masks = clip(), clip_masks([[0, 1], [0, 1], [0, 1]])
    refiner = CrfRefiner(mode=mode, kernels=KERNELS, kernel_frames=(0.02, 0.02))
    for joint, image, maps in zip(refiner.refine_clip(images, masks), images, masks.maps, strict=True):
        assert (joint.masks == refiner.refine(image, maps)).mean() > 0.97


def test_a_text_that_a_frame_dropped_has_no_row_there():
    masks = clip_masks([[3], [], [1, 3]])
    labels = [found.masks for found in CrfRefiner(kernels=KERNELS).refine_clip(clip(), masks)]
    assert [int(one.max()) <= len(texts) for one, texts in zip(labels, masks.texts, strict=True)] == [True] * 3
    assert not labels[1].any()
    cut = [found.masks.shape for found in CrfRefiner(mode="referring", kernels=KERNELS).refine_clip(clip(), masks)]
    assert cut == [(1, *SIZE_HW), (0, *SIZE_HW), (2, *SIZE_HW)]


def test_nothing_kept_gives_empty_frames():
    refined = CrfRefiner(kernels=KERNELS).refine_clip(clip(2), clip_masks([[], []]))
    assert [found.masks.any() for found in refined] == [False, False]


def test_frames_that_do_not_fit_into_memory_are_refined_in_parts(monkeypatch):
    images, masks = clip(4), clip_masks([[0, 1]] * 4)
    refiner = CrfRefiner(kernels=KERNELS, kernel_frames=(0.02, 0.02))
    whole = refiner.refine_clip(images, masks)
    monkeypatch.setattr(crf, "_FLOATS_KEPT", 3 * 2 * SIZE_HW[0] * SIZE_HW[1])
    parts = refiner.refine_clip(images, masks)
    for one, other in zip(whole, parts, strict=True):
        assert (one.masks == other.masks).mean() > 0.97
