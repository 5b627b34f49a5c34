"""Files of a result: what is read back is what was found, and nothing is ever half-written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from clip_as_rnn.errors import InputError
from clip_as_rnn.export.files import FORMATS, Format, Result, mask_name, planned_paths, read_record, save, to_json
from clip_as_rnn.result import Segmentation
from clip_as_rnn.visualization.colors import colors
from fake_results import fake_segmentation

QUERIES = ("cat", "train/bus", "ghost", "红色的 猫", "..", "cup")


@pytest.fixture
def result() -> Result:
    image = np.random.default_rng(0).integers(0, 255, (48, 65, 3), dtype=np.uint8)
    about = {"image": "caf\udce9.png", "settings": {"score_threshold": 0.4}}  # a file name that is not UTF-8
    return Result(fake_segmentation((48, 65), QUERIES, {"ghost": 2, "cup": 1}), image, about)


def _overlapping(count: int) -> Segmentation:
    """Make masks that overlap, as in referring mode; mask i covers columns i and i + 1."""
    masks = np.zeros((count, 2, count + 1), bool)
    for i in range(count):
        masks[i, :, i : i + 2] = True
    texts = tuple(f"text {i}" for i in range(count))
    return Segmentation(texts, texts, masks, np.linspace(0.2, 0.9, count, dtype=np.float32))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _blank(segmentation: Segmentation) -> Result:
    return Result(segmentation, np.zeros((*segmentation.size_hw, 3), np.uint8))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in the decoder of pycocotools
def test_run_lengths_read_back_as_the_masks(result: Result, tmp_path: Path):
    save(result, tmp_path, stem="a", formats=["json"])
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    segmentation = result.segmentation
    assert [one["text"] for one in content["found"]] == list(segmentation.texts)
    for label, (one, mask, score) in enumerate(
        zip(content["found"], segmentation.masks, segmentation.scores, strict=True), 1
    ):
        assert np.array_equal(coco.decode(one["rle"]).astype(bool), mask)
        rows, columns = np.nonzero(mask)
        width, height = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
        assert one["box_xywh"] == [columns.min(), rows.min(), width, height]
        assert (one["area_px"], one["score"], one["label"]) == (mask.sum(), pytest.approx(score), label)


def test_json_says_what_was_rejected_when_and_why(result: Result):
    content = to_json(result)
    assert content["queries"] == list(QUERIES)
    assert content["classes"] == ["background", "cat", "train/bus", "红色的 猫", ".."]
    assert content["size"] == {"width": 65, "height": 48}
    assert [(one["text"], one["step"], one["reason"]) for one in content["rejected"]] == [
        ("ghost", 2, "score below 0.4"),
        ("cup", 1, "score below 0.4"),
    ]
    assert all(0 <= one["score"] <= 1 for one in content["rejected"])


def test_json_keeps_what_was_passed_in_even_names_that_are_not_unicode(result: Result, tmp_path: Path):
    save(result, tmp_path, stem="a", formats=["json"])
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (content["image"], content["settings"]) == ("caf\udce9.png", {"score_threshold": 0.4})


def test_the_label_map_reads_back_with_its_colors_and_names(result: Result, tmp_path: Path):
    save(result, tmp_path, stem="a", formats=["labels"])
    with Image.open(tmp_path / "a_labels.png") as stored:
        assert stored.mode == "P"
        assert np.array_equal(np.asarray(stored), result.segmentation.label_map())
        assert stored.getpalette()[:15] == [0, 0, 0, *colors(4).flatten()]
    names = json.loads((tmp_path / "a_labels.json").read_text(encoding="utf-8"))
    assert names == {"0": "background", "1": "cat", "2": "train/bus", "3": "红色的 猫", "4": ".."}


@pytest.mark.parametrize(("count", "mode"), [(255, "P"), (256, "I;16")])
def test_a_label_map_is_as_wide_as_its_labels(tmp_path: Path, count: int, mode: str):
    result = _blank(_overlapping(count))
    save(result, tmp_path, stem="a", formats=["labels"])
    with Image.open(tmp_path / "a_labels.png") as stored:
        assert stored.mode == mode
        assert np.array_equal(np.asarray(stored), result.segmentation.label_map())


def test_masks_are_one_file_per_text_and_may_overlap(tmp_path: Path):
    result = _blank(_overlapping(3))
    save(result, tmp_path, stem="a", formats=["masks"])
    for i, mask in enumerate(result.segmentation.masks):
        with Image.open(tmp_path / "a_masks" / f"00{i + 1}_text-{i}.png") as stored:
            assert np.array_equal(np.asarray(stored), mask * 255)


@pytest.mark.parametrize("formats", [["masks", "json"], ["masks"]])
def test_masks_of_an_earlier_run_are_removed_whether_recorded_or_not(
    result: Result, tmp_path: Path, formats: list[Format]
):
    save(_blank(_overlapping(9)), tmp_path, stem="a", formats=formats)
    save(result, tmp_path, stem="a", formats=formats)
    assert _names(tmp_path / "a_masks") == ["001_cat.png", "002_train-bus.png", "003_红色的-猫.png", "004.png"]


@pytest.mark.parametrize("name", ["notes.txt", "notes.png", "002_mine.png", "1000_mine.png", "001_text-0/deep.png"])
@pytest.mark.parametrize("formats", [["masks", "json"], ["masks"]])
def test_files_of_somebody_else_are_never_touched(result: Result, tmp_path: Path, name: str, formats: list[Format]):
    theirs = tmp_path / "a_masks" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    for one in (_blank(_overlapping(9)), result):
        save(one, tmp_path, stem="a", formats=formats)
        assert theirs.read_text() == "mine"
    assert "001_cat.png" in _names(tmp_path / "a_masks")


@pytest.mark.parametrize("record", ["[]", "{", '{"found": 3}', '{"found": [3, {"label": "../..", "text": "b"}]}'])
def test_another_programs_json_names_no_masks(result: Result, tmp_path: Path, record: str):
    (tmp_path / "a.json").write_text(record)
    (tmp_path / "a_masks").mkdir()
    (tmp_path / "a_masks" / "002_b.png").touch()
    save(result, tmp_path, stem="a", formats=["masks"])
    assert "002_b.png" in _names(tmp_path / "a_masks")
    assert (tmp_path / "a.json").read_text() == record


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["draw_overlay", "write_json", "_move_in"])
def test_an_interrupted_run_leaves_what_was_there(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    save(_blank(_overlapping(2)), tmp_path, stem="a", formats=["overlay", "masks", "json"])
    before = _files(tmp_path)
    monkeypatch.setattr(f"clip_as_rnn.export.files.{step}", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(result, tmp_path, stem="a", formats=["overlay", "masks", "json"])
    assert _files(tmp_path) == before


class _KilledError(BaseException):
    """Stands for a hard kill: nothing is tidied up."""


@pytest.mark.parametrize("moves", range(10))
def test_a_kill_amid_the_moves_never_leaves_files_of_two_runs(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
):
    formats: list[Format] = ["overlay", "labels", "masks", "json"]
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, one in ((old, _blank(_overlapping(9))), (new, result), (tmp_path / "out", _blank(_overlapping(9)))):
        save(one, folder, stem="a", formats=formats)
    left, replace = [moves], Path.replace

    def count(self: Path, target: Path) -> Path:
        if self.parent.parent == tmp_path / "out" or self.parent == tmp_path / "out":
            if left[0] == 0:
                raise _KilledError
            left[0] -= 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", count)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(_KilledError):
        save(result, tmp_path / "out", stem="a", formats=formats)
    monkeypatch.undo()
    standing = {name: content for name, content in _files(tmp_path / "out").items() if ".part" not in name}
    assert standing.items() <= _files(old).items() or standing.items() <= _files(new).items()
    assert "a.json" not in standing or standing == _files(old)
    save(result, tmp_path / "out", stem="a", formats=formats)
    assert _files(tmp_path / "out") == _files(new)
    assert _names(tmp_path / "out") == _names(new)


def test_fewer_formats_of_another_result_take_away_what_was_recorded(result: Result, tmp_path: Path):
    save(_blank(_overlapping(9)), tmp_path, stem="a", formats=["overlay", "labels", "masks", "json"])
    (tmp_path / "a_figure.png").write_text("mine")  # no run recorded it
    save(result, tmp_path, stem="a", formats=["labels"])
    assert _names(tmp_path) == ["a_figure.png", "a_labels.json", "a_labels.png"]


def test_more_formats_of_the_same_result_stand_beside_the_others_and_are_recorded(result: Result, tmp_path: Path):
    save(result, tmp_path, stem="a", formats=["labels", "masks", "json"])
    again = Result(replace(result.segmentation, seconds={"clip": 9.0}), result.image, result.about)
    save(again, tmp_path, stem="a", formats=["npz"])
    assert _names(tmp_path) == ["a.json", "a.npz", "a_labels.json", "a_labels.png", "a_masks"]
    assert read_record(tmp_path / "a.json")["formats"] == ["labels", "masks", "json", "npz"]


def test_a_folder_in_the_way_is_said_and_nothing_is_touched(result: Result, tmp_path: Path):
    save(_blank(_overlapping(2)), tmp_path, stem="a", formats=["labels", "json"])
    (tmp_path / "a_overlay.png").mkdir()
    before = _files(tmp_path)
    with pytest.raises(InputError, match=r"a_overlay\.png is in the way"):
        save(result, tmp_path, stem="a", formats=["overlay", "json"])
    assert _files(tmp_path) == before


def test_arrays_read_back_without_pickle(result: Result, tmp_path: Path):
    save(result, tmp_path, stem="a", formats=["npz"])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert tuple(stored["texts"]) == result.segmentation.texts
        assert tuple(stored["queries"]) == QUERIES
        assert np.array_equal(stored["masks"], result.segmentation.masks)
        assert np.array_equal(stored["scores"], result.segmentation.scores)


def test_a_result_without_any_text_found_is_written_in_every_format(tmp_path: Path):
    result = _blank(fake_segmentation((9, 7), ("ghost",), {"ghost": 1}))
    written = save(result, tmp_path, stem="a", formats=FORMATS)
    assert all(path.exists() for path in written)
    assert to_json(result)["classes"] == ["background"]
    with Image.open(tmp_path / "a_labels.png") as stored:
        assert not np.asarray(stored).any()
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["masks"].shape == (0, 9, 7)


def test_exactly_the_planned_paths_are_written(result: Result, tmp_path: Path):
    written = save(result, tmp_path, stem="a", formats=FORMATS)
    assert written == planned_paths(tmp_path, "a", FORMATS)
    assert sorted(tmp_path.iterdir()) == sorted(written)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "json"])
def test_an_interrupt_amid_any_format_leaves_old_files_and_no_parts(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Format
):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    save(result, tmp_path, stem="a", formats=[name])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(Path, "replace", interrupt)  # the last moment: all is written but not yet in place
    with pytest.raises(KeyboardInterrupt):
        save(result, tmp_path, stem="a", formats=[name])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_said_in_a_sentence(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match=r"^The results cannot be written to '.*': No space left on device\.$"):
        save(result, tmp_path, stem="a", formats=["json"])
    assert list(tmp_path.iterdir()) == []


def test_the_figure_needs_a_trace(tmp_path: Path):
    result = _blank(fake_segmentation((9, 7), ("cat",), trace=False))
    with pytest.raises(InputError, match="segment with `trace=True`"):
        save(result, tmp_path, stem="a", formats=["figure"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cat", "007_cat.png"),
        ("train/bus: the 2nd", "007_train-bus-the-2nd.png"),
        ("../../etc/passwd", "007_etc-passwd.png"),
        ("🙂", "007.png"),
        ("犬\n小", "007_犬-小.png"),
        ("a\udc80b", "007_a-b.png"),
        ("猫" * 100, f"007_{'猫' * 26}.png"),
    ],
)
def test_mask_names_are_safe_for_any_text(text: str, name: str):
    assert mask_name(7, text) == name
