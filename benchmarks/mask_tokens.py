"""What an image costs with mask tokens, by stage and by the number of texts, beside the prompted path: `make bench`.

Features of texts come as from the cache: random, the same ones at every call, for encoding 847 texts in 15 templates by
a large CLIP takes far longer than any image. What it costs is measured by `benchmarks.pipeline`, on 20 texts.
"""

import argparse
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.markdown import Markdown
from torch.nn import functional

from benchmarks.machine import describe_commit, describe_machine, peak_memory_gib, save_section
from benchmarks.pipeline import PHOTO_HW, TEXTS, photo, untrained_clip
from clip_as_rnn.config import with_settings
from clip_as_rnn.encoders.base import Tick, ignore_tick
from clip_as_rnn.encoders.clip import ClipEncoder
from clip_as_rnn.encoders.preprocess import limit_size
from clip_as_rnn.evaluation.datasets.vocabulary import bundled_vocabulary
from clip_as_rnn.loading import ClipModels
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.state import EncodedImage
from clip_as_rnn.types import Features

COUNTS = (1, 20, 150, 847)
PROMPTED_TEXTS = 20
THETA = 0.02  # of random features: a few texts pass
STAGES = ("proposal CLIP", "pull-back", "classifier CLIP", "classify", "CRF")


class ClipWithKnownTexts(ClipEncoder):
    """A CLIP whose texts were all encoded before, if at random."""

    def encode_text(self, texts: Sequence[str], tick: Tick = ignore_tick) -> Features:
        """Return a random direction for each text."""
        seeds = [zlib.crc32(text.encode()) for text in texts]
        rows = [torch.randn(self.embed_dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return functional.normalize(torch.stack(rows), dim=1).to(self.device)


def load_clips(dtype: torch.dtype) -> Callable[..., Segmenter]:
    """Make both CLIPs, and return what makes a segmenter of a preset and settings on them."""
    clips = [untrained_clip(size, dtype, ClipWithKnownTexts) for size in ("B/16", "L/14")]

    def make(preset: str, **settings: object) -> Segmenter:
        config = with_settings(PRESETS[preset], settings)
        names = (config.propose.model, config.classify.classifier, config.refine.sam)
        models = ClipModels(names, clips[0], clips[1], text_cache=None)
        return Segmenter(models.build_stages(config), config, models)

    return make


def texts_to_ask(count: int) -> tuple[str, ...]:
    """Take the first so many of the benchmark's 20 texts and the first synonyms of ADE-847."""
    names = (text.split(",")[0] for text in bundled_vocabulary("ade847").texts)
    return (*TEXTS, *(f"{name} {i}" for i, name in enumerate(names)))[:count]  # numbered, for some begin alike


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of one image by stage, text features apart; how many texts were found, in how many steps."""

    texts: int
    seconds: dict[str, float]
    found: int
    steps: int

    @property
    def total_s(self) -> float:
        """All stages together."""
        return sum(self.seconds.values())


def time_stages(segmenter: Segmenter, count: int, rounds: int) -> StageTimes:
    """Segment one photo for so many texts, and keep the faster round."""
    texts = texts_to_ask(count)
    return min((_time_once(segmenter, texts) for _ in range(rounds)), key=lambda one: one.total_s)


def _time_once(segmenter: Segmenter, texts: tuple[str, ...]) -> StageTimes:
    pixels, stages = photo(PHOTO_HW), segmenter.stages
    resized = limit_size(pixels, segmenter.config.max_side_px)
    started = time.perf_counter()
    for_proposer = stages.proposer.encode_images([resized])[0]
    proposed = time.perf_counter()
    for_classifier = stages.classifier.encode_images([resized])[0]
    encoded = EncodedImage(pixels, resized, for_proposer, for_classifier, None, stages, 0.0)
    classified_s = time.perf_counter() - proposed
    result = segmenter.segment(encoded, texts, trace=True)
    rest = (result.seconds["classify"], result.seconds["refine"])
    spent = (proposed - started, result.seconds["propose"], classified_s, *rest)
    steps = len(result.trace.steps) if result.trace else 0
    return StageTimes(len(texts), dict(zip(STAGES, spent, strict=True)), len(result.texts), steps)


def stage_table(rounds: int) -> str:
    """Measure both precisions and lay the rows out as Markdown."""
    heading = ("", "texts", "found", "steps", *STAGES, "**all**", "prompted / this")
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    notes = []
    for dtype in (torch.float32, torch.bfloat16):
        make, name = load_clips(dtype), str(dtype).removeprefix("torch.")
        one_step = {"max_steps": 1, "score_threshold": 0.0}  # later steps, which would cost it more, are left out
        prompted = time_stages(make("default", **one_step), PROMPTED_TEXTS, rounds)
        lines.append(_row(f"{name}, prompted", prompted, ""))
        fast = {count: time_stages(make("fast", score_threshold=THETA), count, rounds) for count in COUNTS}
        for count, times in fast.items():
            faster = f"{prompted.total_s / times.total_s:.1f}" if count == PROMPTED_TEXTS else ""
            lines.append(_row(f"{name}, mask tokens", times, faster))
        few, many, most = (fast[count].total_s for count in (20, 150, 847))
        notes.append(f"{name}: 150 texts cost {many / few:.2f} times as much as 20, 847 texts {most / few:.2f} times.")
    return "\n".join([*lines, "", *notes])


def _row(name: str, times: StageTimes, faster: str) -> str:
    cells = [f"{times.seconds[stage]:.2f}" for stage in STAGES]
    counts = (str(times.texts), str(times.found), str(times.steps))
    return "| " + " | ".join((name, *counts, *cells, f"**{times.total_s:.2f} s**", faster)) + " |"


def peak_row(count: int) -> str:
    """Measure time and peak memory of one number of texts in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.mask_tokens", "--case", str(count)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout.strip().splitlines()[-1]


def run_case(count: int) -> None:
    """Segment for so many texts, and print time and peak memory of this process."""
    segmenter = load_clips(torch.bfloat16)("fast", score_threshold=THETA)
    times = time_stages(segmenter, count, rounds=1)
    print(f"| 500x375 photo, {count} texts | {times.total_s:.1f} s | {peak_memory_gib():.2f} GiB |")


def main() -> None:
    """Print the tables, and keep them in docs/benchmarks.md with --save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="rounds per row; the fastest counts")
    parser.add_argument("--no-memory", action="store_true", help="leave out the cases that measure peak memory")
    parser.add_argument("--save", action="store_true", help="write the tables to docs/benchmarks.md")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        run_case(arguments.case)
        return
    table = (
        "Random weights of ViT-B/16 (proposals) and ViT-L/14 (classifier), one 500x375 photo, settings of `default` "
        f"(prompted, one step) and of `fast`, theta {THETA}, features of texts as from the cache. Seconds by stage.\n\n"
        f"{stage_table(arguments.rounds)}"
    )
    if not arguments.no_memory:
        rows = "\n".join(peak_row(count) for count in (20, 847))
        heading = "Peak memory of the whole process, preset `fast`, bfloat16:"
        table += f"\n\n{heading}\n\n| | time | peak |\n|---|---|---|\n{rows}"
    title = "Mask tokens: `make bench`"
    Console().print(Markdown(f"# {title}\n\n{describe_machine()}; commit {describe_commit()}\n\n{table}"))
    if arguments.save:
        save_section(title, table)


if __name__ == "__main__":
    main()
