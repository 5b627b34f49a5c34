"""What SAM costs as a last stage, both ways, on a SAM of real size with random weights: `make bench-sam`.

Seconds of one core are the processor's, of all threads together, so that other programs do not count; seconds on the
clock hold where none disturb it (`chrt -f 10`). Random weights see nothing, but they take the time and the memory of
trained ones. What they cannot show is how many masks of a grid pass the
filters: here one in four does.
"""

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.markdown import Markdown
from transformers import SamConfig, SamModel

from benchmarks.machine import describe_commit, describe_machine, peak_memory_gib, save_section
from benchmarks.pipeline import PHOTO_HW, TEXTS, make_segmenter, photo
from clip_as_rnn.refine.sam.automatic import AutomaticMasks, AutomaticRules, point_grid
from clip_as_rnn.refine.sam.frame import Preprocessing
from clip_as_rnn.refine.sam.matching import MatchRules, match_each
from clip_as_rnn.refine.sam.model import Sam, SamImage, SamMasks
from clip_as_rnn.refine.sam.refiner import SamRefiner, SamRules
from clip_as_rnn.refine.sam.runs import run_lengths
from clip_as_rnn.refine.sam.text_masks import TextMasks

TITLE = "SAM as a last stage: `make bench-sam`"
TEXT_COUNTS = (1, 5, 20)
LARGE_HW = (3000, 4000)
AT_ONCE = 32
MASKS_LEFT = 200
PASSES_OF = 4  # one mask of so many passes the filters
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

P = ParamSpec("P")
R = TypeVar("R")


