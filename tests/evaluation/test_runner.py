"""Runs that stop and go on, runs in parts, and images that are broken."""

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import evaluation_run
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.registry import find_dataset
from clip_as_rnn.evaluation.protocol import EvaluationProtocol
from clip_as_rnn.evaluation.runner import RunOptions, Shard, evaluate, parse_shard
from clip_as_rnn.io.atomic import staging
from clip_as_rnn.io.label_maps import read_label_map
from evaluation_trees import FakeSegmenter, Listener, box, write_image, write_tree

REPORTS = ("report.json", "report.md")
START_LIMIT_S = 60
LONG = "{}" + "x" * 1000


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    evaluation_run.write_data(root)
    return root


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Give the reports of one run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    evaluation_run.run(data, output, "1/1")
    return reports(output)


def reports(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in REPORTS}


def lines(output: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in output.glob("records/*.ndjson"))


def test_three_kills_at_random_moments_change_no_byte_of_the_report(data, whole, tmp_path):
    kill_and_go_on(data, tmp_path, "voc", kills=3)
    assert reports(tmp_path) == whole
    assert len(list(tmp_path.glob("predictions/*.png"))) == evaluation_run.IMAGES - 2


def test_a_kill_changes_no_byte_of_a_report_on_references_either(data, tmp_path):
    evaluation_run.run(data, tmp_path / "whole", "1/1", "refcoco")
    kill_and_go_on(data, tmp_path / "killed", "refcoco", kills=1)
    assert reports(tmp_path / "killed") == reports(tmp_path / "whole")
    assert b"Not evaluated: 1" in reports(tmp_path / "killed")["report.md"]


def kill_and_go_on(data, output, dataset, kills):
    """Kill a run so many times, each after another few images, and then let it come to its end."""
    dice = random.Random(20240617)
    processes = multiprocessing.get_context("forkserver")  # imports torch once for all
    processes.set_forkserver_preload(["evaluation_run"])
    for kill in range(kills):
        process = processes.Process(target=evaluation_run.run, args=(data, output, "1/1", dataset))
        process.start()
        goal = lines(output) + dice.randint(1, 9)
        deadline = time.monotonic() + START_LIMIT_S
        while lines(output) < goal and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(dice.random() * evaluation_run.SECONDS_PER_IMAGE)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"kill {kill} came too late"
        assert not (output / "report.json").exists()
    assert kills <= lines(output) < evaluation_run.IMAGES
    evaluation_run.run(data, output, "1/1", dataset)


def test_four_shards_at_once_make_the_report_of_one_run(data, whole, tmp_path):
    shards = [f"{index}/4" for index in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(partial(evaluation_run.run, data, tmp_path), shards))
    assert lines(tmp_path) == evaluation_run.IMAGES
    assert reports(tmp_path) == whole


def test_shards_gathered_from_several_folders_make_the_report_of_one_run(data, whole, tmp_path):
    for index in range(1, 4):
        evaluation_run.run(data, tmp_path / str(index), f"{index}/3")
        assert not (tmp_path / str(index) / "report.json").exists()
    for index in (2, 3):
        for path in (tmp_path / str(index)).glob("*/*"):
            path.rename(tmp_path / "1" / path.parent.name / path.name)
    before = lines(tmp_path / "1")
    evaluation_run.run(data, tmp_path / "1", "1/1")
    assert before == evaluation_run.IMAGES
    assert lines(tmp_path / "1") == before + 2  # what failed was tried again
    assert reports(tmp_path / "1") == whole


def test_results_gathered_from_a_folder_with_another_setting_are_refused_with_their_file(tmp_path):
    small_tree(tmp_path / "data")
    _, _, fake = small_run(tmp_path / "data", tmp_path / "first", RunOptions(shard=Shard(1, 2)))
    protocol = voc(tmp_path / "data")
    for name, theta in (("second", 0.3), ("third", None)):
        segmenter = fake.replace(score_threshold=theta) if theta else fake
        evaluate(protocol, segmenter, tmp_path / name, RunOptions(shard=Shard(2, 2)))
    gathered = tmp_path / "first/records/2-of-2.ndjson"
    gathered.write_bytes((tmp_path / "second/records/2-of-2.ndjson").read_bytes())
    with pytest.raises(InputError, match=r"results in .*2-of-2\.ndjson were not made as this folder's run\.json says"):
        small_run(tmp_path / "data", tmp_path / "first")
    gathered.write_bytes((tmp_path / "third/records/2-of-2.ndjson").read_bytes())
    assert small_run(tmp_path / "data", tmp_path / "first")[0].report.coverage.evaluated == 2


