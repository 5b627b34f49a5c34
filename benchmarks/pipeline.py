"""What CaR costs beyond its encoders, on CLIPs of real size with random weights: `make bench`.

Random weights see nothing, but they take the time and the memory of trained ones. The floor is what no implementation
can go below: one pass of the proposal CLIP per image and one of the classifier CLIP per (step, text). Every row is
measured in one run, so that only ratios between rows are to be compared.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.markdown import Markdown
from transformers import CLIPConfig, CLIPModel

from benchmarks.machine import describe_commit, describe_machine, peak_memory_gib, save_section
from clip_as_rnn.config import with_settings
from clip_as_rnn.encoders.clip import ClipEncoder
from clip_as_rnn.encoders.preprocess import PreprocessorConfig, patch_pixels
from clip_as_rnn.encoders.tokenizer import load_tokenizer
from clip_as_rnn.loading import ClipModels
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.refine.sam.model import Sam
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
CLIP_PREPARATION = PreprocessorConfig(224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PHOTO_HW = (375, 500)
TEXTS = (
    *("cat", "dog", "sofa", "car", "whiskers", "window", "cup of coffee", "eye", "book", "lamp"),
    *("carpet", "pillow", "table", "chair", "plant", "person", "bird", "clock", "vase", "door"),
)


def untrained_clip(size: str, dtype: torch.dtype, made: type[ClipEncoder] = ClipEncoder) -> ClipEncoder:
    """Make a CLIP with the sizes of ViT-B/16 or ViT-L/14 and random weights; the same ones at every call."""
    large = size == "L/14"
    text = {"hidden_size": 768 if large else 512, "num_attention_heads": 12 if large else 8, "num_hidden_layers": 12}
    text["intermediate_size"] = 4 * text["hidden_size"]
    vision = {"hidden_size": 1024 if large else 768, "num_attention_heads": 16 if large else 12}
    vision |= {"num_hidden_layers": 24 if large else 12, "patch_size": 14 if large else 16, "image_size": 224}
    vision["intermediate_size"] = 4 * vision["hidden_size"]
    width = 768 if large else 512
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=width, logit_scale_init_value=4.6052)
    model = CLIPModel(config).to(dtype)
    tokenizer = load_tokenizer(GOLDEN / "generator", 514)
    return made(model, tokenizer, CLIP_PREPARATION, f"random {size} {dtype}")


def make_segmenter(dtype: torch.dtype, preset: str, sam: Sam | None = None, **settings: object) -> Segmenter:
    """Put CaR around random CLIPs of the sizes that the paper uses, and around a SAM if one is given."""
    config = with_settings(PRESETS[preset], {**settings, "sam": sam and sam.fingerprint})
    names = (config.propose.model, config.classify.classifier, config.refine.sam)
    models = ClipModels(names, untrained_clip("B/16", dtype), untrained_clip("L/14", dtype), text_cache=None, sam=sam)
    return Segmenter(models.build_stages(config), config, models)


def photo(size_hw: tuple[int, int]) -> np.ndarray:
    """Scale a photograph to a size."""
    image = np.load(GOLDEN / "open_semantic.npz")["image"]
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one image in one precision: the encoders alone, then everything, by stage."""

    precision: str
    proposing_s: float
    judging_s: float
    images_judged: int
    steps: int
    stages_s: dict[str, float]
    texts_s: float

    @property
    def floor_s(self) -> float:
        """What the encoders take alone."""
        return self.proposing_s + self.judging_s

    @property
    def total_s(self) -> float:
        """What CaR takes, encoders included, once the features of the texts are known."""
        return sum(self.stages_s.values())


def time_precision(dtype: torch.dtype, threshold: float, rounds: int) -> tuple[Timing, Segmentation]:
    """Time CaR and its encoders in turns, and keep the faster round of each: other programs only ever add time."""
    segmenter = make_segmenter(dtype, "paper-voc", score_threshold=threshold)
    image = photo(PHOTO_HW)
    started = time.perf_counter()
    result = segmenter.segment(image, TEXTS, trace=True)  # also fills the text features and compiles the CRF
    texts_s = time.perf_counter() - started
    judged = sum(len(step.texts) for step in result.trace.steps) if result.trace else 0
    proposing_s = judging_s = float("inf")
    stages: list[dict[str, float]] = []
    for _ in range(rounds):
        proposing_s = min(proposing_s, _seconds(lambda: _propose_alone(segmenter, image)))
        judging_s = min(judging_s, _seconds(lambda: _judge_alone(segmenter, judged)))
        result = segmenter.segment(image, TEXTS, trace=True)
        stages.append(dict(result.seconds))
    best = min(stages, key=lambda row: sum(row.values()))
    steps = len(result.trace.steps) if result.trace else 0
    name = str(dtype).removeprefix("torch.")
    first_s = max(0.0, texts_s - sum(best.values()))
    return Timing(name, proposing_s, judging_s, judged, steps, best, first_s), result


def widest_gap(dtype: torch.dtype) -> float:
    """Choose theta where the scores of step 1 are farthest apart, so that rounding decides about no text."""
    trace = make_segmenter(dtype, "paper-voc", max_steps=1, crf=False).segment(photo(PHOTO_HW), TEXTS, trace=True).trace
    scores = np.sort(trace.steps[0].scores) if trace else np.zeros(2)
    lowest = int(np.argmax(np.diff(scores)))
    return float(scores[lowest : lowest + 2].mean())


