"""CVAT's side of automatic annotation: `cvat-cli` and its agent load this module by name and call `create`.

    cvat-cli task auto-annotate TASK --function-module clip_as_rnn.integrations.cvat -p 'labels=str:Cat=a tabby cat,cup'

Only still pictures, as CVAT has it. Needs cvat-sdk, which comes with cvat-cli.
"""

from collections.abc import Iterator
from typing import Any

import cvat_sdk.auto_annotation as cvat
from cvat_sdk.masks import encode_mask
from cvat_sdk.models import LabeledShapeRequest
from PIL.Image import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.export.polygons import join_rings, trace_parts
from clip_as_rnn.loading import load_segmenter
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.types import Mask

_SHAPES = ("mask", "polygon", "rectangle")


def create(labels: str = "", shape: str = "mask", **options: Any) -> "DetectionFunction":
    """Load a segmenter as an annotation function.

    Args:
        labels: the labels of the task to annotate, with commas. What is looked for is the label itself, or what
            follows it after `=`.
        shape: what is drawn: mask, polygon or rectangle.
        options: `preset`, `model`, `device`, any setting: what `load_segmenter` takes.

    Raises:
        CarError: no labels, labels that CLIP cannot tell apart, or what `load_segmenter` raises.
    """
    texts = read_labels(labels)
    if shape not in _SHAPES:
        raise InputError(f"Expected shape to be one of {', '.join(_SHAPES)}, but got {shape!r}.")
    return DetectionFunction(load_segmenter(**options), texts, shape)


def read_labels(words: str) -> dict[str, str]:
    """Read `label,label=text,...` as the text to look for of each label.

    Raises:
        InputError: there are none, one has no name, or two of them are the same to CLIP.
    """
    pairs = [pair.partition("=") for pair in words.split(",") if pair.strip()]
    texts = {label.strip(): (text or label).strip() for label, _, text in pairs}
    if "" in texts:
        raise InputError(f"Expected a label before each `=`, but got {words!r}.")
    if len(texts) < len(pairs) or len(check_texts(texts.values())) < len(texts):
        raise InputError(f"Expected labels with a text of their own each, but CLIP cannot tell some apart: {words!r}.")
    return texts


class DetectionFunction:
    """What CVAT calls for every picture of a task.

    Args:
        segmenter: what finds.
        texts: what to look for, of each label.
        shape: what is drawn; CVAT's labels must be of that type, or of any.
    """

    def __init__(self, segmenter: Segmenter, texts: dict[str, str], shape: str) -> None:
        self._segmenter = segmenter
        self._texts = tuple(texts.values())
        self._shape = shape
        segmenter.check_texts(self._texts)
        self.spec = cvat.DetectionFunctionSpec(
            labels=[cvat.label_spec(label, number, type=shape) for number, label in enumerate(texts)]
        )

    def detect(self, context: cvat.DetectionFunctionContext, image: Image) -> list[LabeledShapeRequest]:
        """Annotate one picture with what scores at least the threshold that CVAT was given, if any.

        What the segmenter rejects by its own setting `score_threshold` is not there for a lower one.
        """
        found = self._segmenter.segment(image, self._texts)
        shape = "polygon" if self._shape == "mask" and context.conv_mask_to_poly else self._shape
        return [
            cvat.shape(self._texts.index(text), type=shape, points=points, score=float(score))
            for text, score, mask in zip(found.texts, found.scores, found.masks, strict=True)
            if score >= (context.conf_threshold or 0.0) and mask.any()
            for points in _points(mask, shape)
        ]


def _points(mask: Mask, shape: str) -> Iterator[list[float]]:
    """Draw a mask that is not empty: as one mask, as one polygon for each part, or as the box around it."""
    if shape == "polygon":
        for part in trace_parts(mask):
            yield join_rings([part.border, *part.holes]).ravel().astype(float).tolist()
        return
    encoded: list[float] = encode_mask(mask)
    x0, y0, x1, y1 = encoded[-4:]  # the last two inside
    yield encoded if shape == "mask" else [x0, y0, x1 + 1, y1 + 1]