def test_results_on_another_list_of_images_are_refused(tmp_path):
    small_tree(tmp_path / "data")
    small_run(tmp_path / "data", tmp_path / "out")
    (tmp_path / "data/ImageSets/Segmentation/val.txt").write_text("b\na\n")
    with pytest.raises(InputError, match=r"model, software or list of images; the two must not mix"):
        small_run(tmp_path / "data", tmp_path / "out")


@pytest.mark.parametrize(("images", "count"), [(10, 4), (3, 5), (7, 7), (40, 1)])
def test_every_image_belongs_to_exactly_one_shard(images, count):
    owners = [[index for index in range(1, count + 1) if Shard(index, count).holds(i)] for i in range(images)]
    assert all(len(owner) == 1 for owner in owners)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", ""])
def test_a_shard_that_is_none_is_an_input_error(text):
    with pytest.raises(InputError, match="Expected a shard as i/n"):
        parse_shard(text)


def small_run(root, output, options=RunOptions(), **changes):  # noqa: B008 - frozen
    size = (4, 4)
    fake = FakeSegmenter({size: {"aeroplane": box(size, slice(0, 2))}, (4, 6): {}}, **changes)
    listener = Listener()
    return evaluate(voc(root), fake, output, replace(options, progress=listener)), listener, fake


def voc(root):
    return EvaluationProtocol(dataset=find_dataset("voc"), root=root, preset="paper-voc")


def small_tree(root):
    write_tree("voc", root, {"a": np.ones((4, 4), dtype=int), "b": np.ones((4, 6), dtype=int)})


def test_broken_images_are_counted_named_and_in_no_score(tmp_path):
    small_tree(tmp_path / "data")
    write_image(tmp_path / "data/JPEGImages/b.jpg", (5, 6))
    result, listener, _ = small_run(tmp_path / "data", tmp_path / "out")
    assert (result.report.coverage.asked, result.report.coverage.evaluated) == (2, 1)
    (failure,) = result.report.failures
    assert failure.name == "b"
    assert "to be 6 x 5 like its image, but it is 6 x 4; label images are never resized here. Pascal" in failure.reason
    assert result.report.body.scores[0].miou == pytest.approx(0.5)
    assert listener.headlines == [pytest.approx(0.5), pytest.approx(0.5)]
    assert "## Not evaluated: 1" in (tmp_path / "out/report.md").read_text()


@pytest.mark.parametrize("named", ["whole", "from here", "here"])
def test_reports_name_files_from_the_root_on_wherever_that_is(tmp_path, monkeypatch, named):
    small_tree(tmp_path / "data")
    (tmp_path / "data/SegmentationClass/b.png").unlink()
    (tmp_path / "data/JPEGImages/a.jpg").write_bytes(b"broken")
    monkeypatch.chdir(tmp_path / ("data" if named == "here" else "."))
    root = {"whole": tmp_path / "data", "from here": Path("data"), "here": Path()}[named]
    result, listener, _ = small_run(root, tmp_path / "out")
    reasons = {failure.name: failure.reason for failure in result.report.failures}
    assert reasons["a"] == "Cannot read the image JPEGImages/a.jpg: it is of no known format."
    assert "the image b: expected SegmentationClass/b.png. Pascal" in reasons["b"]
    assert f"expected {root / 'SegmentationClass/b.png'}. Pascal" in listener.failures[1]


def test_an_image_that_the_segmenter_refuses_is_counted_too(tmp_path):
    small_tree(tmp_path / "data")
    result, _, _ = small_run(tmp_path / "data", tmp_path / "out", refused=(4, 6))
    assert [failure.reason for failure in result.report.failures] == ["This image was refused."]


@pytest.mark.parametrize(
    "mistake",
    [{"proposal_template": LONG}, {"templates": (LONG,)}, {"background_texts": (LONG,)}, {"contrast_texts": (LONG,)}],
)
def test_settings_that_fail_on_every_image_end_before_the_first(tmp_path, mistake):
    small_tree(tmp_path / "data")
    protocol = voc(tmp_path / "data")
    with pytest.raises(InputError, match=r"This text is too long\."):
        evaluate(protocol, FakeSegmenter({}).replace(**mistake), tmp_path / "out", RunOptions())
    assert not (tmp_path / "out").exists()


