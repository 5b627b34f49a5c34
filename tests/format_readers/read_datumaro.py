"""Read `coco` and `voc` with datumaro; its YOLO reader knows boxes only."""

import sys
from pathlib import Path

import datumaro
from datumaro.components.annotation import AnnotationType, Mask
from truth import Masks, Truth, compare, read_truth


def read(truth: Truth, folder: str, format_name: str) -> dict[str, Masks]:
    """Read the masks of all pictures."""
    dataset = datumaro.Dataset.import_from(str(truth.folder / folder), format_name)
    labels = [label.name for label in dataset.categories()[AnnotationType.label]]
    return {
        item.id: {labels[one.label]: one.image.astype(bool) for one in item.annotations if isinstance(one, Mask)}
        for item in dataset
    }


def main(folder: Path) -> bool:
    """Compare both formats; in VOC, 256 texts are the most for readers of palettes, and colons end a name."""
    good = True
    for truth in read_truth(folder):
        good &= compare("datumaro", "coco", truth, read(truth, "coco", "coco_instances"))
        if truth.name == "things":
            named = {text.replace(":", "\N{FULLWIDTH COLON}"): text for text in truth.classes}
            found = read(truth, "voc", "voc_segmentation")
            renamed = {name: {named[text]: mask for text, mask in masks.items()} for name, masks in found.items()}
            good &= compare("datumaro", "voc", truth, renamed)
    return good


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1])))
