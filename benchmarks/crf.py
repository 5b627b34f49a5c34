"""What the dense CRF costs, the lattices included: `make bench-crf`.

Beside it runs the reference implementation, if a `pydensecrf` can be imported: both in turns in one run, and the
fastest round of each counts, for other programs only ever add time. The reference uses one thread by design. Memory is
the peak of a process of its own, Python and torch included: of the CRF, and of the whole last stage from soft masks
over patches to a label map.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import cv2
import numba
import numpy as np
import torch
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.machine import describe_commit, describe_machine, peak_memory_gib
from clip_as_rnn.dense_crf.crf import Bilateral, DenseCrf, Gaussian, refine
from clip_as_rnn.refine.crf import CrfRefiner

PHOTO = Path(__file__).parents[1] / "tests" / "golden" / "crf_open_5.npz"
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks-crf.md"
SIZE_HW, LARGE_HW, STAGE_HW = (375, 500), (3000, 4000), (480, 640)
TEXTS = (20, 150, 1000)
LABELS = (2, 5, 21)
NOISE = 2.0  # gray levels; an enlarged photo alone is smoother than one from a camera, and its lattice smaller
ITERATIONS = 10
KERNELS = (Gaussian(xy=1, weight=3), Bilateral(xy=67, rgb=3, weight=4))


def photo(size_hw: tuple[int, int]) -> np.ndarray:
    """Enlarge a photograph to a size, with the noise of a sensor."""
    enlarged = cv2.resize(np.load(PHOTO)["image"], size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).normal(0, NOISE, enlarged.shape)
    return np.clip(np.rint(enlarged + noise), 0, 255).astype(np.uint8)


def guesses(labels: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Make smooth probabilities (labels, h, w) in large blobs, as proposals are."""
    coarse = np.random.default_rng(1).random((labels, 6, 8), dtype=np.float32) ** 3
    smooth = np.stack([cv2.resize(one, size_hw[::-1], interpolation=cv2.INTER_LINEAR) for one in coarse]) + 1e-3
    return smooth / smooth.sum(0)


def run_reference(image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Do the same with the reference implementation."""
    reference = import_module("pydensecrf.densecrf")
    labels, height, width = probabilities.shape
    field = reference.DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(-np.log(np.clip(probabilities, 1e-5, 1)).reshape(labels, -1))
    smooth, like = KERNELS
    field.addPairwiseGaussian(sxy=smooth.xy, compat=smooth.weight)
    field.addPairwiseBilateral(sxy=like.xy, srgb=like.rgb, rgbim=image, compat=like.weight)
    return np.array(field.inference(ITERATIONS)).reshape(probabilities.shape)


def fastest(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run all in turns, and keep the fewest seconds of each."""
    seconds = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def speed_row(labels: int, rounds: int) -> str:
    """Measure one number of labels, on the processor and, where there is one, on the GPU."""
    image, probabilities = photo(SIZE_HW), guesses(labels, SIZE_HW)
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: refine(image, probabilities, kernels=KERNELS, iterations=ITERATIONS),
        "lattices": lambda: DenseCrf(image, KERNELS),
    }
    marginals = refine(image, probabilities, kernels=KERNELS, iterations=ITERATIONS)  # compiles
    difference = ratio = reference = "not installed"
    if find_spec("pydensecrf"):
        works["reference"] = lambda: run_reference(image, probabilities)
        difference = f"{np.abs(marginals - run_reference(image, probabilities)).max():.1e}"
    gpu = "not measured"
    if torch.cuda.is_available():
        on_device = torch.from_numpy(image).cuda(), torch.from_numpy(probabilities).cuda()
        works["gpu"] = lambda: refine(*on_device, kernels=KERNELS, iterations=ITERATIONS).cpu()
        works["gpu"]()  # loads the kernels
    seconds = fastest(works, rounds)
    if "reference" in seconds:
        reference, ratio = f"{seconds['reference'] * 1e3:.0f} ms", f"{seconds['reference'] / seconds['ours']:.1f}"
    if "gpu" in seconds:
        gpu = f"{seconds['gpu'] * 1e3:.1f} ms"
    ours, lattices = f"{seconds['ours'] * 1e3:.0f} ms", f"{seconds['lattices'] * 1e3:.0f} ms"
    return f"| {labels} | {ours} | {lattices} | {reference} | {ratio} | {difference} | {gpu} |"


