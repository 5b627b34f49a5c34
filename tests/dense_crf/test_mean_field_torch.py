"""Mean-field inference by whole tensors, against the compiled one."""

import numpy as np
import pytest
import torch

from clip_as_rnn.dense_crf import crf
from clip_as_rnn.dense_crf.crf import DenseCrf, refine
from slow_crf import GOLDEN, SOFT, make_problem


@pytest.mark.parametrize("compatibility", [None, [[0, 1, 0.5], [1, 0, 1], [0.5, 1, 0]]])
def test_accelerators_compute_the_same(
    compatibility: list[list[float]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code for accelerators, here on the processor, against the compiled one."""
    image, probabilities = make_problem(3)
    problems = np.stack([probabilities, probabilities[[1, 2, 0]]])
    ours = refine(image, problems, kernels=SOFT, compatibility=compatibility)
    monkeypatch.setattr(crf, "CpuMeanField", lambda features, weights, *_: crf.TorchMeanField(features, weights))
    np.testing.assert_allclose(refine(image, problems, kernels=SOFT, compatibility=compatibility), ours, atol=2e-4)
    one = problems[:, :1]
    assert (refine(image, one) == 1).all()
    found = DenseCrf(image, SOFT).infer_labels(lambda first, last: torch.from_numpy(probabilities[first:last]), 3)
    assert (found.numpy() == refine(image, probabilities, kernels=SOFT).argmax(0)).mean() > 0.995
    np.testing.assert_allclose(refine(image, probabilities, kernels=()), probabilities, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none")
@pytest.mark.parametrize("labels", [2, 5])
def test_gpus_compute_the_same(labels: int) -> None:
    case = np.load(GOLDEN / f"crf_open_{labels}.npz")
    image, probabilities = torch.from_numpy(case["image"]), torch.from_numpy(case["probabilities"])
    expected = refine(image, probabilities)
    first = refine(image.cuda(), probabilities.cuda())
    assert first.device.type == "cuda"
    np.testing.assert_allclose(first.cpu().numpy(), expected.numpy(), atol=2e-3)
    assert torch.equal(first, refine(image, probabilities.cuda()))  # the probabilities choose the device; it repeats