def test_what_failed_is_tried_again_and_what_is_done_is_not(tmp_path):
    small_tree(tmp_path / "data")
    annotation = tmp_path / "data/SegmentationClass/b.png"
    kept = annotation.read_bytes()
    annotation.unlink()
    _, _, first = small_run(tmp_path / "data", tmp_path / "out")
    annotation.write_bytes(kept)
    result, listener, second = small_run(tmp_path / "data", tmp_path / "out")
    assert (len(first.calls), len(second.calls)) == (1, 1)
    assert (listener.starts, listener.measures) == ([(2, 1)], ["mIoU"])
    assert result.report.coverage.evaluated == 2


def test_a_limit_takes_the_first_images_and_can_be_raised_later(tmp_path):
    small_tree(tmp_path / "data")
    one, _, _ = small_run(tmp_path / "data", tmp_path / "out", RunOptions(limit=1))
    two, _, fake = small_run(tmp_path / "data", tmp_path / "out")
    assert (one.report.coverage.asked, one.report.coverage.listed) == (1, 2)
    assert two.report.coverage.evaluated == 2
    assert len(fake.calls) == 1


def test_a_limit_below_one_is_an_input_error(tmp_path):
    small_tree(tmp_path / "data")
    with pytest.raises(InputError, match="a limit of at least 1 image, but got 0"):
        small_run(tmp_path / "data", tmp_path / "out", RunOptions(limit=0))


def test_a_shard_alone_makes_no_report_and_says_how_many_images_are_left(tmp_path):
    small_tree(tmp_path / "data")
    result, _, _ = small_run(tmp_path / "data", tmp_path / "out", RunOptions(shard=Shard(2, 2)))
    assert (result.report, result.missing) == (None, 1)
    assert not (tmp_path / "out/report.json").exists()


def test_a_folder_of_another_run_is_refused_by_the_first_setting_that_differs(tmp_path):
    small_tree(tmp_path / "data")
    _, _, fake = small_run(tmp_path / "data", tmp_path / "out")
    changed = fake.replace(crf=False)
    protocol = voc(tmp_path / "data")
    with pytest.raises(InputError, match=r"holds a run with settings\.crf = True, but now it is False; .* with -o"):
        evaluate(protocol, changed, tmp_path / "out", RunOptions())


def test_a_long_list_that_differs_is_told_in_short(tmp_path):
    small_tree(tmp_path / "data")
    _, _, fake = small_run(tmp_path / "data", tmp_path / "out")
    changed = fake.replace(background_texts=())
    protocol = voc(tmp_path / "data")
    with pytest.raises(
        InputError, match=r"background_texts = 23 entries \(ground, land, grass, tree, \.\.\.\), .* is \[\];"
    ):
        evaluate(protocol, changed, tmp_path / "out", RunOptions())


