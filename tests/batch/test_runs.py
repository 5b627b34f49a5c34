"""Runs over many pictures: gone on with after any interruption, several pictures at once, on a made-up segmenter."""

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.batch.job import Job, Outcome, describe_settings
from clip_as_rnn.batch.local import Threads, segment_files
from clip_as_rnn.batch.manifest import MANIFEST, Manifest
from clip_as_rnn.batch.sources import list_sources
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import InputError
from clip_as_rnn.result import Segmentation
from clip_as_rnn.state import EncodedTexts
from command import FakeSegmenter
from fake_results import fake_segmentation

TEXTS = ("cat", "dog")
PICTURES = 11
TWO = Threads(pictures=2, each=1)


class PixelSegmenter(FakeSegmenter):
    """Finds what depends on the picture alone, and counts the pictures."""

    def __init__(self) -> None:
        super().__init__(SegmenterConfig())
        self.seen: list[int] = []

    def segment(self, image: np.ndarray, texts: EncodedTexts, *, trace: bool = False) -> Segmentation:
        self.seen.append(int(image[0, 0, 0]))
        lives = {text: 1 for i, text in enumerate(texts.queries) if image[0, 0, 0] % (i + 2) == 0}
        return fake_segmentation(image.shape[:2], texts.queries, lives, trace=trace)

    def describe(self) -> dict[str, str]:
        return {"model_fingerprint": "a"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make a folder of pictures: most good, one broken, one twice, two of one name."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(PICTURES - 3):
        Image.new("RGB", (20 + i, 16), (i, 0, 0)).save(folder / f"{i:02d}.png")
    (folder / "broken.jpg").write_text("no picture")
    (folder / "more/00.png").write_bytes((folder / "00.png").read_bytes())
    Image.new("RGB", (9, 9), (77, 0, 0)).save(folder / "more/01.jpg")
    return folder


def run(
    photos: Path, out: Path, segmenter: FakeSegmenter | None = None, *, accelerated: bool = False, **changes: object
) -> list[Outcome]:
    """Run a job over a folder, on two threads, as the command does."""
    out.mkdir(exist_ok=True)
    settings = describe_settings(TEXTS, SegmenterConfig())
    with Manifest(out, settings, overwrite=False, mixed=False) as manifest:
        job = Job(
            **{
                **{"texts": TEXTS, "preset": "default", "config": SegmenterConfig(), "folder": out},
                **{"formats": ("labels", "json"), "datasets": ("coco",)},
                **changes,
            }
        )
        sources = list_sources([photos], standing=manifest.stems)
        options = {"manifest": manifest, "threads": TWO, "accelerated": accelerated}
        return list(segment_files(sources, job, lambda: segmenter or PixelSegmenter(), **options))


def results(out: Path) -> dict[str, object]:
    """Collect what a run made, without times; of the record the lines that count, whatever their order."""
    found: dict[str, object] = {}
    for path in out.rglob("*"):
        if path.name == MANIFEST:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[MANIFEST] = {one["image"]: {**one, "seconds": 0} for one in lines if "image" in one}
        elif path.suffix == ".json" and path.parent == out and not path.stem.endswith("_labels"):
            found[path.name] = {**json.loads(path.read_text()), "seconds": 0}
        elif path.is_file():
            found[str(path.relative_to(out))] = path.read_bytes()
    return found


@pytest.fixture
def undisturbed(photos: Path, tmp_path: Path) -> dict[str, object]:
    run(photos, tmp_path / "whole")
    return results(tmp_path / "whole")


def test_outcomes_come_in_the_order_of_the_pictures_and_every_one_is_recorded(photos: Path, tmp_path: Path):
    outcomes = run(photos, tmp_path / "out")
    names = [one.path.relative_to(photos).as_posix() for one in outcomes]
    assert names == sorted(names)
    assert [name for name, one in zip(names, outcomes, strict=True) if one.error] == ["broken.jpg"]
    record = results(tmp_path / "out")[MANIFEST]
    entry = record[str(photos / "05.png")]
    assert (entry["found"], entry["stem"]) == (["cat", "dog"], "05")
    assert entry["outputs"][:2] == ["05_labels.png", "05_labels.json"]
    assert all((tmp_path / "out" / name).exists() for name in entry["outputs"])
    assert "is none of" in record[str(photos / "broken.jpg")]["error"]
    assert len({one["stem"] for one in record.values()}) == len(names) == PICTURES


def test_the_same_command_does_nothing_twice_but_tries_what_failed_again(photos: Path, tmp_path: Path):
    run(photos, tmp_path / "out")
    segmenter = PixelSegmenter()
    again = run(photos, tmp_path / "out", segmenter)
    assert segmenter.seen == []
    assert [one.error is None for one in again].count(False) == 1
    Image.new("RGB", (9, 9), (55, 0, 0)).save(photos / "broken.jpg", format="JPEG")
    assert [one for one in run(photos, tmp_path / "out", segmenter) if one.error] == []
    assert len(segmenter.seen) == 1


def test_what_changed_since_is_done_again_and_nothing_else(photos: Path, tmp_path: Path):
    run(photos, tmp_path / "out")
    segmenter = PixelSegmenter()
    Image.new("RGB", (20, 16), (200, 0, 0)).save(photos / "03.png")  # another picture
    (tmp_path / "out/04_labels.png").unlink()
    (tmp_path / "out/coco/pictures/05.json").unlink()
    run(photos, tmp_path / "out", segmenter)
    assert sorted(segmenter.seen) == [4, 5, 200]
    assert (tmp_path / "out/04_labels.png").exists()
    run(photos, tmp_path / "out", segmenter, formats=("labels", "json", "npz"))
    assert len(segmenter.seen) == 3 + PICTURES - 1  # a further format is made of every picture


def test_a_picture_that_comes_later_does_not_rename_the_others(photos: Path, tmp_path: Path):
    run(photos, tmp_path / "out")
    Image.new("RGB", (9, 9), (123, 0, 0)).save(photos / "07.gif")
    segmenter = PixelSegmenter()
    run(photos, tmp_path / "out", segmenter)
    assert len(segmenter.seen) == 1
    record = results(tmp_path / "out")[MANIFEST]
    assert [record[str(photos / name)]["stem"] for name in ("07.png", "07.gif")] == ["07", "07_gif"]


def test_other_weights_are_refused(photos: Path, tmp_path: Path):
    run(photos, tmp_path / "out")
    other = PixelSegmenter()
    other.describe = lambda: {"model_fingerprint": "b"}
    with pytest.raises(InputError, match="model_fingerprint = 'a', now 'b'"):
        run(photos, tmp_path / "out", other)


def _killed_at(count: int) -> Iterator[None]:
    """End this process without any farewell at the so-many-th move of a file to its place, before or after it."""
    moves = iter(range(10_000))
    replace_file = Path.replace

    def replace_or_die(self: Path, target: Path) -> Path:
        number = next(moves)
        if number == count and count % 2:
            os._exit(9)
        moved = replace_file(self, target)
        if number == count:
            os._exit(9)
        return moved

    Path.replace = replace_or_die
    yield


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_and_gone_on_with_it_ends_as_if_undisturbed(
    photos: Path, tmp_path: Path, undisturbed: dict[str, object]
):
    chance, kills = random.Random(0), 0
    while kills < 8:
        moment = chance.randrange(2, 25)
        child = os.fork()
        if child == 0:
            next(_killed_at(moment))
            run(photos, tmp_path / "out")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            break  # whole before it could be killed
        assert os.waitstatus_to_exitcode(status) == 9
        kills += 1
        if kills % 3 == 0 and (tmp_path / "out" / MANIFEST).exists():  # and a line torn off
            with (tmp_path / "out" / MANIFEST).open("ab") as file:
                file.write(b'{"image": "07.p')
    assert kills > 3
    run(photos, tmp_path / "out")
    torn_off = tmp_path / "out" / MANIFEST
    lines = [line for line in torn_off.read_text().splitlines() if line != '{"image": "07.p']
    done = [json.loads(line)["image"] for line in lines if '"outputs"' in line]
    assert len(done) == len(set(done)) == PICTURES - 1  # nothing was recorded twice
    torn_off.write_text("\n".join(lines))
    assert results(tmp_path / "out") == undisturbed
    assert list(tmp_path.rglob(".*.part")) == []


def test_several_pictures_are_on_their_way_at_once_but_never_many(photos: Path, tmp_path: Path):
    lock, asked, at_once, most = threading.Lock(), 0, 0, 0
    first = threading.Barrier(TWO.pictures)

    class Slow(PixelSegmenter):
        def segment(self, *arguments: object, **options: object) -> Segmentation:
            nonlocal asked, at_once, most
            with lock:
                asked, at_once = asked + 1, at_once + 1
                most = max(most, at_once)
                waits = asked <= TWO.pictures
            if waits:
                first.wait(timeout=60)
            with lock:
                at_once -= 1
            return super().segment(*arguments, **options)

    run(photos, tmp_path / "out", Slow())
    assert most == TWO.pictures


def test_a_mistake_that_concerns_all_ends_the_run_and_the_data_sets_are_finished(photos: Path, tmp_path: Path):
    class Full(PixelSegmenter):
        def segment(self, *arguments: object, **options: object) -> Segmentation:
            if len(self.seen) == 4:
                raise MemoryError
            return super().segment(*arguments, **options)

    with pytest.raises(MemoryError):
        run(photos, tmp_path / "out", Full())
    coco = json.loads((tmp_path / "out/coco/annotations/instances_default.json").read_text())
    assert len(coco["images"]) == 4
    segmenter = PixelSegmenter()
    run(photos, tmp_path / "out", segmenter)
    assert len(segmenter.seen) == PICTURES - 1 - 4


def test_images_side_by_side_have_the_results_of_images_alone(photos: Path, tmp_path: Path):
    class SideBySide(PixelSegmenter):
        def encode_each(self, images):
            sizes.append(len(images))
            return [InputError("too many patches") if image.shape[1] == 9 else image for image in images]

    sizes: list[int] = []
    alone = run(photos, tmp_path / "a")
    groups = run(photos, tmp_path / "b", SideBySide(), images_at_once=4)
    assert [one.path for one in groups] == [one.path for one in alone]
    told = {one.path.name: str(one.error) for one in groups if one.error}
    assert max(sizes) == 4
    assert told["01.jpg"] == "too many patches"
    assert set(told) == {"01.jpg", "broken.jpg"}
    for one, other in zip(alone, groups, strict=True):
        if one.segmentation and other.segmentation:
            np.testing.assert_array_equal(one.segmentation.masks, other.segmentation.masks)


def test_pictures_share_passes_where_asked_and_on_accelerators(photos: Path, tmp_path: Path):
    class Counting(PixelSegmenter):
        def encode_each(self, images):
            sizes.append(len(images))
            return super().encode_each(images)

    sizes: list[int] = []
    for asked, accelerated, most in ((None, False, 4), (None, True, 8), (3, False, 3), (1, True, 1)):
        sizes.clear()
        run(photos, tmp_path / f"{asked}-{accelerated}", Counting(), images_at_once=asked, accelerated=accelerated)
        assert max(sizes) == most


def test_large_pictures_are_in_hand_alone(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encode, sizes = PixelSegmenter.encode_each, []
    monkeypatch.setattr(
        PixelSegmenter, "encode_each", lambda self, images: sizes.append(len(images)) or encode(self, images)
    )
    monkeypatch.setattr("clip_as_rnn.batch.job._PIXELS_AT_ONCE", 9 * 9)  # the smallest picture has as many
    run(photos, tmp_path / "out", images_at_once=4)
    assert sizes.count(1) >= len(sizes) - 1
    assert sum(sizes) == PICTURES - 1


def test_a_run_that_is_stopped_begins_no_further_picture_and_records_what_it_made(photos: Path, tmp_path: Path):
    class Slow(PixelSegmenter):
        def segment(self, *arguments: object, **options: object) -> Segmentation:
            time.sleep(0.05)
            return super().segment(*arguments, **options)

    segmenter, out = Slow(), tmp_path / "out"
    out.mkdir()
    with Manifest(out, describe_settings(TEXTS, SegmenterConfig()), overwrite=False, mixed=False) as manifest:
        job = Job(
            **{"texts": TEXTS, "preset": "default", "config": SegmenterConfig(), "folder": out},
            **{"formats": ("labels",), "images_at_once": 2},
        )
        outcomes = segment_files(list_sources([photos]), job, lambda: segmenter, manifest=manifest, threads=TWO)
        next(outcomes)
        begun = len(segmenter.seen)
        outcomes.close()
    assert len(segmenter.seen) <= min(begun + TWO.pictures, PICTURES - 2)
    assert (out / MANIFEST).read_text().count('"outputs"') == len(segmenter.seen)


@pytest.mark.parametrize(
    ("cores", "asked", "shared"), [(2, None, (2, 1)), (8, None, (4, 2)), (8, 1, (1, 8)), (1, 3, (3, 1))]
)
def test_the_processors_are_shared_out(
    cores: int, asked: int | None, shared: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("clip_as_rnn.batch.local.usable_threads", lambda: cores)
    threads = Threads.of_this_machine(asked)
    assert (threads.pictures, threads.each) == shared
