"""Clips with expressions: how they are found and read, what is asked, how answers are scored and saved."""

import json

import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.registry import find_dataset
from clip_as_rnn.evaluation.datasets.video import open_video_split
from clip_as_rnn.evaluation.metrics.clips import ClipScores, ObjectScores, Share, VideoMetric, measure_flicker
from clip_as_rnn.evaluation.metrics.video import score_sequence
from clip_as_rnn.evaluation.protocol import EvaluationProtocol
from clip_as_rnn.evaluation.report import render_report
from clip_as_rnn.evaluation.runner import RunOptions, Shard, evaluate
from clip_as_rnn.evaluation.store import Record, RecordStore
from clip_as_rnn.ops import encode_rle
from evaluation_trees import Listener
from fake_stages import fake_segmenter

SIZE_HW = (32, 40)
FRAMES = 5
CLIPS = find_dataset("clips")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decoder


def squares() -> np.ndarray:
    """Label maps in which object 1 moves to the right, and object 2 leaves after the third frame."""
    labels = np.zeros((FRAMES, *SIZE_HW), np.uint8)
    for t in range(FRAMES):
        labels[t, 4:14, 2 + 3 * t : 12 + 3 * t] = 1
        if t < 3:
            labels[t, 18:28, 20:32] = 2
    return labels


def write_frames(folder, labels_folder, labels):
    folder.mkdir(parents=True)
    labels_folder.mkdir(parents=True, exist_ok=True)
    for t, one in enumerate(labels):
        Image.fromarray(np.full((*one.shape, 3), 10 * t, np.uint8)).save(folder / f"{t:05d}.jpg")
        Image.fromarray(one, mode="L").save(labels_folder / f"{t:05d}.png")


@pytest.fixture
def root(tmp_path):
    """Two clips in the converted layout, each of two annotators."""
    videos = {}
    for name in ("a", "b"):
        write_frames(tmp_path / "valid/JPEGImages" / name, tmp_path / "valid/Annotations" / name, squares())
        said = {"0": ("the dog", "1"), "1": ("a puppy ", "1"), "2": ("the cat", "2"), "3": ("a kitten", "2")}
        videos[name] = {
            "expressions": {number: {"exp": exp, "obj_id": obj} for number, (exp, obj) in said.items()},
            "frames": [f"{t:05d}" for t in range(FRAMES)],
            "absent": [["the ghost"], ["a spirit"]],
        }
    path = tmp_path / "meta_expressions/valid/meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": videos}))
    return tmp_path


def run(root, folder, judge=lambda text, texts, image: 0.9, dataset=CLIPS, split=None, **options):
    segmenter = fake_segmenter(judge)
    protocol = EvaluationProtocol(dataset=dataset, root=root, preset="tiny", split=split)
    return segmenter, evaluate(protocol, segmenter, folder, RunOptions(**options))


def test_the_expressions_of_one_annotator_are_asked_together(root):
    split = open_video_split(CLIPS, root, "valid")
    assert split.names == ("anno_0/a", "anno_1/a", "anno_0/b", "anno_1/b")
    sample = split.samples[1]
    assert (sample.texts, sample.objects, sample.absent) == (("a puppy", "a kitten"), (1, 2), ("a spirit",))
    assert np.array_equal(split.read_truth(1), squares())
    assert [int(frame[0, 0, 0]) for frame in split.read_frames(1)] == [0, 10, 20, 30, 40]


def test_scores_are_those_of_the_label_maps_that_were_painted(root, tmp_path):
    """The made-up stages find "the dog" everywhere: that is what J and F are of."""
    _, result = run(root, tmp_path / "out", lambda text, texts, image: 0.9 if text == "the dog" else 0.1)
    rows = {(row.convention, row.annotator): row for row in result.report.body.rows}
    everywhere = np.ones((FRAMES, *SIZE_HW), int)
    for task in ("unsupervised", "semi-supervised"):
        expected = score_sequence(squares().astype(int), everywhere, task=task)
        row = rows[task, "anno_0"]
        assert (row.objects, row.j, row.f) == (4, pytest.approx(expected.j.mean()), pytest.approx(expected.f.mean()))
        nothing = score_sequence(squares().astype(int), 0 * everywhere, task=task)
        assert rows[task, "anno_1"].j == pytest.approx(nothing.j.mean())
        assert rows[task, "all"].j == pytest.approx((expected.j.mean() + nothing.j.mean()) / 2)
    body = result.report.body
    assert body.recall == pytest.approx(2 * 5 / (4 * (5 + 3)))  # the dog of one annotator, of all that shows itself
    assert body.gone_rejected == 1.0
    assert (body.absent_rejected, body.never_found, body.flicker) == (1.0, 1.0, 0.0)
    assert result.report.headline.ours == rows["unsupervised", "all"].jf


