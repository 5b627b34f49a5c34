"""The dense CRF against recorded marginals of the reference, against all pairs, and at its limits."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_as_rnn.dense_crf import crf
from clip_as_rnn.dense_crf.crf import Bilateral, DenseCrf, Gaussian, refine
from clip_as_rnn.dense_crf.kernels import Kernel
from clip_as_rnn.errors import InputError
from slow_crf import GOLDEN, SOFT, infer_exactly, infer_points_exactly, make_problem

PAPER = (Gaussian(xy=1, weight=3), Bilateral(xy=67, rgb=3, weight=4))


@pytest.mark.parametrize("labels", [2, 5])
def test_marginals_are_those_of_the_reference_implementation(labels: int) -> None:
    case = np.load(GOLDEN / f"crf_open_{labels}.npz")
    kernels = (
        Gaussian(xy=float(case["pos_xy"]), weight=float(case["pos_w"])),
        Bilateral(xy=float(case["bi_xy"]), rgb=float(case["bi_rgb"]), weight=float(case["bi_w"])),
    )
    ours = refine(case["image"], case["probabilities"], kernels=kernels, iterations=int(case["iterations"]))
    assert np.abs(ours - case["q"]).max() < 5e-5
    assert (ours.argmax(0) == case["q"].argmax(0)).all()


@pytest.mark.parametrize(
    ("labels", "kernels", "iterations", "mean", "same"),
    [  # in the comments what was measured: mean difference, and share of pixels with the same first label
        (2, PAPER[:1], 1, 0.0015, 0.995),  # 0.0010, 0.998
        (2, PAPER[:1], 10, 0.006, 0.995),  # 0.0045, 1.000
        (2, PAPER, 1, 0.006, 0.99),  # 0.0045, 0.993
        (2, PAPER, 10, 0.03, 0.97),  # 0.0267, 0.972
        (5, PAPER, 1, 0.003, 0.985),  # 0.0021, 0.988
        (5, PAPER, 10, 0.006, 0.98),  # 0.0046, 0.986
        (5, SOFT, 10, 0.005, 0.985),  # 0.0038, 0.991
    ],
)
def test_marginals_follow_the_sum_over_all_pairs(
    labels: int, kernels: tuple[Kernel, ...], iterations: int, mean: float, same: float
) -> None:
    """One update is close everywhere; ten let the few pixels that could go either way decide otherwise."""
    case = np.load(GOLDEN / f"crf_open_{labels}.npz")
    image, probabilities = case["image"][40:58, 60:84], case["probabilities"][:, 40:58, 60:84]
    ours = refine(image, probabilities, kernels=kernels, iterations=iterations)
    exact = infer_exactly(image, probabilities, kernels, iterations)
    assert np.abs(ours - exact).mean() < mean
    assert (ours.argmax(0) == exact.argmax(0)).mean() > same
    assert np.abs(exact - probabilities).mean() > 10 * mean  # the field has something to do


def test_compatibilities_follow_the_sum_over_all_pairs() -> None:
    image, probabilities = make_problem(3)
    costs = np.array([[0, 1, 0.2], [1, 0, 2], [0.2, 2, 0]])
    ours = refine(image, probabilities, kernels=SOFT, compatibility=costs)
    difference = np.abs(ours - infer_exactly(image, probabilities, SOFT, 10, costs))
    assert difference.mean() < 0.002  # measured 0.0013
    assert difference.max() < 0.02  # measured 0.012
    assert np.abs(ours - refine(image, probabilities, kernels=SOFT)).max() > 0.1


def test_potts_is_one_minus_the_identity() -> None:
    image, probabilities = make_problem(3)
    explicit = refine(image, probabilities, compatibility=1 - np.eye(3))
    np.testing.assert_allclose(explicit, refine(image, probabilities), atol=1e-5)


def test_only_the_symmetric_part_of_a_compatibility_counts() -> None:
    image, probabilities = make_problem(2)
    lopsided = refine(image, probabilities, compatibility=np.array([[0, 2], [0, 0]]))
    np.testing.assert_allclose(lopsided, refine(image, probabilities), atol=1e-5)


def test_unaries_are_negative_logarithms_of_probabilities() -> None:
    image, probabilities = make_problem(4)
    given = refine(image, unaries=-np.log(probabilities), kernels=SOFT)
    np.testing.assert_allclose(given, refine(image, probabilities, kernels=SOFT), atol=1e-6)


def test_no_iteration_and_no_kernel_leave_the_probabilities() -> None:
    image, probabilities = make_problem(4)
    np.testing.assert_allclose(refine(image, probabilities, iterations=0), probabilities, atol=1e-6)
    np.testing.assert_allclose(refine(image, probabilities, kernels=()), probabilities, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(labels=st.integers(1, 9), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_marginals_sum_to_one_at_any_size(labels: int, height: int, width: int, seed: int) -> None:
    image, probabilities = make_problem(labels, height, width, seed)
    marginals = refine(image, probabilities, iterations=3)
    assert marginals.shape == probabilities.shape
    assert marginals.dtype == np.float32
    assert marginals.min() >= 0
    np.testing.assert_allclose(marginals.sum(0), 1, atol=1e-5)


def test_the_order_of_labels_does_not_matter() -> None:
    image, probabilities = make_problem(6)
    order = [3, 0, 5, 1, 4, 2]
    np.testing.assert_allclose(refine(image, probabilities[order]), refine(image, probabilities)[order], atol=2e-4)


def test_one_label_takes_everything() -> None:
    image, probabilities = make_problem(1)
    assert (refine(image, probabilities) == 1).all()


def test_one_pixel_keeps_the_stronger_label() -> None:
    marginals = refine(np.zeros((1, 1, 3), np.uint8), np.array([0.3, 0.7], np.float32).reshape(2, 1, 1))
    assert marginals[1, 0, 0] > 0.9


def test_a_constant_image_smooths_over_space() -> None:
    probabilities = np.full((2, 20, 20), 0.5, np.float32)
    probabilities[0, :, :10] += 0.3
    probabilities[1] = 1 - probabilities[0]
    marginals = refine(np.full((20, 20, 3), 77, np.uint8), probabilities)
    assert np.isfinite(marginals).all()
    assert (marginals.argmax(0) == 0).all()


def test_certain_probabilities_give_finite_marginals() -> None:
    image, probabilities = make_problem(3)
    certain = (probabilities == probabilities.max(0)).astype(np.float32)
    marginals = refine(image, certain)
    assert np.isfinite(marginals).all()
    np.testing.assert_allclose(marginals.sum(0), 1, atol=1e-5)


def test_many_labels_are_as_good_as_few() -> None:
    """Labels that nobody believes in change nothing."""
    image, probabilities = make_problem(2)
    padded = np.concatenate([probabilities, np.zeros((298, *probabilities.shape[1:]), np.float32)])
    few, many = refine(image, probabilities, kernels=SOFT), refine(image, padded, kernels=SOFT)
    np.testing.assert_allclose(many[:2], few, atol=0.01)
    assert many[2:].max() < 1e-3


def test_rounding_out_of_range_is_forgiven() -> None:
    image, probabilities = make_problem(2)
    assert np.isfinite(refine(image, probabilities * np.float32(1.0001) - np.float32(1e-8))).all()


def test_layout_and_kind_of_the_input_do_not_matter() -> None:
    image, probabilities = make_problem(3)
    expected = refine(image, probabilities)
    flipped = refine(np.ascontiguousarray(image[:, ::-1])[:, ::-1], np.asfortranarray(probabilities))
    np.testing.assert_array_equal(flipped, expected)
    np.testing.assert_array_equal(refine(image, probabilities.astype(np.float64)), expected)
    tensor = torch.from_numpy(probabilities).requires_grad_()
    on_tensors = refine(torch.from_numpy(image), tensor)
    assert isinstance(on_tensors, torch.Tensor)
    assert not on_tensors.requires_grad
    np.testing.assert_array_equal(on_tensors.numpy(), expected)
    halves = refine(image, torch.from_numpy(probabilities).half())
    assert halves.dtype == torch.float32


def test_inputs_stay_as_they_are() -> None:
    image, probabilities = make_problem(3)
    before = image.copy(), probabilities.copy()
    image.setflags(write=False)
    probabilities.setflags(write=False)
    marginals = refine(image, probabilities)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(probabilities, before[1])
    assert marginals.flags.writeable
    energies = -np.log(probabilities)
    kept = energies.copy()
    refine(image, unaries=energies)
    np.testing.assert_array_equal(energies, kept)


def test_one_field_serves_many_problems() -> None:
    image, first = make_problem(2, seed=1)
    _, second = make_problem(2, seed=2)
    field = DenseCrf(image)
    together = field.infer(np.stack([first, second, first]))
    assert together.shape == (3, *first.shape)
    for result, alone in zip(together, (first, second, first), strict=True):
        np.testing.assert_allclose(result, refine(image, alone), atol=2e-4)


def test_problems_that_do_not_fit_at_once_are_inferred_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    image, probabilities = make_problem(2)
    problems = np.stack([probabilities, probabilities[::-1], probabilities])
    whole = refine(image, problems)
    monkeypatch.setattr(crf, "FLOATS_AT_ONCE", 2 * problems[0].size)
    np.testing.assert_allclose(refine(image, problems), whole, atol=2e-4)


def test_a_batch_of_images_is_refined_one_by_one() -> None:
    pairs = [make_problem(3, seed=seed) for seed in (0, 1)]
    images, problems = (np.stack(rows) for rows in zip(*pairs, strict=True))
    images[1] = 255 - images[1]
    for result, image, problem in zip(refine(images, problems), images, problems, strict=True):
        np.testing.assert_array_equal(result, refine(image, problem))
    with pytest.raises(InputError, match=r"need probabilities \(b, n, h, w\), got \(1, 3, 18, 24\)"):
        refine(images, problems[:1])


def make_clip() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Make a clip (t, h, w, 3) drifting over a photo, probabilities (n, t, h, w), and points in 3 and 6 dimensions."""
    photo = np.load(GOLDEN / "crf_open_5.npz")["image"]
    clip = np.stack([photo[40:52, 60 + t : 74 + t] for t in range(5)])
    probabilities = np.stack([make_problem(3, 12, 14, seed)[1] for seed in range(5)], 1)
    t, y, x = np.mgrid[:5, :12, :14]
    place = np.stack([x / 3, y / 3, t / 1.5]).reshape(3, -1)
    color = np.moveaxis(clip, -1, 0).reshape(3, -1) / 30
    return clip, probabilities, [place, np.concatenate([place / 3, color])]


