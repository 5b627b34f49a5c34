"""Read `coco`, `yolo` and `voc` (boxes) as FiftyOne's labels; its data sets need a MongoDB, its labels do not."""

import os
import sys
from pathlib import Path

os.environ["FIFTYONE_DISABLE_SERVICES"] = "1"  # before it is imported: no database is started

import fiftyone.core.labels as fol
import fiftyone.utils.coco as fouc
import fiftyone.utils.voc as fouv
import fiftyone.utils.yolo as fouy
import numpy as np
import yaml
from truth import Masks, Truth, compare, read_truth


def draw(detection: "fol.Detection", size_hw: tuple[int, int]) -> np.ndarray:
    """Put a detection's mask, which is cut out by its box, to its place."""
    height, width = size_hw
    x, y = (round(share * side) for share, side in zip(detection.bounding_box[:2], (width, height), strict=True))
    mask = np.zeros(size_hw, bool)
    rows, columns = detection.mask.shape
    mask[y : y + rows, x : x + columns] = detection.mask[: height - y, : width - x]
    return mask


def read_coco(truth: Truth) -> dict[str, Masks]:
    """Read the masks of all pictures."""
    path = truth.folder / "coco" / "annotations" / "instances_default.json"
    _, classes, supercategories, images, annotations = fouc.load_coco_detection_annotations(str(path))
    found: dict[str, Masks] = {}
    for number, image in images.items():
        size = image["width"], image["height"]
        objects = annotations.get(number, [])
        detections = [one.to_detection(size, classes, supercategories, load_segmentation=True) for one in objects]
        found[Path(image["file_name"]).stem] = {one.label: draw(one, size[::-1]) for one in detections}
    return found


def read_yolo(truth: Truth) -> dict[str, Masks]:
    """Read the polygons of all pictures, and let FiftyOne fill them."""
    described = yaml.safe_load((truth.folder / "yolo" / "data.yaml").read_text(encoding="utf-8"))
    classes = [described["names"][i] for i in sorted(described["names"])]
    found: dict[str, Masks] = {}
    for name, masks in truth.pictures.items():
        size_hw = next(iter(masks.values())).shape if masks else (1, 1)
        path = truth.folder / "yolo" / "labels" / f"{name}.txt"
        labels = fouy.load_yolo_annotations(str(path), classes, label_type="instances", frame_size=size_hw[::-1])
        found[name] = {one.label: draw(one, size_hw) for one in labels.detections}
    return found


def read_voc(truth: Truth) -> dict[str, Masks]:
    """Read the boxes of all pictures, filled."""
    found: dict[str, Masks] = {}
    for path in sorted((truth.folder / "voc" / "Annotations").glob("*.xml")):
        annotation = fouv.load_voc_detection_annotations(str(path))
        size_hw = annotation.metadata.height, annotation.metadata.width
        found[path.stem] = {one.name: fill(one.bndbox, size_hw) for one in annotation.objects or []}
    return found


def fill(box: "fouv.VOCBoundingBox", size_hw: tuple[int, int]) -> np.ndarray:
    """Fill a box, whose corners are pixels counted from 1."""
    mask = np.zeros(size_hw, bool)
    mask[box.ymin - 1 : box.ymax, box.xmin - 1 : box.xmax] = True
    return mask


def boxes_of(truth: Truth) -> Truth:
    """Replace every mask by its box."""
    boxed = {}
    for name, masks in truth.pictures.items():
        boxed[name] = {text: np.outer(mask.any(1), mask.any(0)) for text, mask in masks.items()}
        for text, mask in masks.items():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxed[name][text][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return Truth(truth.name, truth.folder, truth.classes, boxed)


def longest_border(truth: Truth) -> int:
    """Count the pixels of the longest border: FiftyOne leaves half of it out of a polygon that has it for vertices."""
    inside = [
        mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        for masks in truth.pictures.values()
        for mask in masks.values()
    ]
    sizes = [int(mask.sum()) for masks in truth.pictures.values() for mask in masks.values()]
    return max(size - int(core.sum()) for size, core in zip(sizes, inside, strict=True))


def main(folder: Path) -> bool:
    """Compare all formats; the lines that join the parts of a polygon count as border, too."""
    good = True
    for truth in read_truth(folder):
        good &= compare("fiftyone", "coco", truth, read_coco(truth))
        good &= compare("fiftyone", "yolo", truth, read_yolo(truth), joined_px=longest_border(truth))
        good &= compare("fiftyone", "voc (boxes)", boxes_of(truth), read_voc(truth))
    return good


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1])))
