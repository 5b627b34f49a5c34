"""What `car segment --skip-existing` leaves out: images done with the same texts and settings, and no other."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import command
from command import Ending

car, loads, photo = command.car, command.loads, command.photo  # fixtures


def test_existing_results_are_skipped_only_if_complete(car: Callable[..., Ending], photo: Path, loads: list[object]):
    arguments = ("segment", "photo.png", "-t", "cat", "--skip-existing")
    car(*arguments)
    end = car(*arguments)
    assert (end.code, end.out, end.err) == (0, "", "Skipped photo.png: its results are in out.\n")
    assert len(loads) == 2  # once for the weights' fingerprint alone
    Path("out/photo_overlay.png").unlink()
    assert "found" in car(*arguments).out
    assert len(loads) == 3


@pytest.mark.parametrize(
    "changes", [("-t", "dog"), ("--set", "crf=false"), ("--preset", "paper-voc"), ("--model", "another")]
)
def test_results_of_other_texts_or_settings_are_not_skipped(
    car: Callable[..., Ending], photo: Path, changes: list[str]
):
    arguments = ("segment", "photo.png", "-t", "cat", "--skip-existing", "-f", "json")
    car(*arguments)
    assert "Skipped" not in car(*arguments, *changes).err
    assert "Skipped" in car(*arguments, *changes).err


def test_results_of_another_image_of_that_name_are_not_skipped(car: Callable[..., Ending], photo: Path):
    arguments = ("segment", "-t", "cat", "--skip-existing", "-f", "json", "photo.png")
    car(*arguments)
    Path("more").mkdir()
    Image.open(photo).save("more/photo.png")
    assert "Skipped" not in car(*arguments[:-1], "more/photo.png").err
    Image.new("RGB", (64, 48), "tan").save("more/photo.png")  # another picture since
    os.utime("more/photo.png", (1e9, 1e9))
    assert "Skipped" not in car(*arguments[:-1], "more/photo.png").err


def test_results_that_are_younger_than_their_record_are_not_skipped(car: Callable[..., Ending], photo: Path):
    car("segment", "photo.png", "-t", "cat", "-f", "json,npz")
    os.utime("out/photo.npz", (2e9, 2e9))  # as a run with other texts and without JSON would leave it
    assert "Skipped" not in car("segment", "photo.png", "-t", "cat", "-f", "json,npz", "--skip-existing").err