def test_a_folder_of_another_model_is_refused(tmp_path):
    small_tree(tmp_path / "data")
    small_run(tmp_path / "data", tmp_path / "out")
    description = json.loads((tmp_path / "out/run.json").read_text())
    description["models"]["model"] = "fake, fingerprint 4567"
    (tmp_path / "out/run.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"models\.model = 'fake, fingerprint 4567', but now it is 'fake, .* 0123'"):
        small_run(tmp_path / "data", tmp_path / "out")


def test_predictions_are_label_maps_and_missing_ones_are_made_later(tmp_path):
    small_tree(tmp_path / "data")
    small_run(tmp_path / "data", tmp_path / "out")
    _, _, fake = small_run(tmp_path / "data", tmp_path / "out", RunOptions(save_predictions=True))
    assert len(fake.calls) == 2
    assert read_label_map(tmp_path / "out/predictions/a.png").tolist() == [[1] * 4] * 2 + [[0] * 4] * 2


def test_what_a_kill_left_half_written_is_removed_but_not_what_is_under_way(tmp_path):
    small_tree(tmp_path / "data")
    left = tmp_path / "out/predictions/.left.part"
    left.mkdir(parents=True)
    (left / "a.png").write_bytes(b"half")
    with staging(tmp_path / "out/predictions", "b.png") as under_way:
        small_run(tmp_path / "data", tmp_path / "out")
        assert (left.exists(), under_way.exists()) == (False, True)


def test_a_limited_run_leaves_the_report_of_a_longer_one_alone(tmp_path):
    small_tree(tmp_path / "data")
    assert small_run(tmp_path / "data", tmp_path / "out")[0].is_written
    whole = reports(tmp_path / "out")
    result, _, _ = small_run(tmp_path / "data", tmp_path / "out", RunOptions(limit=1))
    assert (result.report.coverage.asked, result.is_written) == (1, False)
    assert reports(tmp_path / "out") == whole


@pytest.mark.parametrize("name", ["../../b", "/b", "x/../../b", "b\x00"])
def test_a_name_that_leads_out_of_the_folder_is_refused_before_anything_is_written(tmp_path, name):
    small_tree(tmp_path / "data")
    (tmp_path / "data/ImageSets/Segmentation/val.txt").write_text(f"a\n{name}\n")
    with pytest.raises(InputError, match=r"names that stay below a folder in the split 'val' of Pascal VOC 2012, but"):
        small_run(tmp_path / "data", tmp_path / "out", RunOptions(save_predictions=True))
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_listed_twice_counts_once(tmp_path):
    small_tree(tmp_path / "data")
    (tmp_path / "data/ImageSets/Segmentation/val.txt").write_text("a\nb\na\n")
    result, listener, fake = small_run(tmp_path / "data", tmp_path / "out")
    assert (result.report.coverage.asked, listener.starts, len(fake.calls)) == (2, [(2, 0)], 2)
    assert sum(row.pixels for row in result.report.body.classes) == 4 * 4 + 4 * 6


def test_values_that_name_no_class_are_warned_of_and_documented_ones_are_not(tmp_path):
    """VOC leaves out pixels of value 255; 77 is no class of it."""
    values = np.array([[1, 77, 78, 255]])
    write_tree("voc", tmp_path / "data", {"a": values, "b": np.array([[1, 255]]), "c": values})
    result, _, _ = small_run(tmp_path / "data", tmp_path / "out")
    (warning,) = result.report.warnings
    assert warning.startswith("4 pixels in 2 images have a value that is no class of the vocabulary and count nowhere")
    assert "first the value 77 in a" in warning
    assert f"**Warning:** {warning}" in (tmp_path / "out/report.md").read_text()
    assert json.loads((tmp_path / "out/report.json").read_text())["warnings"] == [warning]


def test_a_file_in_place_of_the_output_folder_is_an_input_error(tmp_path):
    small_tree(tmp_path / "data")
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(InputError, match=r"Expected an output folder that can be written, but got .*out': File exists"):
        small_run(tmp_path / "data", tmp_path / "out")


@pytest.mark.parametrize("writes", range(4))
def test_a_full_disk_is_an_input_error_whatever_is_being_written(tmp_path, monkeypatch, writes):
    small_tree(tmp_path / "data")
    left = iter(range(writes))

    def sync(_):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(InputError, match=r"The results cannot be written to .*: No space left on device\."):
        small_run(tmp_path / "data", tmp_path / "out")


@pytest.mark.parametrize("counts", [[[21, 0, 5]], [[1, 999, 5]]])
def test_a_label_beyond_the_vocabulary_in_the_records_is_an_input_error(tmp_path, counts):
    small_tree(tmp_path / "data")
    small_run(tmp_path / "data", tmp_path / "out")
    path = tmp_path / "out/records/1-of-1.ndjson"
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    path.write_text("".join(json.dumps(entry) + "\n" for entry in ({**first, "counts": counts}, second)))
    with pytest.raises(InputError, match=r"Expected labels from 0 to 20 in the records, but got (21|999)\."):
        small_run(tmp_path / "data", tmp_path / "out")


def test_records_of_references_among_those_of_label_maps_are_an_input_error(tmp_path):
    small_tree(tmp_path / "data")
    small_run(tmp_path / "data", tmp_path / "out")
    path = tmp_path / "out/records/1-of-1.ndjson"
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    del first["counts"]
    first |= {"overlaps": [[1, 2], [1, 2]], "has_target": True, "is_empty": False}
    path.write_text("".join(json.dumps(entry) + "\n" for entry in (first, second)))
    with pytest.raises(InputError, match="The record of a is of another kind of data set"):
        small_run(tmp_path / "data", tmp_path / "out")
