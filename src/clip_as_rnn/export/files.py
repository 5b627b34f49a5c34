"""Results to files: pictures, label maps, masks, JSON with COCO run lengths, arrays.

What a run makes of one picture is staged beside its place and then moved there, in the place of what an earlier run
made of it; the JSON, which records the run, goes first and comes last. So whatever interrupts, no file is half-written,
files of two runs never stand side by side, and where the JSON is, all is.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pycocotools import mask as coco

from clip_as_rnn.errors import InputError
from clip_as_rnn.io.atomic import staging, write_json
from clip_as_rnn.io.images import DAMAGE, quiet_pillow
from clip_as_rnn.io.label_maps import write_label_map
from clip_as_rnn.ops import encode_rle, narrowest
from clip_as_rnn.result import Segmentation
from clip_as_rnn.types import RgbImage
from clip_as_rnn.visualization.colors import colors
from clip_as_rnn.visualization.overlay import draw_overlay
from clip_as_rnn.visualization.steps import draw_recurrence

Format = Literal["overlay", "figure", "labels", "masks", "json", "npz"]
FORMATS: tuple[Format, ...] = get_args(Format)

BACKGROUND = "background"  # the name of label 0
_NAME_BYTES = 80  # of a text in a file name; file systems allow 255 for all of it
_SIGNATURE = ("Software", "clip-as-rnn")  # in the PNG of a mask: it is ours to replace
_OF_A_RUN = ("seconds", "notes", "formats")  # what may differ in the JSON of two runs with the same result


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Everything that is written about one image.

    Attributes:
        segmentation: what was found.
        image: the image it was found in.
        about: what the JSON shall hold besides, for instance the image's file and the settings.
    """

    segmentation: Segmentation
    image: RgbImage
    about: Mapping[str, Any] = field(default_factory=dict)


def save(result: Result, folder: Path, *, stem: str, formats: Sequence[Format]) -> list[Path]:
    """Write a result in each format, in the place of what an earlier run wrote under that stem.

    Outputs that the earlier run's JSON records in other formats go, too, unless its result is the same as this one's;
    then the JSON names the formats of both. In the folder of masks, files of somebody else are left alone.

    Returns the paths written, in the order of `FORMATS`; for `masks`, the folder that holds one PNG per text.

    Raises:
        InputError: a file cannot be written, or the figure is asked without a trace.
    """
    (record,) = _targets(folder, stem, "json")
    earlier = read_record(record)
    try:
        with staging(folder, stem) as stage:
            for name in (name for name in FORMATS if name in formats and name != "json"):
                _WRITERS[name](result, *_targets(stage, stem, name))
            recorded = recorded_formats(earlier)
            content = to_json(result) if "json" in (*formats, *recorded) else {}
            keeps = _is_same_result(earlier, content)
            standing = tuple(name for name in FORMATS if name in formats or (keeps and name in recorded))
            if "json" in standing:
                write_json(stage / record.name, {**content, "formats": list(standing)})
            leaving = (*formats, "json") if keeps else (*formats, *recorded)
            _move_in(stage, folder, stem, leaving)
    except OSError as error:
        raise InputError(f"The results cannot be written to {str(folder)!r}: {error.strerror or error}.") from error
    return planned_paths(folder, stem, formats)


def planned_paths(folder: Path, stem: str, formats: Sequence[Format]) -> list[Path]:
    """List the paths that `save` writes."""
    return [path for name in FORMATS if name in formats for path in _targets(folder, stem, name)]


def _targets(folder: Path, stem: str, name: Format) -> tuple[Path, ...]:
    return tuple(folder / f"{stem}{ending}" for ending in _ENDINGS[name])


def _move_in(stage: Path, folder: Path, stem: str, leaving: Sequence[str]) -> None:
    """Take away the earlier outputs in the formats `leaving`, the JSON first, and move in what is staged, it last."""
    (record,) = _targets(folder, stem, "json")
    (masks,) = _targets(folder, stem, "masks")
    old = planned_paths(folder, stem, [name for name in FORMATS if name in leaving])
    new = [path for path in planned_paths(stage, stem, FORMATS) if path.exists()]
    for path in new:
        if (folder / path.name).exists() and (folder / path.name).is_dir() != path.is_dir():
            raise FileExistsError(17, f"{path.name} is in the way", str(folder / path.name))
    aside = stage / "before"
    aside.mkdir()
    for path in sorted(old, key=lambda path: path != record):
        if path.is_file():
            path.replace(aside / path.name)
        elif path == masks and path.is_dir():
            _take_away_masks(path, aside)
    for path in sorted(new, key=lambda path: path.name == record.name):
        target = folder / path.name
        if target.is_dir():  # it holds files of somebody else
            for mask in path.iterdir():
                mask.replace(target / mask.name)
        else:
            path.replace(target)


