"""The soak finds what it looks for: files that are not whole, outputs of two results under one name, tracebacks."""

import signal
from pathlib import Path

import numpy as np
import pytest
from benchmarks.soak_calls import jobs
from benchmarks.soak_files import Ending, broken_files, mixed_files

from clip_as_rnn.export.files import Result, save
from fake_results import fake_segmentation

SIZE = (24, 32)
IMAGE = np.zeros((*SIZE, 3), np.uint8)
FOUND = [fake_segmentation(SIZE, texts) for texts in (("dog", "car"), ("tree",))]
FORMATS = ("labels", "masks", "json", "npz", "overlay")


def write(folder: Path, number: int) -> None:
    save(Result(FOUND[number], IMAGE), folder, stem="photo", formats=FORMATS)


@pytest.mark.parametrize("name", ["photo_labels.png", "photo.json", "photo.npz", "photo_overlay.png"])
def test_a_file_that_was_cut_short_is_found(tmp_path, name):
    write(tmp_path, 0)
    assert broken_files(tmp_path) == []
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    (one,) = broken_files(tmp_path)
    assert one.startswith(f"{name}: ")


def test_what_is_being_written_is_not_looked_at(tmp_path):
    part = tmp_path / ".0123.part"
    part.mkdir()
    (part / "photo.json").write_text("{")
    assert broken_files(tmp_path) == []


def test_outputs_of_two_results_under_one_name_are_found(tmp_path):
    write(tmp_path, 0)
    assert mixed_files(tmp_path, FOUND) == []
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", 1)
    (tmp_path / "other" / "photo.npz").replace(tmp_path / "photo.npz")
    assert mixed_files(tmp_path, FOUND) == ["photo.npz is of another result"]


@pytest.mark.parametrize(
    ("code", "said", "is_a_line"),
    [
        (0, "", True),
        (2, "Error: no.", True),
        (130, "Interrupted; every file that was written is complete.", True),
        (130, "KeyboardInterrupt", False),
        (-signal.SIGTERM, "", True),
        (-signal.SIGSEGV, "", False),
        (70, "", False),
        (1, "Traceback (most recent call last):", False),
    ],
)
def test_a_run_ends_as_documented_or_not(code, said, is_a_line):
    assert Ending(code, said).is_a_line == is_a_line


def test_jobs_are_the_same_in_every_process():
    first, second = jobs(), jobs()
    assert len(first) == 40
    assert all(a[1] == b[1] and np.array_equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
