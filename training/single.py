"""Ask one text at a time on a tuning set: `python -m training.single FOLDER name=value[|value...] ...`.

Every present text is asked alone, and as many absent ones. For each combination of settings, one line per theta: which
share of the present ones it keeps, and which of the absent ones it rejects.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from clip_as_rnn import Segmenter, load_segmenter
from training.tune import combinations, scene_parser

SEED = 5


def main() -> None:
    """Print a table of thresholds for every combination of settings."""
    arguments = scene_parser(str(__doc__)).parse_intermixed_args()
    for settings in combinations(arguments.settings):
        segmenter = load_segmenter(
            "tiny", model=arguments.model, classifier=arguments.model, score_threshold=0.0, crf=False, **settings
        )
        present, absent = measure_scores(segmenter, arguments.folder, arguments.split, arguments.count)
        sys.stdout.write(f"{settings}\n")
        for keep in (0.95, 0.9, 0.85, 0.8, 0.75):
            theta = float(np.quantile(present, 1 - keep))
            sys.stdout.write(
                f"  theta {theta:.3f}: present kept {keep:.2f}, absent rejected {(absent < theta).mean():.3f}\n"
            )
        sys.stdout.flush()


def measure_scores(segmenter: Segmenter, folder: Path, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Collect the scores of present and of absent texts, each asked alone."""
    classes = (folder / "classes.txt").read_text().split("\n")[:-1]
    names = (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
    chance, scores = random.Random(SEED), {True: [], False: []}
    every = max(1, len(names) // count)
    for name in names[::every][:count]:
        truth = np.unique(np.asarray(Image.open(folder / "SegmentationClass" / f"{name}.png")))
        present = [classes[i - 1] for i in truth if 0 < i < 255]
        absent = chance.sample(sorted(set(classes) - set(present)), len(present))
        for text in present + absent:
            trace = segmenter.segment(folder / "JPEGImages" / f"{name}.jpg", [text], trace=True).trace
            scores[text in present].append(float(trace.steps[0].scores[0]))
    return np.array(scores[True]), np.array(scores[False])


if __name__ == "__main__":
    main()
