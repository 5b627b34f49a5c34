"""What the data sets hold that are read back, for readers in environments that have numpy and nothing of ours.

A folder has two of each format: `things` (a ring, an object of two parts, one with two holes, one of a single pixel; a
picture where nothing is found; names with commas, quotes, slashes, a colon) and `many` (300 texts, all found).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

Masks = Mapping[str, np.ndarray]  # by text


@dataclass(frozen=True)
class Truth:
    """One set of pictures: the folder of its data sets, the texts asked, and what was found in each picture."""

    name: str
    folder: Path
    classes: tuple[str, ...]
    pictures: Mapping[str, Masks]  # by the picture's name


def read_truth(folder: Path) -> list[Truth]:
    """Read what `write_samples` wrote."""
    truths = []
    for described in sorted(folder.glob("*/truth.json")):
        content = json.loads(described.read_text(encoding="utf-8"))
        stored = np.load(described.with_suffix(".npz"))
        pictures = {
            name: {text: stored[f"{i}"] for text, i in numbered.items()}
            for name, numbered in content["pictures"].items()
        }
        name = described.parent.name
        truths.append(Truth(name, described.parent, tuple(content["classes"]), pictures))
    return truths


def compare(tool: str, format_name: str, truth: Truth, read: Mapping[str, Masks], joined_px: int = 0) -> bool:
    """Print one row of a table; return whether all masks are there and differ in no more than `joined_px` pixels."""
    expected = {(name, text) for name, masks in truth.pictures.items() for text in masks}
    got = {(name, text) for name, masks in read.items() for text in masks}
    differing = [
        int((np.asarray(read[name][text], bool) != truth.pictures[name][text]).sum()) for name, text in expected & got
    ]
    equal = differing.count(0)
    good = expected == got and set(read) == set(truth.pictures) and max(differing, default=0) <= joined_px
    sizes = f"{len(read)} pictures, {len(truth.classes)} texts"
    most = f"; at most {max(differing)} pixels differ" if any(differing) else ""
    lost = f"; missing {sorted(expected - got)[:3]}, too many {sorted(got - expected)[:3]}" if expected != got else ""
    verdict = "" if good else " **NOT AS WRITTEN**"
    told = f"{equal} of {len(expected)} masks equal{most}{lost}{verdict}"
    print(f"| {tool} {version(tool)} | `{format_name}` | {truth.name}: {sizes} | {told} |", flush=True)  # noqa: T201
    return good