def _propose_alone(segmenter: Segmenter, image: np.ndarray) -> None:
    """Pass the photograph through the proposal CLIP as an encoder: no attention kept, no gradients."""
    clip = _models(segmenter).proposal_encoder
    pixels = patch_pixels(image, clip.patch_px, clip.patch_px, clip.preprocessor)
    clip.encode_image(pixels)


def _judge_alone(segmenter: Segmenter, count: int) -> None:
    """Pass as many ready images through the classifier CLIP as CaR showed it, in the same batches."""
    clip = _models(segmenter).classifier_encoder
    for start in range(0, count, 8):
        clip.encode_image(torch.zeros(min(8, count - start), 3, 224, 224))


def _models(segmenter: Segmenter) -> ClipModels:
    if not isinstance(segmenter.models, ClipModels):
        raise TypeError("The benchmark needs a segmenter on loaded CLIPs.")
    return segmenter.models


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def agreement(a: Segmentation, b: Segmentation) -> float:
    """Share of pixels with the same text, or background, in both results."""
    names = (("", *a.texts), ("", *b.texts))
    left, right = (np.array(row, dtype=object)[one.label_map()] for row, one in zip(names, (a, b), strict=True))
    return float((left == right).mean())


def speed_table(rounds: int) -> str:
    """Measure both precisions and lay the rows out as Markdown."""
    threshold = widest_gap(torch.float32)
    timings, results = zip(
        *(time_precision(dtype, threshold, rounds) for dtype in (torch.float32, torch.bfloat16)), strict=True
    )
    rows = [
        ("encoders alone: proposal CLIP, 1 pass", lambda t: f"{t.proposing_s:.2f} s"),
        ("encoders alone: classifier CLIP, all passes", lambda t: f"{t.judging_s:.2f} s ({t.images_judged} images)"),
        ("**encoders alone (the floor)**", lambda t: f"**{t.floor_s:.2f} s**"),
        ("CaR: encode the image (pass, affinity)", lambda t: f"{t.stages_s['encode_image']:.2f} s"),
        ("CaR: propose (gradients, spreading)", lambda t: f"{t.stages_s['propose']:.2f} s"),
        ("CaR: classify (marks, passes)", lambda t: f"{t.stages_s['classify']:.2f} s"),
        ("CaR: refine (dense CRF)", lambda t: f"{t.stages_s['refine']:.2f} s"),
        ("**CaR, everything**", lambda t: f"**{t.total_s:.2f} s** ({t.steps} steps)"),
        ("**ratio to the floor**", lambda t: f"**{t.total_s / t.floor_s:.2f}**"),
        ("once per set of texts: text features", lambda t: f"{t.texts_s:.2f} s"),
    ]
    lines = ["| | " + " | ".join(t.precision for t in timings) + " |", "|---|" + "---|" * len(timings)]
    lines += [f"| {name} | " + " | ".join(show(t) for t in timings) + " |" for name, show in rows]
    same = agreement(*results)
    lines += ["", f"Label maps of the two precisions agree on {100 * same:.2f} % of the pixels."]
    return "\n".join(lines)


def memory_row(case: str) -> str:
    """Run one demanding case in a process of its own and report its peak memory."""
    command = [sys.executable, "-m", "benchmarks.pipeline", "--case", case]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout.strip().splitlines()[-1]


def run_case(case: str) -> None:
    """Segment one demanding input with the default preset, and print its time and this process's peak memory."""
    segmenter = make_segmenter(torch.bfloat16, "default")
    texts = TEXTS if case == "photo" else tuple(f"thing number {i}" for i in range(1000))
    image = photo((3000, 4000) if case == "photo" else PHOTO_HW)
    started = time.perf_counter()
    segmenter.segment(image, texts)
    elapsed = time.perf_counter() - started
    name = "4000x3000 photo, 20 texts" if case == "photo" else "500x375 photo, 1,000 texts"
    print(f"| {name} | {elapsed:.1f} s | {peak_memory_gib():.2f} GiB |")


def main() -> None:
    """Print the tables, and keep them in docs/benchmarks.md with --save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="rounds per precision; the fastest counts")
    parser.add_argument("--no-memory", action="store_true", help="leave out the two cases that measure peak memory")
    parser.add_argument("--save", action="store_true", help="write the tables to docs/benchmarks.md")
    parser.add_argument("--case", choices=("photo", "texts"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        run_case(arguments.case)
        return
    table = (
        "Random weights of ViT-B/16 (proposals) and ViT-L/14 (classifier), one 500x375 photo, 20 texts, 15 templates, "
        f"settings of `paper-voc`.\n\n{speed_table(arguments.rounds)}"
    )
    if not arguments.no_memory:
        rows = "\n".join(memory_row(case) for case in ("photo", "texts"))
        heading = "Peak memory of the whole process, preset `default`, bfloat16:"
        table += f"\n\n{heading}\n\n| | time | peak |\n|---|---|---|\n{rows}"
    console = Console()
    console.print(
        Markdown(f"# CaR against its encoders\n\n{describe_machine()}; commit {describe_commit()}\n\n{table}")
    )
    if arguments.save:
        save_section("CaR against its encoders: `make bench`", table)


if __name__ == "__main__":
    main()