@pytest.mark.parametrize(
    ("dimensions", "mean", "same"),
    [  # in the comments what was measured
        ((3,), 0.003, 0.98),  # 0.0022, 0.985
        ((6,), 0.012, 0.99),  # 0.0105, 1.000
        ((3, 6), 0.002, 0.99),  # 0.0008, 0.999
    ],
)
def test_points_of_any_dimension_follow_the_sum_over_all_pairs(
    dimensions: tuple[int, ...], mean: float, same: float
) -> None:
    clip, probabilities, points = make_clip()
    features = [one for one in points if len(one) in dimensions]
    weights = [3.0 if len(one) == 3 else 5.0 for one in features]
    field = DenseCrf.from_features([one.astype(np.float32) for one in features], weights, clip.shape[:3])
    ours = field.infer(probabilities, iterations=5)
    exact = infer_points_exactly(features, weights, probabilities, 5)
    assert np.abs(ours - exact).mean() < mean
    assert (ours.argmax(0) == exact.argmax(0)).mean() > same
    assert np.abs(exact - probabilities).mean() > 10 * mean  # the field has something to do


def test_the_points_of_an_image_give_the_field_of_that_image() -> None:
    image, probabilities = make_problem(3)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    features, weights = [kernel.features(pixels) for kernel in SOFT], [kernel.weight for kernel in SOFT]
    field = DenseCrf.from_features(features, weights, image.shape[:2])
    np.testing.assert_array_equal(field.infer(probabilities), refine(image, probabilities, kernels=SOFT))
    np.testing.assert_array_equal(
        DenseCrf.from_features([one.double().numpy() for one in features], weights, (18 * 24,))
        .infer(probabilities.reshape(3, -1))
        .reshape(probabilities.shape),
        refine(image, probabilities, kernels=SOFT),
    )


