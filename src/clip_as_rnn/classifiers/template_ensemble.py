"""What features of masks are compared with: texts in several templates, and contrast texts that share the softmax."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clip_as_rnn.encoders.base import TextEncoder, Tick, VisionLanguageEncoder, ignore_tick
from clip_as_rnn.prompts.queries import normalize_text
from clip_as_rnn.prompts.templates import fill
from clip_as_rnn.types import Features, Scores, TextIndices


def ensemble_features(
    images: Float[Tensor, "m d"], texts: Float[Tensor, "t n d"], scale: float
) -> Float[Tensor, "m n"]:
    """Softmax over texts of the cosine to each text's mean feature over its templates."""
    means = torch.nn.functional.normalize(texts.mean(0), dim=1)
    return torch.softmax(scale * images @ means.T, dim=1)


def ensemble_probabilities(
    images: Float[Tensor, "m d"], texts: Float[Tensor, "t n d"], scale: float
) -> Float[Tensor, "m n"]:
    """Softmax over texts of the sum over templates of each template's softmax, as the authors' release scores."""
    probabilities = torch.softmax(scale * images @ texts.transpose(1, 2), dim=2)  # t m n
    return torch.softmax(probabilities.sum(0), dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierTexts:
    """Texts as stage 2 compares them with masks.

    Attributes:
        features: (t, n + c, d) of n queries and c contrast texts in t templates.
        queries: n.
    """

    features: Float[Tensor, "t m d"]
    queries: int


class TemplateEnsemble:
    """Words texts in every template, and scores features of masks against them."""

    def __init__(
        self,
        encoder: VisionLanguageEncoder,
        encode_text: TextEncoder,
        *,
        templates: Sequence[str],
        ensemble: Literal["feature", "probability"],
        contrast_texts: Sequence[str],
    ) -> None:
        self._encoder = encoder
        self._encode_text = encode_text
        self._templates = tuple(templates)
        self._probabilities = ensemble_features if ensemble == "feature" else ensemble_probabilities
        self._contrast_texts = tuple(contrast_texts)

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise InputError if a text in one of the templates is too long for the encoder."""
        for template in self._templates:
            self._encoder.check_lengths(texts, template)

    def encode_texts(self, texts: Sequence[str], tick: Tick = ignore_tick) -> ClassifierTexts:
        """Encode the queries, and after them the contrast texts that nobody asked for, one template after another."""
        asked = {normalize_text(text) for text in texts}
        candidates = [*texts, *(text for text in self._contrast_texts if normalize_text(text) not in asked)]
        features = []
        for i, template in enumerate(self._templates, start=1):
            counted = _count_on(tick, i * len(candidates), len(self._templates) * len(candidates))
            features.append(self._encode_text(fill(template, candidates), counted))
        return ClassifierTexts(torch.stack(features), len(texts))

    def score(self, features: Features, texts: ClassifierTexts, active: TextIndices) -> Scores:
        """Score row i against query `active[i]`: its share among the active queries and the contrast texts."""
        columns = np.concatenate([active, np.arange(texts.queries, texts.features.shape[1])])
        probabilities = self._probabilities(features, texts.features[:, columns], self._encoder.logit_scale)
        return probabilities.diagonal().cpu().numpy().astype(np.float32)


def _count_on(tick: Tick, until: int, total: int) -> Tick:
    """Count the texts of one template, the last of which is piece `until` of `total`."""

    def counted(done: int, unknown: int) -> None:
        tick(until - unknown + done, total)

    return counted