def test_what_is_absent_counts_by_frame_and_by_text(root, tmp_path):
    judge = lambda text, texts, image: 0.9 if text == "the ghost" and image.image[0, 0, 0] == 10 else 0.1  # noqa: E731
    body = run(root, tmp_path / "out", judge)[1].report.body
    assert body.absent_rejected == pytest.approx(1 - 2 / (4 * FRAMES))
    assert body.never_found == pytest.approx(1 / 2)


def test_flicker_counts_changes_where_the_truth_stands_still():
    truth, found = np.zeros((3, 2, 2), int), np.zeros((3, 2, 2), int)
    truth[1:, 0, 0] = 1
    truth[:, 1, 1] = 255
    found[1, 0, 0] = found[1, 0, 1] = found[1, 1, 1] = 1
    assert measure_flicker(truth, found) == Share(3, 5)  # (0, 1) twice and (0, 0) once, where the truth stands still


def test_predictions_lie_as_they_are_submitted_and_are_not_made_again(root, tmp_path):
    first, _ = run(root, tmp_path / "out", save_predictions=True)
    with Image.open(tmp_path / "out/predictions/anno_1/b/00003.png") as labels:
        assert labels.mode == "P"
        assert np.asarray(labels).shape == SIZE_HW
        assert labels.getpalette()[3:6] == [128, 0, 0]
    assert len(first.stages.proposer.encoded) == 4 * FRAMES
    again, result = run(root, tmp_path / "out", save_predictions=True)
    assert again.stages.proposer.encoded == []
    assert result.report.coverage.evaluated == 4


def test_shards_share_the_samples_and_report_as_one(root, tmp_path):
    whole = run(root, tmp_path / "whole")[1]
    assert run(root, tmp_path / "out", shard=Shard(1, 2))[1].report is None
    assert run(root, tmp_path / "out", shard=Shard(2, 2))[1].report == whole.report


def test_records_are_read_back_as_they_were_written(tmp_path):
    scores = ClipScores("anno_0", 5, ObjectScores((0.25,), (1.0,)), None, Share(1, 7), Share(2, 2), absent=Share(0, 3))
    store = RecordStore(tmp_path, "digest")
    store.append(Record("anno_0/a", 1.5, scores))
    assert store.read() == {"anno_0/a": Record("anno_0/a", 1.5, scores)}


def test_the_report_shows_both_conventions_and_what_happens_over_time(root, tmp_path):
    listener = Listener()
    text = render_report(run(root, tmp_path / "out", progress=listener)[1].report)
    assert listener.measures == ["J&F"]
    assert "| unsupervised | all | 8 |" in text
    assert "| semi-supervised | anno_1 | 4 |" in text
    assert "(flicker)" in text
    assert run(root, tmp_path / "out")[1].timing.seconds_per_frame > 0


def test_a_clip_that_cannot_be_read_is_a_failure_of_its_own(root, tmp_path):
    (root / "valid/JPEGImages/a/00002.jpg").write_bytes(b"broken")
    (root / "valid/Annotations/b/00001.png").unlink()
    result = run(root, tmp_path / "out")[1]
    assert result.failures == 4
    reasons = {failure.name: failure.reason for failure in result.report.failures}
    assert "valid/JPEGImages/a/00002.jpg" in reasons["anno_0/a"]
    assert str(root) not in reasons["anno_0/b"]