@pytest.mark.parametrize(
    ("features", "weights", "message"),
    [
        ([np.zeros((2, 5))], [1.0], r"Expected features \(d, 6\) for points laid out as \(2, 3\), got \(2, 5\)"),
        ([np.zeros((0, 6))], [1.0], r"got \(0, 6\)"),
        ([np.zeros((2, 2, 3))], [1.0], r"got \(2, 2, 3\)"),
        ([np.full((2, 6), np.nan)], [1.0], "features hold values that are not finite"),
        ([np.zeros((2, 6))], [], "one weight per kernel, got 0 weights for 1 kernels"),
        ([np.zeros((2, 6))], [float("inf")], "finite kernel weight, got inf"),
    ],
)
def test_points_that_do_not_fit_are_refused(features: list[np.ndarray], weights: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DenseCrf.from_features(features, weights, (2, 3))


@pytest.mark.parametrize(
    ("probabilities", "labels", "iterations", "message"),
    [
        (torch.zeros(2, 18, 23), 2, 1, r"Expected probabilities \(2, 18, 24\), got \(2, 18, 23\)"),
        (torch.full((2, 18, 24), torch.inf), 2, 1, "probabilities hold values that are not finite"),
        (torch.full((2, 18, 24), 1.5), 2, 1, r"in \[0, 1\], got values from 1.5 to 1.5"),
        (torch.zeros(0, 18, 24), 0, 1, "one label or more, got 0"),
        (torch.zeros(2, 18, 24), 2, -1, "0 or more, got -1"),
    ],
)
def test_probabilities_on_demand_that_cannot_be_used_are_refused(
    probabilities: torch.Tensor, labels: int, iterations: int, message: str
) -> None:
    image, _ = make_problem(2)
    with pytest.raises(InputError, match=message):
        DenseCrf(image).infer_labels(lambda first, last: probabilities[first:last], labels, iterations=iterations)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((18, 24, 3), np.float32)}, r"Expected a uint8 image \(h, w, 3\), got torch.float32"),
        ({"image": np.zeros((18, 24), np.uint8)}, r"Expected a uint8 image \(h, w, 3\), got torch.uint8"),
        ({"image": np.zeros((18, 24, 4), np.uint8)}, r"got torch.uint8 of shape \(18, 24, 4\)"),
        ({"image": np.zeros((17, 24, 3), np.uint8)}, r"Expected probabilities \(n, 17, 24\).*got \(2, 18, 24\)"),
        ({"image": np.zeros((0, 24, 3), np.uint8)}, "Expected a uint8 image"),
        ({"probabilities": np.zeros((0, 18, 24), np.float32)}, r"got \(0, 18, 24\)"),
        ({"probabilities": np.full((2, 18, 24), np.nan, np.float32)}, "not finite"),
        ({"probabilities": np.full((2, 18, 24), np.inf, np.float32)}, "not finite"),
        ({"probabilities": np.full((2, 18, 24), 1.5, np.float32)}, r"in \[0, 1\], got values from 1.5 to 1.5"),
        ({"unaries": np.zeros((2, 18, 24), np.float32)}, "either probabilities or unaries"),
        ({"probabilities": None}, "either probabilities or unaries"),
        ({"probabilities": None, "unaries": np.full((2, 18, 24), np.nan)}, "unaries hold values that are not finite"),
        ({"iterations": -1}, "0 or more, got -1"),
        ({"compatibility": np.eye(3)}, r"compatibility matrix \(2, 2\), got \(3, 3\)"),
        ({"compatibility": np.full((2, 2), np.nan)}, "compatibilities hold values that are not finite"),
        ({"kernels": (Bilateral(xy=1e-4, rgb=1e-5, weight=1),)}, "standard deviations are too small"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(change: dict[str, object], message: str) -> None:
    image, probabilities = make_problem(2)
    arguments = {"image": image, "probabilities": probabilities, **change}
    with pytest.raises(InputError, match=message):
        refine(**arguments)


def test_importing_the_package_leaves_the_compiler_alone() -> None:
    program = "import sys, clip_as_rnn; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_crf_imports_nothing_else_of_this_package() -> None:
    program = (
        "import sys, clip_as_rnn.dense_crf; print(*sorted(n for n in sys.modules if n.startswith('clip_as_rnn.')))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    others = {name for name in answer.stdout.split() if not name.startswith("clip_as_rnn.dense_crf")}
    assert others == {"clip_as_rnn.errors"}
