"""Results to files: pictures, label maps, masks, JSON with COCO run lengths, arrays.

Every file is written beside its name and then moved there, so that none is ever seen half-written, whatever interrupts.
The JSON is the record of a run: it goes first and comes last, so that where it is, all is. Knows nothing of models;
what is to be said of the image and of the settings is passed in.
"""

import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args
from uuid import uuid4

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image
from pycocotools import mask as coco

from clip_as_rnn.errors import InputError
from clip_as_rnn.ops import encode_rle
from clip_as_rnn.result import Segmentation
from clip_as_rnn.types import RgbImage
from clip_as_rnn.visualization.colors import colors
from clip_as_rnn.visualization.overlay import draw_overlay
from clip_as_rnn.visualization.steps import draw_recurrence

Format = Literal["overlay", "figure", "labels", "masks", "json", "npz"]
FORMATS: tuple[Format, ...] = get_args(Format)

BACKGROUND = "background"  # the name of label 0
_MAX_UINT8 = 255
_NAME_BYTES = 80  # of a text in a file name; file systems allow 255 for all of it


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


def prepare_folder(folder: Path) -> None:
    """Make a folder and try to write to it, before any work is done for it.

    Raises:
        InputError: it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"Expected an output folder that can be written, but got {str(folder)!r}: {reason}."
        raise InputError(message) from error


def save(result: Result, folder: Path, *, stem: str, formats: Sequence[Format]) -> list[Path]:
    """Write a result in each format. An earlier JSON of that stem is removed first and the new one written last.

    Of an earlier run's masks those go that its JSON names; other files in their folder are left alone.

    Returns the paths written, in the order of `FORMATS`; for `masks`, the folder that holds one PNG per text.

    Raises:
        InputError: a file cannot be written, or the figure is asked without a trace.
    """
    (record,) = _targets(folder, stem, "json")
    before = _recorded_masks(record)
    try:
        if "json" in formats:
            record.unlink(missing_ok=True)
        for name in (name for name in FORMATS if name in formats and name not in ("masks", "json")):
            _WRITERS[name](result, *_targets(folder, stem, name))
        if "masks" in formats:
            _write_masks(result, *_targets(folder, stem, "masks"), before=before)
        if "json" in formats:
            _write_json(record, to_json(result))
    except OSError as error:
        raise InputError(f"The results cannot be written to {str(folder)!r}: {error.strerror or error}.") from error
    return planned_paths(folder, stem, formats)


def planned_paths(folder: Path, stem: str, formats: Sequence[Format]) -> list[Path]:
    """List the paths that `save` writes."""
    return [path for name in FORMATS if name in formats for path in _targets(folder, stem, name)]


def _targets(folder: Path, stem: str, name: Format) -> tuple[Path, ...]:
    return tuple(folder / f"{stem}{ending}" for ending in _ENDINGS[name])


def to_json(result: Result) -> dict[str, Any]:
    """Describe a result in numbers, lists and words only.

    `classes[v]` names label v of the label map. Boxes are x, y, width, height in pixels from the top left; `rle` is
    COCO's compressed run-length encoding, column by column.
    """
    segmentation = result.segmentation
    height, width = segmentation.size_hw
    rows = zip(segmentation.texts, segmentation.scores.tolist(), segmentation.masks, strict=True)
    return {
        "size": {"width": width, "height": height},
        "queries": list(segmentation.queries),
        "classes": [BACKGROUND, *segmentation.texts],
        "found": [_found(label, *row) for label, row in enumerate(rows, 1)],
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
    _write_png(path, Image.fromarray(draw_overlay(result.image, result.segmentation)))


def _write_figure(result: Result, path: Path) -> None:
    _write_png(path, Image.fromarray(draw_recurrence(result.image, result.segmentation)))


def _write_labels(result: Result, path: Path, classes_path: Path) -> None:
    """Write the label map, 8 bits with a palette while that holds all labels, else 16 bits; and the labels' names."""
    labels, count = result.segmentation.label_map(), len(result.segmentation.texts)
    if count <= _MAX_UINT8:
        picture = Image.fromarray(labels.astype(np.uint8))
        picture.putpalette([0, 0, 0, *colors(count).flatten().tolist()])
    else:
        picture = Image.fromarray(labels.astype(np.uint16))
    _write_png(path, picture)
    names = [BACKGROUND, *result.segmentation.texts]
    _write_json(classes_path, {str(label): name for label, name in enumerate(names)})


def _write_masks(result: Result, folder: Path, *, before: frozenset[str]) -> None:
    """Write one black-and-white PNG per text; they take the place of the files named in `before`, all at once."""
    part = _part(folder)
    try:
        part.mkdir()
        for label, (text, mask) in enumerate(zip(result.segmentation.texts, result.segmentation.masks, strict=True), 1):
            _write_png(part / mask_name(label, text), Image.fromarray(mask.astype(np.uint8) * 255))
        _swap_in(part, folder, before)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(part, ignore_errors=True)
        raise


def _swap_in(part: Path, folder: Path, before: frozenset[str]) -> None:
    """Move a complete folder to its place; where that holds files of somebody else, they stay, and ours join them."""
    written = [path.name for path in part.iterdir()]
    for name in before.union(written):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # it is not there, or not empty
        folder.rmdir()
    if not folder.is_dir():
        part.replace(folder)
        return
    for name in written:
        (part / name).replace(folder / name)
    part.rmdir()


def _recorded_masks(record: Path) -> frozenset[str]:
    """List the names of the masks that an earlier run wrote, by its JSON; none if there is no such JSON."""
    found = read_record(record).get("found")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    named = [(row.get("label"), row.get("text")) for row in rows]
    return frozenset(
        mask_name(label, text) for label, text in named if isinstance(label, int) and isinstance(text, str)
    )


def read_record(path: Path) -> Mapping[str, Any]:
    """Read the JSON of an earlier run; empty where there is none or where it is another's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_npz(result: Result, path: Path) -> None:
    """Write the arrays; texts are plain unicode arrays, so that nothing needs unpickling."""
    segmentation = result.segmentation
    with _replacing(path) as file:
        np.savez_compressed(
            file,
            masks=segmentation.masks,
            scores=segmentation.scores,
            texts=np.array(segmentation.texts, dtype=np.str_),
            queries=np.array(segmentation.queries, dtype=np.str_),
        )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    with _replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))  # file names that are not Unicode become JSON escapes


def _write_png(path: Path, picture: Image.Image) -> None:
    with _replacing(path) as file:
        picture.save(file, format="PNG")


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its place at `path` only once it is complete."""
    part = _part(path)
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    except BaseException:  # Ctrl-C too
        part.unlink(missing_ok=True)
        raise


def _part(path: Path) -> Path:
    """Name a place in the same folder, for a move within one file system is atomic."""
    return path.with_name(f".{uuid4().hex}.part")


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
    "npz": _write_npz,
}
