"""Throughput of a run over many pictures against a plain loop, Ray against local, and memory over 2,000 pictures.

`make bench-batch`: scenes with the bundled CLIP, one JSON per picture. Every row is of the same pictures,
in one run; seconds begin when the models are loaded. With --save the table goes into docs/benchmarks.md.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.machine import save_section
from clip_as_rnn import load_segmenter
from clip_as_rnn.batch.job import Job, Outcome, describe_settings
from clip_as_rnn.batch.local import Threads, segment_files
from clip_as_rnn.batch.manifest import Manifest
from clip_as_rnn.batch.ray import Cluster, segment_on_ray
from clip_as_rnn.batch.sources import list_sources
from clip_as_rnn.presets import find_preset
from clip_as_rnn.segmenter import Segmenter

SCENES = Path(__file__).parents[1] / "data" / "scenes" / "JPEGImages"
TEXTS = ("dog", "car", "tree", "cat", "banana")
CONFIG = find_preset("tiny")
WARM = 8  # pictures at the beginning of each row that are not timed


def link_pictures(folder: Path, count: int) -> Path:
    """Link so many pictures into a folder, the scenes again and again."""
    folder.mkdir()
    scenes = sorted(SCENES.iterdir())
    for i in range(count):
        (folder / f"{i:05d}{scenes[i % len(scenes)].suffix}").symlink_to(scenes[i % len(scenes)])
    return folder


def loop(segmenter: Segmenter, pictures: Sequence[Path]) -> float:
    """Call `segment` for one picture after the other; images per second."""
    for path in pictures[:WARM]:
        segmenter.segment(path, TEXTS)
    started = time.perf_counter()
    for path in pictures[WARM:]:
        segmenter.segment(path, TEXTS)
    return (len(pictures) - WARM) / (time.perf_counter() - started)


def loop_together(segmenter: Segmenter, pictures: Sequence[Path]) -> float:
    """Call `segment_many` for all pictures, which encodes a few together; images per second."""
    started, count = 0.0, -WARM
    for count, _ in enumerate(segmenter.segment_many(pictures, TEXTS), 1 - WARM):
        if count == 0:
            started = time.perf_counter()
    return count / (time.perf_counter() - started)


def timed(outcomes: Iterable[Outcome]) -> float:
    """Take all outcomes; images per second after the first few."""
    started, count = 0.0, -WARM
    for outcome in outcomes:
        count += outcome.is_segmented
        if count == 0:
            started = time.perf_counter()
    return count / (time.perf_counter() - started)


def run_local(
    segmenter: Segmenter, pictures: Path, out: Path, threads: Threads, images_at_once: int | None = None
) -> float:
    """Run over a folder on threads; images per second."""
    out.mkdir()
    job = Job(
        **{"texts": TEXTS, "preset": "tiny", "config": CONFIG, "folder": out, "formats": ("json",)},
        images_at_once=images_at_once,
    )
    with Manifest(out, describe_settings(TEXTS, CONFIG), overwrite=False, mixed=False) as manifest:
        return timed(
            segment_files(list_sources([pictures]), job, lambda: segmenter, manifest=manifest, threads=threads)
        )


def run_ray(pictures: Path, out: Path, threads: Threads) -> float:
    """Run over a folder on Ray, one actor per processor; images per second."""
    out.mkdir()
    job = Job(texts=TEXTS, preset="tiny", config=CONFIG, folder=out, formats=("json",))
    load = partial(load_segmenter, CONFIG)
    with Manifest(out, describe_settings(TEXTS, CONFIG), overwrite=False, mixed=False) as manifest:
        cluster = Cluster(threads=threads)
        return timed(segment_on_ray(list_sources([pictures]), job, load, manifest=manifest, cluster=cluster))


def memory_mib() -> float:
    """Measure what this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch_memory(segmenter: Segmenter, pictures: Path, out: Path, marks: Sequence[int]) -> dict[int, float]:
    """Run over a folder, and measure the memory when so many pictures are done."""
    out.mkdir()
    job = Job(texts=TEXTS, preset="tiny", config=CONFIG, folder=out, formats=("json",))
    held = {}
    with Manifest(out, describe_settings(TEXTS, CONFIG), overwrite=False, mixed=False) as manifest:
        for i, _ in enumerate(segment_files(list_sources([pictures]), job, lambda: segmenter, manifest=manifest), 1):
            if i in marks:
                held[i] = memory_mib()
    return held


def main() -> None:
    """Print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--for-memory", type=int, default=2000)
    parser.add_argument("--save", action="store_true", help="write the table to docs/benchmarks.md")
    arguments = parser.parse_args()
    segmenter = load_segmenter(CONFIG)
    threads = Threads.of_this_machine()
    with tempfile.TemporaryDirectory() as place:
        pictures = link_pictures(Path(place, "pictures"), arguments.pictures)
        plain = loop(segmenter, sorted(pictures.iterdir()))
        named = {
            "a plain loop over `segment`, nothing written": plain,
            "runner, `--workers 1`": run_local(segmenter, pictures, Path(place, "one"), Threads(1, os.cpu_count())),
            "runner, `--batch 1`": run_local(segmenter, pictures, Path(place, "alone"), threads, 1),
            f"runner as it is: {threads.pictures} workers, 4 pictures encoded together": run_local(
                segmenter, pictures, Path(place, "two"), threads
            ),
            "runner, `--batch 8`": run_local(segmenter, pictures, Path(place, "eight"), threads, 8),
            f"`--engine ray`, {threads.pictures} actors": run_ray(pictures, Path(place, "ray"), threads),
            "`segment_many`, nothing written": loop_together(segmenter, sorted(pictures.iterdir())),
            "a plain loop again": loop(segmenter, sorted(pictures.iterdir())),
        }
        many = link_pictures(Path(place, "many"), arguments.for_memory)
        marks = [arguments.for_memory * part // 4 for part in range(1, 5)]
        held = watch_memory(segmenter, many, Path(place, "memory"), marks)
    rows = "".join(f"| {name} | {speed:.1f} | {speed / plain:.2f} |\n" for name, speed in named.items())
    memory = ", ".join(f"{mib:.0f} MiB after {count:,}" for count, mib in held.items())
    table = (
        f"{arguments.pictures} scenes, preset `tiny`, {len(TEXTS)} texts, a JSON file each.\n\n"
        f"| | images/s | against the loop |\n|---|---|---|\n{rows}\nMemory of the runner: {memory} pictures."
    )
    print(table)
    if arguments.save:
        save_section("A run over many pictures: `make bench-batch`", table)


if __name__ == "__main__":
    main()
