"""What it costs to follow masks through a clip by a SAM 2 of real size, with random weights: `make bench-sam-clips`.

Seconds of one core are the processor's, of all threads together, so that other programs do not count. Random weights
see nothing, but they take the time and the memory of trained ones.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import torch
from rich.console import Console
from rich.markdown import Markdown
from transformers import Sam2VideoConfig, Sam2VideoModel

from benchmarks.machine import describe_commit, describe_machine, peak_memory_gib, save_section
from benchmarks.pipeline import PHOTO_HW, photo
from clip_as_rnn.refine.sam.model import Sam, SamImage
from clip_as_rnn.refine.sam.refiner import ImageForSam
from clip_as_rnn.refine.sam.tracker import SamTracker
from clip_as_rnn.refine.sam.weights import load_sam

TITLE = "Masks followed by SAM 2: `make bench-sam-clips`"
_FEWEST = 3  # the first two are timed together
FRAMES = 9  # the memory holds seven; from the eighth on a frame costs what all further ones do


def random_sam_2(dtype: torch.dtype) -> Sam:
    """Make a SAM 2 for clips with the sizes of hiera-tiny and random weights; the same ones at every call."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        Sam2VideoModel(Sam2VideoConfig()).save_pretrained(folder)
        return load_sam(folder, device=torch.device("cpu"), dtype=dtype)


def megabytes(image: SamImage) -> float:
    """Measure what is kept of an encoded frame while its stretch is gone through."""
    tensors = [image.features, *image.details, *([] if image.unmarked is None else [image.unmarked])]
    return sum(one.numel() * one.element_size() for one in tensors) / 1e6


def found_mask() -> np.ndarray:
    """Draw a round blob in the middle."""
    rows, columns = np.mgrid[: PHOTO_HW[0], : PHOTO_HW[1]]
    return np.hypot(rows - PHOTO_HW[0] / 2, columns - PHOTO_HW[1] / 2) < min(PHOTO_HW) / 6


def seconds_of_frames(sam: Sam, images: list[ImageForSam]) -> Iterator[float]:
    """Follow a mask, and yield the seconds of each frame behind the first, and the first's with the second's."""
    started = time.process_time()
    for _ in SamTracker(sam).follow(images, found_mask()):
        yield time.process_time() - started
        started = time.process_time()


def make_table(count: int) -> str:
    """Encode some frames and follow one mask through them, once."""
    sam = random_sam_2(torch.bfloat16)
    images = [ImageForSam(photo(PHOTO_HW), sam, lambda _: None) for _ in range(count)]
    _ = images[0].encoded  # the first of a process is slower
    started = time.process_time()
    for image in images[1:]:
        _ = image.encoded
    encode_s = (time.process_time() - started) / (count - 1)
    spent = list(seconds_of_frames(sam, images))
    return "\n".join(
        [
            "| encode a frame | follow one mask to the third frame | to the last | kept of a frame | peak |",
            "|---|---|---|---|---|",
            f"| {encode_s:.2f} s | {spent[1]:.2f} s | {spent[-1]:.2f} s | {megabytes(images[0].encoded):.1f} MB "
            f"| {peak_memory_gib():.2f} GiB |",
        ]
    )


def main() -> None:
    """Print the table, and keep it in docs/benchmarks.md with --save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--save", action="store_true", help="write the table to docs/benchmarks.md")
    arguments = parser.parse_args()
    if arguments.frames < _FEWEST:
        parser.error(
            f"--frames is {arguments.frames}, but a mask is followed to the third frame: give {_FEWEST} or more"
        )
    table = (
        f"Random weights of SAM 2 hiera-tiny, bfloat16, {arguments.frames} frames of 500x375, one run; seconds of one "
        "core. Frames are encoded once for all texts; a mask is followed for each text by itself.\n\n"
        f"{make_table(arguments.frames)}"
    )
    Console().print(Markdown(f"# {TITLE}\n\n{describe_machine()}; commit {describe_commit()}\n\n{table}"))
    if arguments.save:
        save_section(TITLE, table)


if __name__ == "__main__":
    main()