def _take_away_masks(masks: Path, aside: Path) -> None:
    """Remove what we wrote into a folder of masks, all of it at once if nothing else is in it."""
    ours = [path for path in masks.iterdir() if _is_ours(path)]
    if len(ours) == sum(1 for _ in masks.iterdir()) and not masks.is_symlink():
        masks.replace(aside / masks.name)
        return
    for path in ours:
        path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Tell whether a file is a mask that we wrote."""
    key, value = _SIGNATURE
    if not path.is_file() or path.suffix != ".png":
        return False
    with suppress(*DAMAGE), quiet_pillow(), Image.open(path, formats=["PNG"]) as picture:
        return bool(picture.info.get(key) == value)
    return False


def _is_same_result(earlier: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Tell whether two descriptions are of one result, so that files of both may stand side by side."""
    return bool(earlier) and _lasting(earlier) == json.loads(json.dumps(_lasting(content)))


def _lasting(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in _OF_A_RUN}


def read_record(path: Path) -> Mapping[str, Any]:
    """Read the JSON of an earlier run; empty where there is none or where it is another's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def recorded_formats(record: Mapping[str, Any]) -> tuple[Format, ...]:
    """List the formats in which the JSON of an earlier run says that its outputs are; none where it is another's."""
    named = record.get("formats")
    return tuple(name for name in FORMATS if name in named) if isinstance(named, list) and "queries" in record else ()


def to_json(result: Result) -> dict[str, Any]:
    """Describe a result in numbers, lists and words only.

    `classes[v]` names label v of the label map. Boxes are x, y, width, height in pixels from the top left; `rle` is
    COCO's compressed run-length encoding, column by column. With SAM, `sam` says what was decided about a mask.
    """
    segmentation = result.segmentation
    height, width = segmentation.size_hw
    rows = zip(segmentation.texts, segmentation.scores.tolist(), segmentation.each_mask(), strict=True)
    found = [_found(label, *row) for label, row in enumerate(rows, 1)]
    for one in found:
        if (refinement := segmentation.refinements.get(one["text"])) is not None:
            one["sam"] = refinement.in_words()
    return {
        "size": {"width": width, "height": height},
        "queries": list(segmentation.queries),
        "classes": [BACKGROUND, *segmentation.texts],
        "found": found,
        "rejected": [asdict(rejection) for rejection in segmentation.rejections],
        "seconds": dict(segmentation.seconds),
        **result.about,
    }


def _found(label: int, text: str, score: float, mask: Bool[ndarray, "h w"]) -> dict[str, Any]:
    rle = encode_rle(mask)
    return {
        "text": text,
        "label": label,
        "score": score,
        "area_px": int(mask.sum()),
        "box_xywh": [int(value) for value in coco.toBbox(rle)],
        "rle": rle,
    }


def mask_name(label: int, text: str) -> str:
    """Name a mask's file by its label and what file systems accept of its text."""
    words = re.sub(r"\W+", "-", unicodedata.normalize("NFC", text)).strip("-_")
    short = words.encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"{label:03d}_{short}.png" if short else f"{label:03d}.png"


def _write_overlay(result: Result, path: Path) -> None:
    Image.fromarray(draw_overlay(result.image, result.segmentation)).save(path)


def _write_figure(result: Result, path: Path) -> None:
    Image.fromarray(draw_recurrence(result.image, result.segmentation)).save(path)


def _write_labels(result: Result, path: Path, classes_path: Path) -> None:
    """Write the label map, and the labels' names."""
    texts = result.segmentation.texts
    labels = result.segmentation.label_map(dtype=narrowest(len(texts)))  # of the largest pictures little enough
    write_label_map(path, labels, palette=colors(len(texts)))
    write_json(classes_path, {str(label): name for label, name in enumerate([BACKGROUND, *texts])})


def _write_masks(result: Result, folder: Path) -> None:
    """Write one black-and-white PNG per text."""
    signature = PngInfo()
    signature.add_text(*_SIGNATURE)
    folder.mkdir()
    for label, (text, mask) in enumerate(
        zip(result.segmentation.texts, result.segmentation.each_mask(), strict=True), 1
    ):
        Image.fromarray(mask.view(np.uint8) * 255).save(folder / mask_name(label, text), pnginfo=signature)


def _write_npz(result: Result, path: Path) -> None:
    """Write the arrays; texts are plain unicode arrays, so that nothing needs unpickling."""
    segmentation = result.segmentation
    np.savez_compressed(
        path,
        masks=segmentation.masks,
        scores=segmentation.scores,
        texts=np.array(segmentation.texts, dtype=np.str_),
        queries=np.array(segmentation.queries, dtype=np.str_),
    )


_ENDINGS: Mapping[Format, tuple[str, ...]] = {
    "overlay": ("_overlay.png",),
    "figure": ("_figure.png",),
    "labels": ("_labels.png", "_labels.json"),
    "masks": ("_masks",),
    "json": (".json",),
    "npz": (".npz",),
}
_WRITERS: Mapping[Format, Callable[..., None]] = {
    "overlay": _write_overlay,
    "figure": _write_figure,
    "labels": _write_labels,
    "masks": _write_masks,
    "npz": _write_npz,
}
