"""`car segment` over several pictures: a run that is gone on with, refused or begun anew."""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import command
from clip_as_rnn.apps.cli.run_progress import RunProgress
from clip_as_rnn.batch.job import Outcome
from clip_as_rnn.batch.manifest import MANIFEST, Manifest
from clip_as_rnn.batch.sources import Source
from clip_as_rnn.errors import InputError
from command import GHOST, Ending

car, loads = command.car, command.loads  # fixtures


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos/more").mkdir(parents=True)
    for name in ("a.png", "more/b.png"):
        Image.new("RGB", (64, 48), "teal").save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_the_same_command_goes_on_other_settings_are_refused_and_overwrite_begins_anew(
    car: Callable[..., Ending], photos: Path
):
    command = ("segment", "photos", "-f", "json,coco", "-t")
    assert car(*command, "cat").out.count("\n") == 2
    Image.new("RGB", (64, 48), "tan").save(photos / "c.png")
    again = car(*command, "cat")
    assert (again.code, again.out) == (0, "photos/c.png: cat 0.90; 0 rejected\n")
    assert again.err.splitlines() == [
        "Skipped photos/a.png: its results are in out.",
        "Skipped photos/more/b.png: its results are in out.",
    ]
    changed = car(*command, "dog")
    assert (changed.code, changed.out) == (2, "")
    assert changed.err == (
        "Error: The folder 'out' holds results made with texts = 'cat', now 'dog'. Choose another folder with -o, go "
        "on with what they were made with, or start anew with --overwrite.\n"
    )
    assert car(*command, "dog", "--overwrite").out.count("dog 0.90") == 3
    assert json.loads(Path("out/coco/annotations/instances_default.json").read_text())["categories"][0]["name"] == "dog"
    lines = [json.loads(line) for line in Path("out", MANIFEST).read_text().splitlines()]
    assert [line.get("found") for line in lines] == [None, ["dog"], ["dog"], ["dog"]]


def test_a_run_into_a_folder_has_nothing_elsewhere_that_a_kill_could_leave(
    car: Callable[..., Ending], photos: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(photos / "nowhere"))
    ending = car("segment", "photos", "-t", "cat")
    assert (ending.code, ending.out.count("cat 0.90")) == (0, 2)


def test_pictures_share_passes_where_asked_and_a_run_goes_on_with_another_share(
    car: Callable[..., Ending], photos: Path, monkeypatch: pytest.MonkeyPatch
):
    encode, sizes = command.FakeSegmenter.encode_each, []
    monkeypatch.setattr(
        command.FakeSegmenter, "encode_each", lambda self, images: sizes.append(len(images)) or encode(self, images)
    )
    Image.new("RGB", (600, 48), "tan").save(photos / "wide.png")
    ending = car("segment", "photos", "-f", "json", "-t", "cat", "--batch", "3")
    assert (ending.code, ending.out.count("cat 0.90"), sizes) == (1, 2, [3])
    assert "wide.png: The image has too many patches." in ending.err
    again = car("segment", "photos", "-f", "json", "-t", "cat", "--batch", "1")
    assert (again.code, again.err.count("Skipped"), sizes) == (1, 2, [3, 1])
    assert "'--batch'" in car("segment", "photos", "-t", "cat", "--batch", "0").err


def test_one_picture_is_no_run_and_always_done_anew(car: Callable[..., Ending], photos: Path):
    assert "cat" in car("segment", "photos/a.png", "-t", "cat", "-f", "json").out
    assert "dog" in car("segment", "photos/a.png", "-t", "dog", "-f", "json").out
    assert not Path("out", MANIFEST).exists()


def test_a_second_run_on_the_folder_is_refused(car: Callable[..., Ending], photos: Path):
    Path("out").mkdir()
    with Manifest(Path("out"), {}, overwrite=False, mixed=False):
        end = car("segment", "photos", "-t", "cat")
    assert (end.code, end.err.startswith("Error: Another run is writing to 'out'; ")) == (2, True)


def test_results_in_the_folder_are_not_taken_for_pictures(car: Callable[..., Ending], photos: Path):
    for _ in range(2):
        end = car("segment", ".", "-t", "cat", "-t", GHOST)
        assert end.code == 0
    assert end.err.count("Skipped") == 2


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is():
    said, now_s = io.StringIO(), 0
    outcomes = [
        Outcome(Source(Path("a.png"))),
        Outcome(Source(Path("b.png")), {"found": ["cat"]}),
        Outcome(Source(Path("c.png")), {"error": "broken"}, error=InputError("broken")),
        Outcome(Source(Path("d.png")), {"found": ["cat"]}),
    ]
    with RunProgress(total=14, console=Console(file=said, width=120), clock=lambda: now_s) as progress:
        for outcome in outcomes:
            now_s += 20
            progress.advance(outcome)
    assert said.getvalue().splitlines() == [
        "2 of 14 pictures, 0.05 images/s, 0:04:00 left",
        "4 of 14 pictures, 0.03 images/s, 1 failed, 0:05:00 left",
    ]