def test_davis_is_read_as_it_is_published_typos_included(tmp_path):
    davis = tmp_path / "DAVIS"
    write_frames(davis / "JPEGImages/480p/motorbike", davis / "Annotations_unsupervised/480p/motorbike", squares())
    (davis / "ImageSets/2017").mkdir(parents=True)
    (davis / "ImageSets/2017/val.txt").write_text("motorbike\n")
    texts = tmp_path / "davis_text_annotations"
    texts.mkdir()
    for number, name in enumerate(("annot1", "annot1_full_video", "annot2", "annot2_full_video")):
        line = f'motor-bike 1 "a caf\u00e9 {number}"\nmotor-bike 2 "the bike"\n'
        (texts / f"Davis17_{name}.txt").write_text(line, encoding="utf-8" if "annot1" in name else "latin-1")
    split = open_video_split(find_dataset("ref-davis17"), tmp_path, "valid")
    assert split.names == tuple(f"anno_{k}/motorbike" for k in range(4))
    assert [sample.texts[0] for sample in split.samples] == [f"a caf\u00e9 {k}" for k in range(4)]
    assert np.array_equal(split.read_truth(3), squares())
    (texts / "Davis17_annot2.txt").write_text("motorbike one a bike\n")
    with pytest.raises(InputError, match=r'Expected `clip object "expression"` in line 1 of .*Davis17_annot2'):
        open_video_split(find_dataset("ref-davis17"), tmp_path, "valid")


def test_mevis_means_any_number_of_objects(tmp_path):
    labels = squares()
    write_frames(tmp_path / "valid_u/JPEGImages/v", tmp_path / "unused", labels)
    said = {"0": ("both", [7, 9]), "1": ("neither", [])}
    video = {
        "expressions": {number: {"exp": exp, "anno_id": objects} for number, (exp, objects) in said.items()},
        "frames": [f"{t:05d}" for t in range(FRAMES)],
    }
    runs = {
        str(name): [encode_rle(one == label) if (one == label).any() else None for one in labels]
        for name, label in ((7, 1), (9, 2))
    }
    (tmp_path / "valid_u/meta_expressions.json").write_text(json.dumps({"videos": {"v": video}}))
    (tmp_path / "valid_u/mask_dict.json").write_text(json.dumps(runs))
    split = open_video_split(find_dataset("mevis"), tmp_path, "valid_u")
    assert np.array_equal(split.read_truth(0), labels > 0)
    assert not split.read_truth(1).any()
    judge = lambda text, texts, image: 0.1  # noqa: E731
    body = run(tmp_path, tmp_path / "out", judge, find_dataset("mevis"), save_predictions=True)[1].report.body
    assert body.rows[0].j == pytest.approx(0.5)  # all of what is meant is missed; nothing is meant, and nothing found
    assert (tmp_path / "out/predictions/v/1/00004.png").is_file()


def test_a_split_without_truth_is_predicted_and_scored_nowhere(tmp_path):
    write_frames(tmp_path / "valid/JPEGImages/v", tmp_path / "unused", squares())
    video = {"expressions": {"0": {"exp": "the dog"}}, "frames": [f"{t:05d}" for t in range(FRAMES)]}
    (tmp_path / "meta_expressions/valid").mkdir(parents=True)
    (tmp_path / "meta_expressions/valid/meta_expressions.json").write_text(json.dumps({"videos": {"v": video}}))
    dataset = find_dataset("ref-youtube-vos")
    result = run(tmp_path, tmp_path / "out", dataset=dataset, save_predictions=True)[1]
    assert result.report.headline.ours is None
    with Image.open(tmp_path / "out/predictions/v/0/00000.png") as labels:
        assert np.unique(np.asarray(labels)).tolist() == [1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("nothing", "Expecting value"),
        ('{"videos": 3}', "a field in it is of another kind than expected"),
        ('{"videos": {"a": {}}}', "there is no 'frames' where one was expected"),
        ('{"videos": {"a": {"frames": [], "expressions": {}, "absent": []}}}', "a list in it is shorter than expected"),
        ('{"videos": {"a": {"frames": [], "expressions": {"first": {}}}}}', "invalid literal"),
        ('{"videos": {}}', "holds no clip"),
    ],
)
def test_expressions_that_are_not_as_they_should_be_are_refused(root, content, reason):
    (root / "meta_expressions/valid/meta_expressions.json").write_text(content)
    with pytest.raises(InputError, match=rf"{reason}.*data/clips of the repository"):
        open_video_split(CLIPS, root, "valid")


def test_data_that_is_not_there_is_named_with_its_source(tmp_path):
    with pytest.raises(InputError, match=r"There is no folder .*/nowhere, expected to hold Ref-DAVIS17"):
        open_video_split(find_dataset("ref-davis17"), tmp_path / "nowhere", "valid")
    with pytest.raises(InputError, match=r"Expected the expressions of Ref-DAVIS17 in .*ReferFormer"):
        open_video_split(find_dataset("ref-davis17"), tmp_path, "valid")


def test_a_metric_that_counted_nothing_has_no_score():
    assert VideoMetric().headline() is None
