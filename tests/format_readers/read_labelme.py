"""Read `labelme` with LabelMe's own loader, and draw its shapes as it draws them."""

import sys
from pathlib import Path

import numpy as np
from labelme._label_file import read_label_file
from labelme.utils import shapes_to_label
from truth import Masks, Truth, compare, read_truth


def read(truth: Truth) -> dict[str, Masks]:
    """Read the masks of all pictures: the shapes of one text together."""
    found: dict[str, Masks] = {}
    for path in sorted((truth.folder / "labelme" / "pictures").glob("*.json")):
        shapes = read_label_file(str(path)).shapes
        size_hw = next(iter(truth.pictures[path.stem].values())).shape if shapes else (1, 1)
        masks: dict[str, np.ndarray] = {}
        for text in {shape["label"] for shape in shapes}:
            of_text = [shape for shape in shapes if shape["label"] == text]
            drawn, _ = shapes_to_label(size_hw, of_text, {text: 1})
            masks[text] = drawn.astype(bool)
        found[path.stem] = masks
    return found


def main(folder: Path) -> bool:
    """Compare both sets."""
    return all([compare("labelme", "labelme", truth, read(truth)) for truth in read_truth(folder)])


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1])))