def memory_row(case: str) -> str:
    """Run one case in a process of its own, which reports its time and its peak memory."""
    command = [sys.executable, "-m", "benchmarks.crf", "--case", case]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout.strip().splitlines()[-1]


def run_case(case: str) -> None:
    """Refine one image, and print the time and the peak memory of this process."""
    kind, *numbers = case.split("x")
    height, width, count = (int(number) for number in numbers)
    image = photo((height, width))
    work = refine_masks if kind == "stage" else refine_probabilities
    started, busy = time.perf_counter(), time.process_time()
    work(image, count)
    elapsed, busy = time.perf_counter() - started, time.process_time() - busy
    print(f"| {width}x{height} | {count} | {elapsed:.1f} s | {busy:.1f} s | {peak_memory_gib():.2f} GiB |")


def refine_probabilities(image: np.ndarray, labels: int) -> None:
    """Run the CRF alone."""
    refine(image, guesses(labels, image.shape[:2]), kernels=KERNELS, iterations=ITERATIONS)


def refine_masks(image: np.ndarray, texts: int) -> None:
    """Run the last stage on proposals over patches of 16 pixels, all of them kept to the end."""
    coarse = np.random.default_rng(1).random((texts, image.shape[0] // 16, image.shape[1] // 16), dtype=np.float32)
    CrfRefiner(kernels=KERNELS, iterations=ITERATIONS).refine(image, torch.from_numpy(coarse**3))


def make_tables(rounds: int, *, large: bool) -> str:
    """Measure everything and lay it out as Markdown."""
    cases = [("crf", *SIZE_HW, labels) for labels in LABELS] + ([("crf", *LARGE_HW, 5)] if large else [])
    stages = [("stage", *STAGE_HW, texts) for texts in TEXTS] if large else []
    return "\n".join(
        [
            "500x375 photo, kernels of the paper (sxy 1; sxy 67, srgb 3), 10 iterations, lattices included; fastest of "
            f"{rounds} rounds in turns, {numba.config.NUMBA_NUM_THREADS} threads against the reference's one.",
            "",
            "| labels | ours | of it lattices | reference | times faster | largest difference | ours on the GPU |",
            "|---|---|---|---|---|---|---|",
            *(speed_row(labels, rounds) for labels in LABELS),
            "",
            "The same command, `make bench-crf`, fills in the column of the GPU wherever torch finds one.",
            "",
            "Each in a process of its own, with the loading of the compiled code:",
            "",
            "| photo | labels | time | of all threads | peak memory |",
            "|---|---|---|---|---|",
            *(memory_row("x".join(map(str, case))) for case in cases),
            "",
            "The whole last stage, likewise: every text is kept to the end and may win any pixel.",
            "",
            "| photo | texts | time | of all threads | peak memory |",
            "|---|---|---|---|---|",
            *(memory_row("x".join(map(str, case))) for case in stages),
        ]
    )


def main() -> None:
    """Print the tables, and keep them in docs/benchmarks-crf.md with --save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="rounds per number of labels; the fastest counts")
    parser.add_argument("--no-large", action="store_true", help="leave out the 4000x3000 photo and the last stage")
    parser.add_argument("--save", action="store_true", help="write the tables to docs/benchmarks-crf.md")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        run_case(arguments.case)
        return
    tables = make_tables(arguments.rounds, large=not arguments.no_large)
    Console().print(Markdown(tables))
    if arguments.save:
        header = f"# Benchmark of the dense CRF\n\nCommit {describe_commit()}; {describe_machine()}.\n\n"
        DOCUMENT.write_text(f"{header}{tables}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
