"""Clips whose masks a small random SAM 2 follows, from the command to the files, on the bundled CLIP.

Every text is found in every frame, whatever the models know, but where nothing is to be found.
"""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from benchmarks import sam_clips

import command
from clip_as_rnn import load_segmenter
from clip_as_rnn.io.images import read_image
from clip_as_rnn.io.video import write_video
from clip_as_rnn.refine.sam.model import Sam
from clip_as_rnn.refine.sam.tracker import SamTracker
from clip_as_rnn.video.clip import ClipJob, segment_clip
from clip_as_rnn.video.records import FrameRecords
from random_sam import save_random_sam

car = command.whole_car  # a fixture

EXAMPLE = Path(__file__).parents[1] / "examples" / "park.jpg"
TEXTS = ("dog",)
COUNT = 6
BY_ITSELF = {"window_frames": 1, "context_frames": 0}
LOOSE = {"sam_iou_threshold": None, "sam_track_frames": 4, "score_threshold": 0.0, "crf": False}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_sam(tmp_path_factory.mktemp("sam2"), "sam2_video")


@pytest.fixture(scope="module")
def photos():
    """Let the example's dog move to the left."""
    picture = read_image(EXAMPLE)[::2, ::2]
    return [np.roll(picture, -3 * t, axis=1) for t in range(COUNT)]


@pytest.fixture(scope="module")
def segmenter(folder):
    return load_segmenter("tiny", sam=folder, **LOOSE, **BY_ITSELF)


@pytest.fixture(scope="module")
def results(segmenter, photos):
    return list(segmenter.segment_video(photos, TEXTS))


@pytest.fixture
def clip(photos, tmp_path):
    path = tmp_path / "clip.webm"
    write_video(path, photos, fps=10)
    return path


def reasons(results):
    return [{text: one.reason for text, one in result.refinements.items()} for result in results]


def test_masks_are_followed_and_nothing_else_changes(segmenter, results, photos):
    plain = list(segmenter.replace(sam_track_frames=1).segment_video(photos, TEXTS))
    followed = 0
    for one, other in zip(results, plain, strict=True):
        assert one.texts == other.texts == TEXTS
        assert one.scores.tolist() == other.scores.tolist()
        is_followed = one.refinements["dog"].reason.startswith("followed from")
        followed += is_followed and not np.array_equal(one.label_map(), other.label_map())
        assert is_followed or np.array_equal(one.label_map(), other.label_map())
    assert followed >= 2
    assert sum("key frame" in one["dog"] for one in reasons(results)) == 2
    assert not any("follow" in one["dog"] for one in reasons(plain))


def test_every_frame_is_encoded_by_sam_once_and_none_where_nothing_is_found(segmenter, photos, monkeypatch):
    encoded, encode = [], Sam.encode
    monkeypatch.setattr(Sam, "encode", lambda sam, image: encoded.append(1) or encode(sam, image))
    nothing = segmenter.replace(score_threshold=1.0)
    assert [one.texts for one in nothing.segment_video(photos[:2], TEXTS)] == [()] * 2
    assert encoded == []
    list(segmenter.segment_video(photos[:3], TEXTS))
    assert len(encoded) == 3


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_a_sam_for_pictures_refines_every_frame_by_itself(tmp_path, photos, family):
    segmenter = load_segmenter("tiny", sam=save_random_sam(tmp_path, family), **LOOSE, **BY_ITSELF)
    for one, photo in zip(segmenter.segment_video(photos[:2], TEXTS), photos, strict=False):
        picture = segmenter.segment(photo, TEXTS)
        np.testing.assert_array_equal(one.label_map(), picture.label_map())
        assert reasons([one]) == reasons([picture])
        assert "track" not in one.seconds
    assert segmenter.describe()["sam_type"] == family


def test_the_command_goes_from_clip_to_files(car, folder, clip, tmp_path):
    options = [["--set", f"{name}={str(value).lower()}"] for name, value in {**LOOSE, **BY_ITSELF}.items()]
    options += [["-t", "dog"], ["--preset", "tiny"], ["--sam", folder], ["-o", tmp_path / "out"]]
    assert car("segment", clip, *chain.from_iterable(options)) == (0, "")
    records = FrameRecords(tmp_path / "out" / "clip.ndjson")
    said = [record.found[0].sam["reason"] for record in records]
    assert len(said) == COUNT
    assert any(reason.startswith("followed from") for reason in said)
    run = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert (run["settings"]["sam_track_frames"], run["settings"]["sam"]) == (4, str(folder))
    assert (run["models"]["sam_type"], len(run["models"]["sam_fingerprint"])) == ("sam2_video", 16)


def lines(job):
    """Read the records, each with its masks."""
    return [
        (one.name, [(found.text, found.rle, found.sam) for found in one.found])
        for one in FrameRecords(job.path(".ndjson"))
    ]


def test_a_run_that_was_broken_off_goes_on_as_if_it_had_not(segmenter, clip, tmp_path):
    whole, broken = (
        ClipJob(source=clip, texts=TEXTS, preset="tiny", folder=tmp_path, stem=stem, title="clip")
        for stem in ("whole", "broken")
    )
    segment_clip(whole, segmenter)

    def stop(done, count):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_clip(broken, segmenter, stop)
    assert lines(broken) == lines(whole)[:5]
    segment_clip(broken, segmenter)
    assert lines(broken) == lines(whole)


def test_a_model_that_cannot_be_used_is_one_line(car, folder, clip, tmp_path):
    other = save_random_sam(tmp_path / "edgetam", "sam2_video")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "edgetam_video"}))
    code, err = car("segment", clip, "-t", "dog", "--preset", "tiny", "--sam", other, "-o", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("Error: The SAM in ")
    assert "known are the types sam, sam_hq, sam2, sam2_video." in err


def test_masks_that_may_overlap_are_followed_each_by_itself(segmenter, photos):
    referring = segmenter.replace(mode="referring")
    assert isinstance(referring.stages.tracker, SamTracker)
    results = list(referring.segment_video(photos[:3], ["dog", "tree"]))
    assert [len(result) for result in results] == [2] * 3
    assert all(result.masks.any(axis=(1, 2)).all() for result in results)
    assert sum("followed" in reason for one in reasons(results) for reason in one.values()) == 4  # of 6, two are keys


def test_sam_turned_off_follows_nothing(segmenter):
    assert segmenter.replace(sam=None).stages.tracker is None
    assert segmenter.replace(sam_track_frames=1).stages.tracker is None


@pytest.mark.parametrize("count", [-1, 0, 1, 2])
def test_a_benchmark_of_too_few_frames_is_refused(count, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sam_clips", "--frames", str(count)])
    monkeypatch.setattr(sam_clips, "random_sam_2", lambda _: pytest.fail("made a model"))
    with pytest.raises(SystemExit, match=r"^2$"):
        sam_clips.main()
    assert f"error: --frames is {count}, but a mask is followed to the third frame: give 3" in capsys.readouterr().err