class TimedSam(Sam):
    """A SAM that notes how long it encodes and decodes, and how often."""

    def __init__(self, model: SamModel) -> None:
        super().__init__(model, "sam", Preprocessing(1024, 256, True, _MEAN, _STD), "random")
        self.seconds: dict[str, float] = defaultdict(float)
        self.asked = 0

    def encode(self, image: np.ndarray) -> SamImage:
        """Encode, timed."""
        return self._timed("encode", super().encode, image)

    def decode_points(self, image: SamImage, points: np.ndarray) -> SamMasks:
        """Decode, timed."""
        self.asked += len(points)
        return self._timed("decode", super().decode_points, image, points)

    def decode_boxes(self, image: SamImage, boxes: np.ndarray, logits: torch.Tensor) -> SamMasks:
        """Decode, timed."""
        self.asked += len(boxes)
        return self._timed("decode", super().decode_boxes, image, boxes, logits)

    def _timed(self, name: str, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        started = time.process_time()
        try:
            return work(*args, **kwargs)
        finally:
            self.seconds[name] += time.process_time() - started


def random_sam(dtype: torch.dtype) -> TimedSam:
    """Make a SAM with the sizes of ViT-B and random weights; the same ones at every call."""
    torch.manual_seed(0)
    model = SamModel(SamConfig())
    model.vision_encoder.to(dtype)
    model.mask_decoder.to(dtype)
    return TimedSam(model)


def found_masks(count: int, size_hw: tuple[int, int]) -> tuple[np.ndarray, torch.Tensor]:
    """Make a label map of round blobs as a CRF might leave it, and probabilities to go with it."""
    centers = np.random.default_rng(0).uniform(0.1, 0.9, (MASKS_LEFT, 2))[:count] * size_hw
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    distances = np.hypot(rows - centers[:, 0, None, None], columns - centers[:, 1, None, None])  # n h w
    radius = min(size_hw) / 6
    labels = np.where(distances.min(0) < radius, distances.argmin(0) + 1, 0)
    return labels, torch.from_numpy(1 / (1 + np.exp((distances - radius) / 8))).float()


def make_refiner(sam: Sam, way: str, points_per_side: int = 64, predicted_iou: float = 0.0) -> SamRefiner:
    """Make a refiner with the paper's numbers, but for the filters, which random weights would not pass."""
    grid = AutomaticRules(points_per_side, predicted_iou, 0.0, 0.7)
    matching = MatchRules(0.7, 0.05, 0.7)
    return SamRefiner(sam, SamRules("automatic" if way == "automatic" else "prompts", matching, grid, 8, AT_ONCE))


def time_row(name: str, refiner: SamRefiner, sam: TimedSam, count: int) -> str:
    """Refine the masks of some texts once, and lay the seconds out as a row of the table."""
    image = photo(PHOTO_HW)
    labels, probabilities = found_masks(count, PHOTO_HW)
    sam.seconds.clear()
    sam.asked = 0
    started, began = time.process_time(), time.perf_counter()
    refiner.refine(refiner.encode_image(image), labels, np.linspace(0.5, 1, count), probabilities=probabilities)
    total_s, clock_s = time.process_time() - started, time.perf_counter() - began
    encode_s, decode_s = sam.seconds["encode"], sam.seconds["decode"]
    decoded = f"{decode_s:.2f} s ({sam.asked:,} prompts)" if sam.asked else "-"
    encoded = f"{encode_s:.2f} s" if encode_s else "-"
    rest_s = total_s - encode_s - decode_s
    return f"| {name} | {count} | {encoded} | {decoded} | {rest_s:.2f} s | **{total_s:.2f} s** | {clock_s:.2f} s |"


def matching_row(count: int) -> str:
    """Match the masks of some texts with as many masks as a trained SAM leaves of a grid: what a further text costs."""
    candidates, _ = found_masks(MASKS_LEFT, PHOTO_HW)
    runs = tuple(run_lengths(candidates == i + 1) for i in range(MASKS_LEFT))
    masks = AutomaticMasks(PHOTO_HW, runs, np.zeros((MASKS_LEFT, 4), np.int64), np.zeros(MASKS_LEFT))
    labels, _ = found_masks(count, PHOTO_HW)
    started, began = time.process_time(), time.perf_counter()
    list(match_each(TextMasks(labels, count), masks, MatchRules(0.7, 0.05, 0.7)))
    spent_s, clock_s = time.process_time() - started, time.perf_counter() - began
    name, spent = f"... matching {MASKS_LEFT} masks", f"{spent_s:.2f} s"
    return f"| {name} | {count} | - | - | {spent} | **{spent}** | {clock_s:.2f} s |"


def passing_score(sam: Sam, points_per_side: int) -> float:
    """Find the predicted IoU that one mask of so many exceeds, on a few points spread over the grid."""
    points = point_grid(points_per_side, PHOTO_HW)
    few = points[np.linspace(0, len(points) - 1, AT_ONCE).astype(int)]
    scores = sam.decode_points(sam.encode(photo(PHOTO_HW)), few).scores.flatten()
    return float(scores.quantile(1 - 1 / PASSES_OF))


def speed_table(points_per_side: int) -> str:
    """Time both ways for each number of texts, once."""
    sam = random_sam(torch.bfloat16)
    lines = ["| way | texts | encoder | decoder | all else | in all | on the clock |", "|---|---|---|---|---|---|---|"]
    prompting = make_refiner(sam, "prompts")
    time_row("first call", prompting, sam, 1)  # the first of a process is slower
    lines += [time_row("box and mask prompts", prompting, sam, count) for count in TEXT_COUNTS]
    finding = make_refiner(sam, "automatic", points_per_side, passing_score(sam, points_per_side))
    lines += [time_row(f"all masks of {points_per_side}x{points_per_side} points", finding, sam, TEXT_COUNTS[0])]
    lines += [matching_row(count) for count in TEXT_COUNTS]
    return "\n".join(lines)


def run_large() -> None:
    """Segment a large photo with the preset `default` and SAM the cheap way; print seconds and this process's memory.

    No text is dropped: 20 masks are refined.
    """
    sam = random_sam(torch.bfloat16)
    segmenter = make_segmenter(torch.bfloat16, "default", sam, max_steps=0)
    started, began = time.process_time(), time.perf_counter()
    result = segmenter.segment(photo(LARGE_HW), TEXTS)
    spent, of_sam, clock = time.process_time() - started, sum(sam.seconds.values()), time.perf_counter() - began
    print(
        f"| 4000x3000 photo, {len(result.refinements)} masks refined, {sam.asked} prompts | {spent:.1f} s "
        f"({of_sam:.1f} s of SAM's encoder and decoder) | {clock:.1f} s | {peak_memory_gib():.2f} GiB |"
    )


def main() -> None:
    """Print the tables, and keep them in docs/benchmarks.md with --save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points-per-side", type=int, default=64)
    parser.add_argument("--save", action="store_true", help="write the tables to docs/benchmarks.md")
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.large:
        run_large()
        return
    large = [sys.executable, "-m", "benchmarks.sam", "--large"]
    memory = subprocess.run(large, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
    table = (
        "Random weights of SAM ViT-B, bfloat16, one 500x375 photo, one run; seconds of one core, and on the clock. "
        "The masks are round blobs, each of one part; "
        f"one in {PASSES_OF} masks of the grid passes the filters.\n\n{speed_table(arguments.points_per_side)}\n\n"
        "Peak memory of the whole process, preset `default`, random CLIPs and SAM, prompts:\n\n"
        f"| | seconds of one core | on the clock | peak |\n|---|---|---|---|\n{memory}"
    )
    Console().print(Markdown(f"# {TITLE}\n\n{describe_machine()}; commit {describe_commit()}\n\n{table}"))
    if arguments.save:
        save_section(TITLE, table)


if __name__ == "__main__":
    main()
