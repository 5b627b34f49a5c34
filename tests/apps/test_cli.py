"""The command line: what it says, what it writes, and how it ends, on a segmenter that is made up."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import command
from clip_as_rnn.apps.cli import main, segment
from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.errors import WeightsError
from clip_as_rnn.loading import load_segmenter
from clip_as_rnn.presets import PRESETS
from command import GHOST, Ending, FakeSegmenter, files_in

car, loads, photo = command.car, command.loads, command.photo  # fixtures


def test_segment_writes_overlay_labels_masks_and_json(car: Callable[..., Ending], photo: Path):
    end = car("segment", "photo.png", "-t", "cat", "-t", GHOST, "-t", "cup")
    assert end.code == 0
    assert end.err == ""
    assert files_in(Path("out")) == [
        "photo.json",
        "photo_labels.json",
        "photo_labels.png",
        "photo_masks/001_cat.png",
        "photo_masks/002_cup.png",
        "photo_overlay.png",
    ]
    content = json.loads(Path("out/photo.json").read_text())
    assert [one["text"] for one in content["found"]] == ["cat", "cup"]
    assert [(one["text"], one["step"]) for one in content["rejected"]] == [(GHOST, 1)]
    assert content["image"] == "photo.png"
    assert content["settings"]["score_threshold"] == PRESETS["default"].classify.score_threshold
    assert content["preset"] == "default"


def test_the_table_says_what_was_found_and_what_rejected_when_and_why(car: Callable[..., Ending], photo: Path):
    end = car("segment", "photo.png", "-t", "cat", "-t", GHOST, "-o", "elsewhere", "-f", "json")
    rows = [line.split("│") for line in end.out.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert cells[0][:3] == ["cat", "found", "0.90"]
    assert cells[0][3].startswith("covers ")
    assert cells[1] == [GHOST, "rejected at step 1", "0.11", "score below 0.4"]
    assert end.out.splitlines()[-1] == f"Wrote {Path('elsewhere/photo.json')}"


def test_options_reach_the_segmenter(
    car: Callable[..., Ending], photo: Path, loads: list[tuple[SegmenterConfig, str, str]]
):
    car(
        *("segment", "photo.png", "-t", "cat", "--preset", "paper-voc", "--model", "a", "--classifier", "b"),
        *(
            "--device",
            "cpu",
            "--dtype",
            "bfloat16",
            "--set",
            "score_threshold=0.25",
            "--set",
            "visual_prompts=blur,gray",
        ),
    )
    changes = {"model": "a", "classifier": "b", "score_threshold": 0.25, "visual_prompts": ("blur", "gray")}
    assert loads == [(with_settings(PRESETS["paper-voc"], changes), "cpu", "bfloat16")]


def test_figure_adds_the_recurrence(car: Callable[..., Ending], photo: Path):
    assert car("segment", "photo.png", "-t", "cat", "--figure", "-f", "json").code == 0
    assert files_in(Path("out")) == ["photo.json", "photo_figure.png"]


def test_a_data_set_is_written_beside_the_files_of_each_picture(car: Callable[..., Ending], photo: Path):
    Image.new("RGB", (40, 30), "tan").save("second.jpg")
    end = car("segment", "photo.png", "second.jpg", "-t", "cat", "-t", GHOST, "-f", "coco,json", "-f", "yolo")
    assert end.code == 0
    written = json.loads(Path("out/coco/annotations/instances_default.json").read_text())
    assert [one["file_name"] for one in written["images"]] == ["photo.png", "second.jpg"]
    assert [one["name"] for one in written["categories"]] == ["cat", GHOST]
    assert [(one["image_id"], one["category_id"]) for one in written["annotations"]] == [(1, 1), (2, 1)]
    assert Path("out/yolo/labels/photo.txt").read_text().startswith("0 ")
    assert Path("out/photo.json").exists()


def test_a_data_set_alone_may_be_asked_for_and_keeps_to_its_classes(car: Callable[..., Ending], photo: Path):
    assert car("segment", "photo.png", "-t", "cat", "-f", "voc").code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["voc"]
    end = car("segment", "photo.png", "-t", "dog", "-f", "voc")
    assert (end.code, end.err.startswith("Error: The data set in 'out/voc' has the classes 'cat', ")) == (2, True)


def test_several_images_share_one_segmenter_and_say_a_line_each(
    car: Callable[..., Ending], photo: Path, loads: list[object]
):
    Path("more").mkdir()
    Image.open(photo).convert("L").save("more/photo.jpg")
    end = car("segment", "photo.png", "more", "-t", "cat", "-t", GHOST, "-f", "json")
    assert end.code == 0
    assert end.out.splitlines() == [
        "photo.png: cat 0.90; 1 rejected",
        f"{Path('more/photo.jpg')}: cat 0.90; 1 rejected",
    ]
    assert files_in(Path("out")) == ["photo_jpg.json", "photo_png.json", "results.jsonl"]
    assert len(loads) == 1


def test_one_broken_image_does_not_stop_the_others(car: Callable[..., Ending], photo: Path):
    Path("broken.jpg").write_text("not a picture")
    end = car("segment", "broken.jpg", "photo.png", "gone.png", "-t", "cat", "-f", "json")
    assert end.code == 1
    lines = end.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Error: Expected an image, but 'broken.jpg' is none of ")
    assert lines[1] == "Error: No image at 'gone.png'; check the path."
    assert lines[2] == "2 of 3 pictures failed; 'out/results.jsonl' says why."
    assert files_in(Path("out")) == ["photo.json", "results.jsonl"]


def test_a_folder_that_cannot_be_listed_and_a_pipe_do_not_stop_the_others(
    car: Callable[..., Ending], photo: Path, monkeypatch: pytest.MonkeyPatch
):
    Path("secret").mkdir()
    os.mkfifo("pipe.png")
    listed = Path.iterdir

    def deny(folder: Path) -> Iterator[Path]:
        if folder.name == "secret":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", deny)
    end = car("segment", "secret", "pipe.png", "photo.png", "-t", "cat", "-f", "json")
    assert (end.code, end.err.splitlines()) == (
        1,
        [
            "Error: The folder 'secret' cannot be listed: Permission denied.",
            "Error: Expected an image file, but 'pipe.png' is a pipe; save what it gives to a file first.",
            "2 of 3 pictures failed; 'out/results.jsonl' says why.",
        ],
    )
    assert files_in(Path("out")) == ["photo.json", "results.jsonl"]


def test_an_image_that_cannot_be_segmented_does_not_stop_the_others(car: Callable[..., Ending], photo: Path):
    Image.new("RGB", (600, 9)).save("wide.png")
    end = car("segment", "wide.png", "photo.png", "-t", "cat", "-f", "json")
    told = "Error: wide.png: The image has too many patches.\n1 of 2 pictures failed; 'out/results.jsonl' says why.\n"
    assert (end.code, end.err) == (1, told)
    assert files_in(Path("out")) == ["photo.json", "results.jsonl"]


def test_the_cache_folder_reaches_the_loader(car: Callable[..., Ending], photo: Path, monkeypatch: pytest.MonkeyPatch):
    given = []

    def load(preset: SegmenterConfig, **others: object) -> FakeSegmenter:
        given.append(others["cache_dir"])
        return FakeSegmenter(preset)

    monkeypatch.setattr("clip_as_rnn.loading.load_segmenter", load)
    car("segment", "photo.png", "-t", "cat", "--cache-dir", "models")
    assert given == [Path("models")]


def test_messages_are_printed_as_they_are(car: Callable[..., Ending]):
    assert car("segment", ":cat:[b].png", "-t", "a").err == "Error: No image at ':cat:[b].png'; check the path.\n"


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_folder_that_cannot_be_listed_is_told_in_a_line(
    car: Callable[..., Ending], photo: Path, monkeypatch: pytest.MonkeyPatch
):
    def deny(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", deny)
    end = car("segment", ".", "-t", "a")
    assert (end.code, end.err) == (2, "Error: The folder '.' cannot be listed: Permission denied.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment"], "Missing argument 'IMAGE...'."),
        (
            ["segment", "photo.png", "--presett", "tiny"],
            "No such option: --presett (Possible options: --preset, --set)",
        ),
        (["segmnt"], "No such command 'segmnt'. Did you mean 'segment'?"),
        (["segment", "photo.png", "-t"], "Option '-t' requires an argument."),
    ],
)
def test_a_mistake_of_usage_ends_with_one_line_and_code_2(
    car: Callable[..., Ending], arguments: list[str], message: str
):
    end = car(*arguments)
    assert (end.code, end.out, end.err) == (2, "", f"Error: {message}\n")


def test_without_a_command_the_help_is_shown(car: Callable[..., Ending]):
    end = car()
    assert end.code == 0
    assert "segment" in end.out


def test_texts_come_from_a_file_too(car: Callable[..., Ending], photo: Path):
    Path("texts.txt").write_text("\ufeff# animals\ncat\n\n  dog  \n", encoding="utf-8")
    car("segment", "photo.png", "-t", "cup", "--texts-file", "texts.txt", "-f", "json")
    assert json.loads(Path("out/photo.json").read_text())["queries"] == ["cup", "cat", "dog"]


def test_duplicate_texts_are_merged_and_said(car: Callable[..., Ending], photo: Path):
    end = car("segment", "photo.png", "-t", "cat", "-t", "Cat ", "-t", "dog", "-f", "json")
    assert (end.code, end.err) == (0, "Note: Merged duplicate texts: 'Cat '.\n")
    assert json.loads(Path("out/photo.json").read_text())["queries"] == ["cat", "dog"]


def test_the_first_frame_of_an_animation_is_said(car: Callable[..., Ending]):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save("clip.gif", save_all=True, append_images=frames[1:])
    end = car("segment", "clip.gif", "-t", "cat", "-f", "json")
    assert (end.code, end.err) == (0, "Note: Of the 2 frames of 'clip.gif' only the first is used.\n")
    assert json.loads(Path("out/clip.json").read_text())["notes"] == [end.err.removeprefix("Note: ").strip()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.png"], "Expected at least one text to look for, but got none."),
        (["photo.png", "-t", " "], "Expected every text to hold a word, but got ' '."),
        (["photo.png", "-t", "x" * 400], "Expected texts of at most 77 tokens, but 'long' has 400."),
        (
            ["photo.png", "-t", "a\udc80"],
            "Expected texts in Unicode, but got 'a\\udc80'; check the terminal's encoding.",
        ),
        (
            ["photo.png", "--texts-file", "gone.txt"],
            "The texts file 'gone.txt' cannot be read: No such file or directory.",
        ),
        (["photo.png", "--texts-file", "photo.png"], "The texts file 'photo.png' cannot be read: it is not UTF-8."),
        (["photo.png", "-t", "a", "-f", "npz", "--skip-existing"], "Expected the format json with --skip-existing: "),
        (["x" * 300 + ".png", "-t", "a"], f"The image '{'x' * 300}.png' cannot be read: File name too long."),
        (["gone.png", "-t", "a"], "No image at 'gone.png'; check the path."),
        (["empty", "-t", "a"], "Expected an image file, but 'empty' is a folder."),
        (["photo.png", "-t", "a", "-p", "pape-voc"], "No preset named 'pape-voc'. Did you mean 'paper-voc'? Known: "),
        (["photo.png", "-t", "a", "--set", "eta"], "Expected a setting as NAME=VALUE, but got 'eta'."),
        (["photo.png", "-t", "a", "--set", "crv=1"], "No setting named 'crv'. Did you mean 'crf'? Known: "),
        (
            ["photo.png", "-t", "a", "--set", "score_threshold=high"],
            "Expected setting `score_threshold` to be a number from 0.0 to 1.0, but got 'high'.",
        ),
        (["photo.png", "-t", "a", "--set", "templates=[1"], "The value of setting `templates` is not JSON: "),
        (["photo.png", "-t", "a", "-f", "jsn"], "No format named 'jsn'. Did you mean 'json'? Known: overlay, figure, "),
        (["photo.png", "-t", "a", "-f", ","], "Expected at least one format, but got none. Known: overlay, "),
        (["photo.png", "-t", "a", "--dtype", "int8"], "Expected dtype to be one of auto, float32, bfloat16, float16, "),
        (
            ["photo.png", "-t", "a", "-o", "photo.png/out"],
            "Expected an output folder that can be written, but got 'photo.png/out': Not a directory.",
        ),
    ],
)
def test_a_mistake_ends_with_one_line_code_2_and_nothing_written(
    car: Callable[..., Ending], photo: Path, arguments: list[str], message: str
):
    Path("empty").mkdir()
    end = car("segment", *arguments)
    assert end.code == 2
    assert end.out == ""
    assert end.err.startswith(f"Error: {message}")
    assert end.err.count("\n") == 1
    assert files_in(Path()) == ["photo.png"]


@pytest.mark.parametrize("images", [("photo.png", "photo_labels.png"), (".",)])
def test_no_result_takes_the_place_of_a_picture(
    car: Callable[..., Ending], photo: Path, images: tuple[str, ...], loads: list[object]
):
    Image.open(photo).save("photo_labels.png")
    before = Path("photo_labels.png").read_bytes()
    end = car("segment", *images, "-t", "cat", "-o", ".")
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith("Error: The result 'photo_labels.png' would overwrite a picture")
    assert end.err.count("\n") == 1
    assert (Path("photo_labels.png").read_bytes(), loads) == (before, [])


def test_mistakes_are_found_before_models_are_loaded(car: Callable[..., Ending], photo: Path, loads: list[object]):
    car("segment", "gone.png", "-t", "a")
    car("segment", "photo.png", "-t", " ")
    car("segment", "photo.png", "-t", "a", "-o", "photo.png")
    assert loads == []


def test_missing_weights_end_with_one_line_and_code_3(
    car: Callable[..., Ending], photo: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise WeightsError("The weights of 'a' cannot be had; use --preset tiny.")

    monkeypatch.setattr("clip_as_rnn.loading.load_segmenter", fail)
    end = car("segment", "photo.png", "-t", "cat")
    assert (end.code, end.out, end.err) == (3, "", "Error: The weights of 'a' cannot be had; use --preset tiny.\n")


def test_ctrl_c_ends_with_one_line_and_leaves_nothing_half_written(
    car: Callable[..., Ending], photo: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clip_as_rnn.ops.coco.encode", interrupt)  # amid the JSON
    end = car("segment", "photo.png", "-t", "cat", "-f", "json,npz")
    assert (end.code, end.out, end.err) == (130, "", "Interrupted; every file that was written is complete.\n")
    assert files_in(Path("out")) == []


def test_ctrl_c_while_the_words_are_read_ends_with_one_line(
    car: Callable[..., Ending], monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.core.TyperGroup.parse_args", interrupt)
    end = car("presets")
    assert (end.code, end.out, end.err) == (130, "", "Interrupted; every file that was written is complete.\n")


def test_a_text_too_long_for_the_bundled_clip_is_said_in_one_line(
    car: Callable[..., Ending], photo: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("clip_as_rnn.loading.load_segmenter", load_segmenter)
    end = car("segment", "photo.png", "--preset", "tiny", "-t", "x " * 76)
    assert end.code == 2
    assert end.err.startswith("Error: The text 'x x ")
    assert end.err.count("\n") == 1


def test_a_bug_shows(car: Callable[..., Ending], photo: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FakeSegmenter, "segment", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["car", "segment", "photo.png", "-t", "cat"])
    with pytest.raises(ZeroDivisionError):
        main.main()


def test_an_unknown_option_ends_with_code_2(car: Callable[..., Ending]):
    end = car("segment", "photo.png", "--colour")
    assert end.code == 2
    assert "--colour" in end.err


def test_demo_writes_overlay_figure_labels_and_json(
    car: Callable[..., Ending],
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    loads: list[tuple[SegmenterConfig, str, str]],
):
    monkeypatch.setattr(segment, "DEMO_IMAGE", photo)
    end = car("demo")
    assert end.code == 0
    assert files_in(Path("out/demo")) == [
        "photo.json",
        "photo_figure.png",
        "photo_labels.json",
        "photo_labels.png",
        "photo_overlay.png",
    ]
    assert loads == [(PRESETS["tiny"], "auto", "auto")]
    assert all(text in end.out for text in segment.DEMO_TEXTS)
    assert str(Path("out/demo/photo_figure.png")) in end.out.splitlines()[-1]
