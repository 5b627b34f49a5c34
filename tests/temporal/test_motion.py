"""Traces of things that move by a known way, and maps averaged along them."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from clip_as_rnn.temporal.motion import coarsen_traces, trace_motion
from clip_as_rnn.temporal.smoothing import smooth_frame, smooth_maps

GRID_HW = (12, 16)
PATCH_PX = 8


def moving_blocks(steps_px: int, frames: int = 5) -> list[np.ndarray]:
    """Move a textured ground to the right, so many pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 40, 3), dtype=np.uint8)
    wide = cv2.resize(noise, (320, 96), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(wide[:, 100 - t * steps_px : 228 - t * steps_px]) for t in range(frames)]


def bumps(column: float) -> torch.Tensor:
    """Make a smooth map (1, gh, gw) that is greatest in one column of patches."""
    columns = torch.arange(GRID_HW[1]).float()
    return torch.exp(-((columns - column) ** 2) / 8).expand(1, *GRID_HW).contiguous()


def test_a_map_read_where_things_were_lies_where_they_are():
    traces = trace_motion(moving_blocks(PATCH_PX), GRID_HW, 3)
    for offset in (-3, -1):
        before = bumps(6 + offset)  # what lies at 6 now lay there
        read = traces[3][offset].sample(before)
        assert (read - bumps(6))[:, 2:-2, 4:-4].abs().mean() < 0.06
        assert (before - bumps(6))[:, 2:-2, 4:-4].abs().mean() > 0.1


def test_traces_end_with_the_clip_and_at_the_radius():
    traces = trace_motion(moving_blocks(2), GRID_HW, 2)
    assert [sorted(one) for one in traces] == [[1, 2], [-1, 1, 2], [-2, -1, 1, 2], [-2, -1, 1], [-2, -1]]


def test_what_looks_otherwise_is_trusted_little():
    frames = moving_blocks(0, frames=2)
    frames[1] = frames[1].copy()
    frames[1][:, :64] = 255 - frames[1][:, :64] // 3
    likeness = trace_motion(frames, GRID_HW, 1)[0][1].likeness
    assert likeness[:, 10:].min() > 0.9
    assert likeness[:, :6].mean() < 0.2


def test_frames_too_small_for_flow_stand_still():
    traces = trace_motion([np.zeros((6, 8, 3), np.uint8)] * 2, (3, 4), 1)
    maps = torch.rand(2, 3, 4)
    assert torch.allclose(traces[0][1].sample(maps), maps, atol=1e-6)


def test_smoothing_is_a_weighted_mean_along_the_traces():
    traces = trace_motion(moving_blocks(3, frames=3), GRID_HW, 2)
    maps = torch.rand(3, 2, *GRID_HW, generator=torch.Generator().manual_seed(0))
    held = np.array([[True, True], [True, False], [True, True]])
    smoothed = smooth_maps(maps, held, traces, 1.5)
    near, far = np.exp(-1 / 1.5), np.exp(-2 / 1.5)
    shares = [near * traces[0][1].likeness, far * traces[0][2].likeness]
    read = [traces[0][1].sample(maps[1]), traces[0][2].sample(maps[2])]
    expected = (maps[0, 0] + shares[0] * read[0][0] + shares[1] * read[1][0]) / (1 + shares[0] + shares[1])
    assert torch.allclose(smoothed[0, 0], expected, atol=1e-6)
    expected = (maps[0, 1] + shares[1] * read[1][1]) / (1 + shares[1])  # the middle frame has dropped the text
    assert torch.allclose(smoothed[0, 1], expected, atol=1e-6)


@pytest.mark.parametrize("frames", [0.5, 5.0])
def test_a_map_that_stands_still_stays_as_it_is(frames):
    still = moving_blocks(0)
    maps = torch.rand(1, 1, *GRID_HW).expand(5, 1, -1, -1)
    smoothed = smooth_maps(maps, np.ones((5, 1), bool), trace_motion(still, GRID_HW, 2), frames)
    assert torch.allclose(smoothed, maps, atol=1e-3)


def disc(column: float, radius_px: float) -> torch.Tensor:
    """Draw a disc (1, h, w) around a column."""
    rows, columns = np.mgrid[:96, :128]
    return torch.from_numpy(np.hypot(rows - 45, columns - column) < radius_px).float()[None]


def count_errors(maps: torch.Tensor, truth: torch.Tensor) -> int:
    """Count the pixels on the wrong side of one half."""
    grown = functional.interpolate(maps[None], size=truth.shape[1:], mode="bilinear")[0]
    return int(((grown > 0.5) != (truth > 0)).sum())


@pytest.mark.parametrize(("noise", "of_one_frame", "of_patches"), [(0.0, 1.0, 0.9), (0.15, 0.65, 0.9), (0.3, 0.3, 0.9)])
def test_a_finer_grid_keeps_the_edges_that_averages_over_patches_blur(noise, of_one_frame, of_patches):
    alone, by_scale = 0, {1: 0, 4: 0}
    for radius_px in (10, 12, 16, 19, 25):
        chance = torch.Generator().manual_seed(0)
        maps = torch.stack([functional.avg_pool2d(disc(50 + 3 * t, radius_px), PATCH_PX) for t in range(7)])
        maps += noise * torch.randn(maps.shape, generator=chance)
        truth = disc(50 + 3 * 3, radius_px)
        alone += count_errors(maps[3], truth)
        for scale in by_scale:
            traces = trace_motion(moving_blocks(3, frames=7), (scale * GRID_HW[0], scale * GRID_HW[1]), 3)
            smoothed = smooth_frame(maps, np.ones((7, 1), bool), 3, traces[3], 3.0)
            by_scale[scale] += count_errors(smoothed, truth)
    assert by_scale[4] < of_one_frame * alone
    assert by_scale[4] < of_patches * by_scale[1]


def test_a_coarser_trace_is_the_mean_of_the_finer_one():
    fine, coarse = (
        trace_motion(moving_blocks(4, frames=2), (scale * GRID_HW[0], scale * GRID_HW[1]), 1)[0][1] for scale in (4, 1)
    )
    pooled = coarsen_traces({-1: fine}, 4)[-1]
    assert torch.allclose(pooled.places, coarse.places, atol=0.02)
    assert pooled.likeness[3, 5] == pytest.approx(fine.likeness[12:16, 20:24].mean().item(), abs=1e-6)
