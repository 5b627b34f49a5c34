"""Read `label-studio` with Label Studio's SDK: it checks the tasks against the interface, and decodes the brush."""

import json
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
from truth import Masks, Truth, compare, read_truth


def decode(region: dict) -> np.ndarray:
    """Decode one region; its alpha is the mask."""
    pixels = decode_rle(region["value"]["rle"]).reshape(region["original_height"], region["original_width"], 4)
    return pixels[..., 3] > 0


def read(truth: Truth) -> dict[str, Masks]:
    """Read the masks of all pictures, once the interface has accepted the tasks."""
    interface = LabelInterface((truth.folder / "label-studio" / "config.xml").read_text(encoding="utf-8"))
    interface.validate()
    found: dict[str, Masks] = {}
    for task in json.loads((truth.folder / "label-studio" / "tasks.json").read_text(encoding="utf-8")):
        (prediction,) = task["predictions"]
        if errors := interface.validate_prediction(prediction, return_errors=True):
            sys.exit(f"Label Studio refuses a prediction: {errors[:3]}")
        (place,) = parse_qs(urlsplit(task["data"]["image"]).query)["d"]
        if not (truth.folder / place).is_file():
            sys.exit(f"A task names no picture: {place}")
        found[Path(place).stem] = {one["value"]["brushlabels"][0]: decode(one) for one in prediction["result"]}
    return found


def main(folder: Path) -> bool:
    """Compare both sets."""
    return all([compare("label-studio-sdk", "label-studio", truth, read(truth)) for truth in read_truth(folder)])


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1])))
