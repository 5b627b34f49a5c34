"""Write every data set of the samples in `truth`; run by `make test-formats`, in this project's environment."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from clip_as_rnn.export.base import Sample
from clip_as_rnn.export.datasets import DATASET_FORMATS, open_datasets
from clip_as_rnn.result import Segmentation

THINGS = ("cat, black", 'a "big" dog', "train/bus", "it's <&>: 红", "point", "absent")
SIZE_HW = (30, 41)
MANY = 300
GRID_HW = (15, 20)  # of the many
CELL_PX = 6


def draw_things() -> dict[str, np.ndarray]:
    """Draw a ring, a thing of two parts, one with two holes, an L, and a single pixel."""
    masks = np.zeros((5, *SIZE_HW), bool)
    masks[0, 2:12, 3:13], masks[0, 5:9, 6:10] = True, False
    masks[1, 14:18, 2:9], masks[1, 20:27, 5:8] = True, True
    masks[2, 1:20, 20:35], masks[2, 3:6, 22:25], masks[2, 9:17, 24:33] = True, False, False
    masks[3, 22:28, 15:18], masks[3, 26:28, 15:30] = True, True
    masks[4, 29, 40] = True
    return dict(zip(THINGS, masks, strict=False))


def draw_many() -> dict[str, np.ndarray]:
    """Draw a square for every text, side by side."""
    masks = {}
    for i in range(MANY):
        y, x = (CELL_PX * place for place in divmod(i, GRID_HW[1]))
        mask = np.zeros((GRID_HW[0] * CELL_PX, GRID_HW[1] * CELL_PX), bool)
        mask[y : y + CELL_PX - 2, x : x + CELL_PX - 1] = True
        masks[f"thing {i}"] = mask
    return masks


def write(folder: Path, classes: tuple[str, ...], pictures: dict[str, dict[str, np.ndarray]]) -> None:
    """Write the truth, the pictures and the data sets of one set."""
    folder.mkdir(parents=True)
    numbered: dict[str, dict[str, int]] = {}
    arrays: dict[str, np.ndarray] = {}
    exporters = open_datasets(DATASET_FORMATS, folder, classes)
    for name, masks in pictures.items():
        size_hw = next(iter(masks.values())).shape if masks else SIZE_HW
        picture = folder / f"{name}.png"
        Image.new("RGB", size_hw[::-1], "teal").save(picture)
        stacked = np.stack(list(masks.values())) if masks else np.zeros((0, *size_hw), bool)
        scores = np.linspace(0.9, 0.5, len(masks), dtype=np.float32)
        for exporter in exporters.values():
            exporter.add(Sample(name, picture, Segmentation(classes, tuple(masks), stacked, scores)))
        numbered[name] = {text: len(arrays) + i for i, text in enumerate(masks)}
        arrays |= {str(len(arrays) + i): mask for i, mask in enumerate(masks.values())}
    for exporter in exporters.values():
        exporter.close()
    np.savez_compressed(folder / "truth.npz", **arrays)
    content = {"classes": list(classes), "pictures": numbered}
    (folder / "truth.json").write_text(json.dumps(content), encoding="utf-8")


def main(folder: Path) -> None:
    """Write both sets."""
    things = draw_things()
    few = {text: things[text] for text in ('a "big" dog', "point")}
    write(folder / "things", THINGS, {"all, of them": things, "few": few, "nothing": {}})
    many = draw_many()
    write(folder / "many", tuple(many), {"many": many})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
