"""The permutohedral lattice against the sum it approximates, and its two implementations against each other."""

import numpy as np
import pytest
import torch

from clip_as_rnn.dense_crf import lattice_cpu, lattice_torch
from clip_as_rnn.dense_crf.lattice import plan_geometry
from clip_as_rnn.dense_crf.threads import ThreadPool
from clip_as_rnn.errors import InputError

# Mean and largest difference between weighted averages by the lattice and by the exact Gaussian, on the points below.
# Measured were 0.0136 and 0.049 (d = 2), 0.0148 and 0.089 (3), 0.0192 and 0.124 (5), 0.0296 and 0.160 (6).
MEASURED = {2: (0.015, 0.06), 3: (0.017, 0.10), 5: (0.021, 0.14), 6: (0.031, 0.17)}


def make_points(d: int, n: int = 2000, seed: int = 0) -> np.ndarray:
    """Scatter points over a cube of four standard deviations."""
    return (np.random.default_rng(seed).random((d, n)) * 4).astype(np.float32)


def make_values(points: np.ndarray) -> np.ndarray:
    """Mark one side of a wave, and count."""
    return np.stack([np.sin(points).sum(0) > 0.4 * len(points), np.ones(points.shape[1])]).astype(np.float32)


def filter_exactly(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Compute the sum over all pairs in float64."""
    squares = ((points[:, :, None].astype(np.float64) - points[:, None]) ** 2).sum(0)
    return values.astype(np.float64) @ np.exp(-squares / 2)


def filter_on_processor(points: np.ndarray, values: np.ndarray, threads: int = 1) -> np.ndarray:
    """Filter up to four channels."""
    blocks = np.zeros((1, values.shape[1], 1, 4), np.float32)
    blocks[0, :, 0, : len(values)] = values.T
    with ThreadPool(threads) as pool:
        lattice_cpu.LatticeFilter([lattice_cpu.build_lattice(points, pool)], pool).apply(blocks)
    return blocks[0, :, 0, : len(values)].T


@pytest.mark.parametrize("d", [2, 3, 5, 6])
def test_weighted_averages_follow_the_exact_gaussian(d: int) -> None:
    points = make_points(d)
    values = make_values(points)
    ours, exact = filter_on_processor(points, values), filter_exactly(points, values)
    difference = np.abs(ours[0] / ours[1] - exact[0] / exact[1])
    mean, largest = MEASURED[d]
    assert difference.mean() < mean
    assert difference.max() < largest
    assert np.abs(values[0] - exact[0] / exact[1]).mean() > 10 * mean  # the filter has something to do


@pytest.mark.parametrize("d", [1, 2, 3, 5, 6])
def test_both_implementations_agree(d: int) -> None:
    points = make_points(d)
    values = make_values(points)
    ours = filter_on_processor(points, values)
    theirs = lattice_torch.build_lattice(torch.from_numpy(points)).filter(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    points = make_points(5, n=3001)
    values = make_values(points)
    np.testing.assert_array_equal(filter_on_processor(points, values, threads), filter_on_processor(points, values))


def test_filtering_is_linear_and_symmetric() -> None:
    points = make_points(3, n=300)
    matrix = np.concatenate(
        [filter_on_processor(points, rows) for rows in np.eye(300, dtype=np.float32).reshape(75, 4, 300)]
    )
    values = np.random.default_rng(1).random((1, 300), dtype=np.float32)
    np.testing.assert_allclose(values @ matrix, filter_on_processor(points, values), rtol=1e-5)
    np.testing.assert_allclose(matrix.sum(0), matrix.sum(1), rtol=0.2)  # the order of the directions breaks symmetry
    assert (matrix >= 0).all()


def test_a_lone_point_receives_its_own_value_only() -> None:
    points = np.array([[0.0, 0.3, 900.0], [0.0, 0.1, -900.0]], np.float32)
    ours = filter_on_processor(points, np.array([[1, 1, 0], [0, 0, 1]], np.float32))
    assert ours[0, 2] == 0
    assert (ours[1, :2] == 0).all()
    assert ours[1, 2] > 0


def test_equal_points_share_all_corners() -> None:
    points = np.tile(np.array([[1.7], [-3.2], [0.4]], np.float32), (1, 64))
    ours = filter_on_processor(points, np.ones((1, 64), np.float32))
    assert np.ptp(ours) == 0
    assert ours[0, 0] == pytest.approx(64 * filter_on_processor(points[:, :1], np.ones((1, 1), np.float32))[0, 0])


def test_normalized_filters_follow_the_normalized_gaussian() -> None:
    points = make_points(2, n=500)
    sums = np.ones((1, 500, 1, 4), np.float32)
    with ThreadPool(1) as pool:
        table = lattice_cpu.normalize(lattice_cpu.build_lattice(points, pool), 3.0, pool)
        lattice_cpu.LatticeFilter([table], pool).apply(sums)
    kernel = np.exp(-((points[:, :, None].astype(np.float64) - points[:, None]) ** 2).sum(0) / 2)
    root = kernel.sum(1) ** -0.5
    np.testing.assert_allclose(sums[0, :, 0, 0], 3 * root * (kernel @ root), rtol=0.06)  # measured 0.044


def test_hash_tables_grow() -> None:
    points = np.random.default_rng(0).random((5, 12_000)).astype(np.float32) * 200  # nearly every corner is its own
    with ThreadPool(2) as pool:
        table = lattice_cpu.build_lattice(points, pool)
    assert table.neighbors.shape[1] > 6 * lattice_cpu.SMALLEST_TABLE  # so grown twice
    ours = filter_on_processor(points, np.ones((1, 12_000), np.float32))
    theirs = lattice_torch.build_lattice(torch.from_numpy(points)).filter(torch.ones(1, 12_000)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)


def test_keys_that_would_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"standard deviations are too small.*use larger ones"):
        plan_geometry([0] * 5, [1e6] * 5)


def test_without_a_folder_for_the_cache_code_still_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    real = lattice_cpu.numba.njit

    def njit(**options: bool) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(lattice_cpu.numba, "njit", njit)
    assert lattice_cpu.compiled(lambda x: x + 1)(1) == 2
