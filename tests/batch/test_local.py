"""What becomes of each picture of a job, on a segmenter that is made up."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clip_as_rnn.batch.job import Job, Outcome
from clip_as_rnn.batch.local import segment_files
from clip_as_rnn.batch.sources import list_sources
from clip_as_rnn.config import SegmenterConfig
from command import FakeSegmenter


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "out").mkdir()
    return Job(
        texts=("cat",),
        preset="default",
        config=SegmenterConfig(),
        folder=tmp_path / "out",
        formats=("npz", "json"),
        skip_existing=True,
    )


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(job: Job, *paths: Path, fingerprint: str = "a") -> list[Outcome]:
    segmenter = FakeSegmenter(job.config)
    segmenter.describe = lambda: {"model": "m", "model_fingerprint": fingerprint, "device": "cpu"}
    return list(segment_files(list_sources(paths), job, lambda: segmenter))


def never() -> FakeSegmenter:
    pytest.fail("loaded")


def test_one_that_fails_does_not_stop_the_rest(job: Job, photo: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "notes.png").write_text("no picture")
    Image.new("RGB", (600, 9)).save(tmp_path / "wide.png")
    outcomes = run(job, *(tmp_path / name for name in ("pipe.png", "notes.png", "wide.png", "gone.png", "photo.png")))
    told = [str(one.error) for one in outcomes]
    assert "is a pipe" in told[0]
    assert "is none of" in told[1]
    assert "too many patches" in told[2]
    assert "No image at" in told[3]
    assert [one.error is None for one in outcomes] == [False] * 4 + [True]
    assert outcomes[4].segmentation is not None
    assert outcomes[4].written == [tmp_path / "out/photo.json", tmp_path / "out/photo.npz"]


def test_models_are_loaded_once_and_not_for_what_cannot_be_read(job: Job, photo: Path, tmp_path: Path):
    assert len(list(segment_files(list_sources([tmp_path / "gone.png"]), job, never))) == 1
    loads = []
    list(segment_files(list_sources([photo, photo.parent]), job, lambda: loads.append(1) or FakeSegmenter(job.config)))
    assert loads == [1]


def test_the_json_says_what_made_the_result_and_of_what(job: Job, photo: Path):
    run(job, photo)
    content = json.loads((job.folder / "photo.json").read_text())
    assert content["models"]["model_fingerprint"] == "a"
    assert content["image_sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert content["formats"] == ["json", "npz"]


def _redraw(photo: Path, job: Job) -> None:
    """Put another picture there, with the old time."""
    status = photo.stat()
    Image.new("RGB", (64, 48), "tan").save(photo)
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        _redraw,
        lambda photo, job: (job.folder / "photo.npz").unlink(),
        lambda photo, job: os.utime(job.folder / "photo.npz", (4e9, 4e9)),
        lambda photo, job: (job.folder / "photo.json").write_text('{"formats": ["json", "npz"], "queries": ["cat"]}'),
    ],
)
def test_what_was_made_of_something_else_is_done_again(job: Job, photo: Path, change: Callable[[Path, Job], None]):
    run(job, photo)
    assert run(job, photo)[0].segmentation is None
    change(photo, job)
    assert run(job, photo)[0].segmentation is not None


def test_other_weights_texts_settings_or_formats_are_not_skipped(job: Job, photo: Path):
    run(job, photo)
    assert run(job, photo, fingerprint="b")[0].segmentation is not None
    run(job, photo)
    for other in (
        replace(job, texts=("dog",)),
        replace(job, config=SegmenterConfig(mode="referring")),
        replace(job, formats=("labels", "json")),
    ):
        assert run(other, photo)[0].segmentation is not None


def test_a_picture_that_was_only_touched_is_skipped(job: Job, photo: Path):
    run(job, photo)
    os.utime(photo, (4e9, 4e9))
    assert run(job, photo)[0].segmentation is None
