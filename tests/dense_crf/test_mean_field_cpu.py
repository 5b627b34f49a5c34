"""Mean-field inference on the processor: the same numbers from any number of threads, in one buffer or in none."""

import numpy as np
import pytest
import torch

from clip_as_rnn.dense_crf.crf import DenseCrf, refine
from slow_crf import SOFT, make_problem


@pytest.mark.parametrize("labels", [2, 23])
def test_results_repeat_whatever_the_number_of_threads(labels: int) -> None:
    image, probabilities = make_problem(labels)
    results = [DenseCrf(image, threads=threads).infer(probabilities) for threads in (1, 1, 2, 5)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("labels", [1, 2, 8, 9, 21])
@pytest.mark.parametrize("threads", [1, 3])
def test_labels_inferred_without_keeping_probabilities_are_the_most_probable(labels: int, threads: int) -> None:
    image, array = make_problem(labels)
    probabilities = torch.from_numpy(array)
    field = DenseCrf(image, SOFT, threads=threads)
    found = field.infer_labels(lambda first, last: probabilities[first:last], labels, iterations=4)
    marginals = field.infer(probabilities, iterations=4)
    ranked = marginals.sort(0).values
    is_clear = (ranked[-1] - ranked[-2] > 1e-4) if labels > 1 else torch.ones(18, 24, dtype=torch.bool)
    assert is_clear.float().mean() > 0.98
    assert torch.equal(found[is_clear], marginals.argmax(0)[is_clear])
    assert np.array_equal(probabilities, make_problem(labels)[1])


def test_of_equal_labels_the_earlier_is_inferred() -> None:
    image, probabilities = make_problem(1)
    equal = torch.from_numpy(probabilities).expand(12, -1, -1)
    assert (DenseCrf(image).infer_labels(lambda first, last: equal[first:last], 12) == 0).all()


def test_memory_is_used_again_where_the_caller_allows_it() -> None:
    image, probabilities = make_problem(5)
    expected, tensor = refine(image, probabilities), torch.from_numpy(probabilities.copy())
    ours = DenseCrf(image).infer(tensor, overwrite=True)
    assert ours.data_ptr() == tensor.data_ptr()
    np.testing.assert_array_equal(ours.numpy(), expected)
