"""Label Studio's side of a prediction: the texts are the labels of a project, the answers are its regions.

The texts of a label are its attribute `hint` where it has one, else its value. Masks answer `<BrushLabels>`, boxes
`<RectangleLabels>`; a project with both gets both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from clip_as_rnn.errors import InputError
from clip_as_rnn.export.label_studio import encode_brush
from clip_as_rnn.result import Segmentation
from clip_as_rnn.types import Mask

_CONTROLS = {"BrushLabels": "brushlabels", "RectangleLabels": "rectanglelabels"}
_MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Control:
    """One tag of a project by which regions are labeled.

    Attributes:
        kind: brushlabels or rectanglelabels.
        from_name, to_name: of the tag, and of the image it belongs to.
        data_key: under which a task names that image.
        labels: the label of each text.
    """

    kind: str
    from_name: str
    to_name: str
    data_key: str
    labels: Mapping[str, str]


def read_controls(config: str) -> list[Control]:
    """Read a project's labeling configuration.

    Raises:
        InputError: it is no such XML, or nothing in it takes masks or boxes of an image.
    """
    if len(config) > _MOST_CHARACTERS or "<!" in config.replace("<!--", ""):  # a DTD, whose entities could multiply
        raise InputError("Expected a labeling configuration without a document type and below a million characters.")
    try:
        root = ElementTree.fromstring(config)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"The labeling configuration is not XML: {error}.") from error
    keys = {tag.get("name"): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")}
    controls = [_control(tag, keys) for tag in root.iter() if tag.tag in _CONTROLS]
    found = [control for control in controls if control is not None]
    if not found:
        names = " or ".join(f"<{name}>" for name in _CONTROLS)
        raise InputError(f"Expected {names} with labels, to an <Image> with a value, in the labeling configuration.")
    return found


def _control(tag: ElementTree.Element, keys: Mapping[str | None, str]) -> Control | None:
    """Read one tag; None where it has no labels or belongs to no image."""
    values = [(label.get("hint"), label.get("value") or "") for label in tag.iter("Label")]
    labels = {hint or value: value for hint, value in values if (hint or value).strip()}
    to_name = tag.get("toName", "")
    if not labels or not keys.get(to_name):
        return None
    return Control(_CONTROLS[tag.tag], tag.get("name", ""), to_name, keys[to_name], labels)


def texts_of(controls: Iterable[Control]) -> list[str]:
    """List what is to be looked for, each text once."""
    return list(dict.fromkeys(text for control in controls for text in control.labels))


def prediction(
    controls: Iterable[Control], segmentation: Segmentation, masks: Iterable[Mask], version: str
) -> dict[str, Any]:
    """Describe what was found in one image as a prediction; its score is the mean of its regions' scores.

    `masks` are those of the texts found, in order; they are asked for one by one.
    """
    chosen = list(controls)
    height, width = segmentation.size_hw
    regions: list[dict[str, Any]] = []
    rows = zip(segmentation.texts, segmentation.scores.tolist(), segmentation.boxes.tolist(), masks, strict=True)
    for text, score, box, mask in rows:
        for control in (one for one in chosen if text in one.labels):
            label = [control.labels[text]]
            brush = control.kind == "brushlabels"
            value = {"format": "rle", "rle": encode_brush(mask)} if brush else _rectangle(box, width, height)
            region = {"id": f"car{len(regions) + 1}", "type": control.kind, "score": score}
            region |= {"from_name": control.from_name, "to_name": control.to_name, "image_rotation": 0}
            region |= {"original_width": width, "original_height": height, "value": {**value, control.kind: label}}
            regions.append(region)
    scores = segmentation.scores
    return {"model_version": version, "score": float(scores.mean()) if len(scores) else 0.0, "result": regions}


def _rectangle(box_xyxy: list[int], width: int, height: int) -> dict[str, float]:
    """Write a box in per cent of the image's sides."""
    x0, y0, x1, y1 = box_xyxy
    share = {"x": x0 / width, "y": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
    return {**{name: 100 * part for name, part in share.items()}, "rotation": 0}
