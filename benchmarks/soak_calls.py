"""One segmenter, used long and by many: threads, thousands of calls, neighbors in a batch, worker processes.

Every result is compared with that of a fresh call in one thread, to the bit unless said otherwise.
"""

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult
from pathlib import Path

import numpy as np
import torch

from clip_as_rnn import Segmentation, Segmenter, load_segmenter
from clip_as_rnn.io.images import read_image
from clip_as_rnn.types import RgbImage

SCENES = Path(__file__).parents[1] / "data" / "scenes" / "JPEGImages"
TEXTS = (("dog", "car", "tree", "banana"), ("cat",), ("tree", "dog"), ("house", "sun", "boat", "cup", "chair"))
THREADS = 8
_VARIANTS: dict[str, dict[str, object]] = {
    "`tiny`": {},
    "CAM, mask tokens": {"proposals": "cam", "classify_by": "mask-tokens"},
}
PATIENCE_S = 300
_SIZES_HW = ((120, 160), (160, 120), (96, 96), (140, 200))
_WARM = 0.1  # of the calls, before memory is watched
_GROWTH_MIB = 24
_ROUNDING = 1e-5  # of scores whose products were batched otherwise

_worker_segmenter: Segmenter | None = None  # of this process, as a worker has it


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was done, what came of it, and whether it is as promised."""

    what: str
    outcome: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What is compared of a result."""

    texts: tuple[str, ...]
    scores: bytes
    labels: bytes

    @classmethod
    def of(cls, found: Segmentation) -> "Answer":
        """Take it from a result."""
        return cls(found.texts, found.scores.tobytes(), found.label_map().astype(np.int32).tobytes())


def load_worker() -> None:
    """Load the segmenter of a worker process."""
    global _worker_segmenter
    torch.set_num_threads(1)
    _worker_segmenter = load_segmenter("tiny", device="cpu")


def answer_in_worker(job: int) -> Answer:
    """Answer one job with the segmenter that this process loaded or inherited."""
    assert _worker_segmenter is not None
    image, texts = jobs()[job]
    return Answer.of(_worker_segmenter.segment(image, texts))


def jobs() -> list[tuple[RgbImage, tuple[str, ...]]]:
    """Pair cut-outs of scenes, of several sizes, with several lists of texts; always the same ones."""
    paths = sorted(path for path in SCENES.rglob("*") if path.suffix in (".png", ".jpg"))[:10]
    images = [read_image(path) for path in paths]
    sizes = [_SIZES_HW[i % len(_SIZES_HW)] for i in range(len(images))]
    cut = [np.ascontiguousarray(one[: size[0], : size[1]]) for one, size in zip(images, sizes, strict=True)]
    return [(image, texts) for image in cut for texts in TEXTS]


def soak_calls(calls: int) -> Iterator[Row]:
    """Try all of it with the bundled CLIP, one row after the other."""
    load_worker()
    assert _worker_segmenter is not None
    segmenter, asked = _worker_segmenter, jobs()
    expected = [Answer.of(segmenter.segment(image, texts)) for image, texts in asked]
    yield _fork_and_spawn("fork", expected, None)
    yield _fork_and_spawn("spawn", expected, load_worker)
    for name, settings in _VARIANTS.items():
        variant = segmenter.replace(**settings)
        yield _share(name, variant, asked)
        yield _batch(name, variant, asked)
    yield _repeat(segmenter, asked, expected, calls)


def _share(name: str, segmenter: Segmenter, asked: Sequence[tuple[RgbImage, tuple[str, ...]]]) -> Row:
    """Ask one segmenter from several threads at once, in another order in each."""
    expected = [Answer.of(segmenter.segment(image, texts)) for image, texts in asked]

    def ask_all(seed: int) -> int:
        order = list(range(len(asked)))
        random.Random(seed).shuffle(order)
        return sum(Answer.of(segmenter.segment(*asked[i])) != expected[i] for i in order)

    with ThreadPoolExecutor(THREADS) as threads:
        differing = sum(threads.map(ask_all, range(THREADS)))
    total = THREADS * len(asked)
    return Row(
        f"{name}: {THREADS} threads, {total} calls in shuffled order", f"{differing} results differ", differing == 0
    )


def _batch(name: str, segmenter: Segmenter, asked: Sequence[tuple[RgbImage, tuple[str, ...]]]) -> Row:
    """Ask about pictures beside ever other neighbors."""
    images = [image for image, texts in asked if texts == TEXTS[0]]
    alone = [segmenter.segment(image, TEXTS[0]) for image in images]
    chance, differing, apart, total = random.Random(0), 0, 0.0, 0
    for _ in range(10):
        order = chance.sample(range(len(images)), len(images))
        beside = segmenter.segment_many((images[i] for i in order), TEXTS[0], images_at_once=chance.randint(2, 7))
        for i, found in zip(order, beside, strict=True):
            total += 1
            same = found.texts == alone[i].texts and np.array_equal(found.label_map(), alone[i].label_map())
            differing += not same
            apart = max(apart, float(np.abs(found.scores - alone[i].scores).max(initial=0))) if same else apart
    outcome = f"{differing} results differ; scores differ by {apart:.0e} at most"
    return Row(f"{name}: {total} pictures beside other neighbors", outcome, differing == 0 and apart <= _ROUNDING)


def _repeat(
    segmenter: Segmenter, asked: Sequence[tuple[RgbImage, tuple[str, ...]]], expected: list[Answer], calls: int
) -> Row:
    """Call thousands of times in random order, every tenth time with words that are new, and watch the memory."""
    chance, differing, memory = random.Random(1), 0, []
    for number in range(calls):
        i = chance.randrange(len(asked))
        differing += Answer.of(segmenter.segment(*asked[i])) != expected[i]
        if number % 10 == 0:
            segmenter.segment(asked[i][0], [f"thing number {number}"])
        if number % 50 == 0:
            memory.append(resident_mib())
    warm = memory[int(len(memory) * _WARM) :]
    growth = float(np.median(warm[-5:]) - np.median(warm[:5]))
    outcome = f"{differing} results differ; memory {memory[0]:.0f} MiB, warm {warm[0]:.0f} MiB, at the end "
    outcome += f"{memory[-1]:.0f} MiB ({growth:+.1f} MiB since it was warm)"
    return Row(f"{calls:,} calls in random order", outcome, differing == 0 and growth < _GROWTH_MIB)


def _fork_and_spawn(method: str, expected: list[Answer], initializer: Callable[[], None] | None) -> Row:
    """Ask two worker processes; forked ones inherit a segmenter that was used."""
    chosen = range(0, len(expected), 4)
    with multiprocessing.get_context(method).Pool(2, initializer) as pool:
        waiting: AsyncResult[list[Answer]] = pool.map_async(answer_in_worker, chosen)
        try:
            answers = waiting.get(PATIENCE_S)
        except multiprocessing.TimeoutError:
            return Row(f"2 workers by {method}", f"no answer in {PATIENCE_S} s", False)
    differing = sum(answer != expected[i] for i, answer in zip(chosen, answers, strict=True))
    name = "2 forks of a process whose segmenter was used" if method == "fork" else "2 spawned workers"
    return Row(name, f"{len(answers)} answers, {differing} differ", differing == 0)


def resident_mib() -> float:
    """Measure the memory that this process holds now."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["VmRSS"].split()[0]) / 2**10
