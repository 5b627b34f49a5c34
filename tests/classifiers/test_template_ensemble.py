"""Both ways of putting templates together, on features alone."""

import pytest
import torch

from clip_as_rnn.classifiers.template_ensemble import ensemble_features, ensemble_probabilities


def test_one_template_makes_the_feature_ensemble_a_plain_softmax():
    images = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(1, 3, 8), dim=2)
    plain = torch.softmax(5.0 * images @ texts[0].T, dim=1)
    torch.testing.assert_close(ensemble_features(images, texts, 5.0), plain)


@pytest.mark.parametrize("ensemble", [ensemble_features, ensemble_probabilities])
def test_scores_of_an_image_sum_to_one_over_the_texts(ensemble):
    images = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(15, 7, 8), dim=2)
    torch.testing.assert_close(ensemble(images, texts, 100.0).sum(1), torch.ones(4))
