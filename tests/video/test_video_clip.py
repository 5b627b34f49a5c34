"""Clips to files on stages that are made up: what is written, and that a run broken off goes on."""

import json
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import command
from clip_as_rnn.errors import InputError
from clip_as_rnn.io.video import open_video, write_video
from clip_as_rnn.video import clip as clip_module
from clip_as_rnn.video.clip import ClipJob, segment_clip
from clip_as_rnn.video.drawing import davis_palette
from clip_as_rnn.video.records import FrameRecords
from command import files_in
from fake_stages import fake_segmenter

car, loads = command.car, command.loads  # fixtures
TEXTS = ("dog", "cat", "ghost")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decoder


def segmenter_of(judge=None):
    return fake_segmenter(judge or (lambda text, texts, image: 0.1 if text == "ghost" else 0.9))


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.webm"
    write_video(path, (np.full((32, 48, 3), 20 * t, dtype=np.uint8) for t in range(9)), fps=10)
    return path


@pytest.fixture
def job(clip, tmp_path):
    (tmp_path / "out").mkdir()
    return ClipJob(source=clip, texts=TEXTS, preset="tiny", folder=tmp_path / "out", stem="clip")


def test_frames_go_through_the_segmenter_one_result_each(clip):
    results = list(segmenter_of().segment_video(clip, TEXTS))
    assert [found.texts for found in results] == [("dog", "cat")] * 9
    assert results[0].size_hw == (32, 48)


def test_frames_are_read_only_as_they_are_needed():
    read = []

    def frames():
        for t in range(500):
            read.append(t)
            yield np.zeros((200, 200, 3), dtype=np.uint8)

    results = segmenter_of().segment_video(frames(), TEXTS)
    next(results)
    assert len(read) <= 4
    tracemalloc.start()
    held = []
    for number, _ in enumerate(results):
        if number in (50, 450):
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] < held[0] + 10 * 200 * 200 * 3


def test_a_clip_gives_overlay_labels_records_timeline_and_summary(job):
    told = []
    summary = segment_clip(job, segmenter_of(), lambda done, count: told.append((done, count)))
    names = [f"clip_labels/{t:05d}.png" for t in range(9)]
    assert files_in(job.folder) == sorted(
        ["clip.json", "clip.ndjson", "clip_overlay.webm", "clip_timeline.png", *names]
    )
    assert told == [(t + 1, 9) for t in range(9)]
    assert [(one.text, one.frames) for one in summary.appearances] == [("dog", 9), ("cat", 9), ("ghost", 0)]
    assert summary.notes == ("Never found: ghost.",)
    assert len(list(open_video(job.path("_overlay.webm")).frames)) == 9
    content = json.loads(job.path(".json").read_text())
    assert (content["frames"], content["queries"], content["fps"]) == (9, list(TEXTS), 10)


def test_label_maps_number_texts_as_asked_in_the_colors_of_davis(job):
    segment_clip(job, segmenter_of(lambda text, texts, image: 0.9 if text == "cat" else 0.1))
    with Image.open(job.path("_labels") / "00003.png") as labels:
        assert np.unique(np.asarray(labels)).tolist() == [2]
        assert labels.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert davis_palette()[[2, 3, 254]].tolist() == [[128, 128, 0], [0, 0, 128], [224, 224, 192]]


def test_records_hold_the_masks_of_every_frame(job):
    segment_clip(job, segmenter_of())
    records = list(FrameRecords(job.path(".ndjson")))
    assert [record.time_s for record in records] == pytest.approx(np.arange(9) / 10, abs=1e-3)
    assert records[0].found[0].mask().shape == (32, 48)
    assert records[0].found[0].area_px == records[0].found[0].mask().sum() == 32 * 48
    assert records[0].rejected == {"ghost": pytest.approx(0.1)}


def test_a_run_that_was_broken_off_goes_on_behind_what_it_did(job):
    asked = []

    def judge(text, texts, image):
        asked.append(int(image.image[0, 0, 0]))
        if len(asked) > 3 * 5:
            raise KeyboardInterrupt
        return 0.9

    with pytest.raises(KeyboardInterrupt):
        segment_clip(job, segmenter_of(judge))
    done = [record.name for record in FrameRecords(job.path(".ndjson"))]
    assert done == [f"{t:05d}" for t in range(4)]
    assert not job.path(".json").exists()
    with job.path(".ndjson").open("a") as file:
        file.write('{"name":"00004","time_s":')  # a kill tears a line off
    again = segmenter_of()
    assert segment_clip(job, again).frames == 9
    assert len(again.stages.proposer.encoded) == 5
    assert [record.name for record in FrameRecords(job.path(".ndjson"))] == [f"{t:05d}" for t in range(9)]


def test_frames_that_were_done_are_not_held_until_the_first_that_was_not(job, monkeypatch):
    """A long clip broken off near its end would not fit into memory."""
    alive, opened = [], open_video(job.source)

    def watched(frames):
        for frame in frames:
            alive.append(weakref.ref(frame.pixels))
            assert sum(one() is not None for one in alive) <= 4  # what the loops on the way hold
            yield frame

    def stop(done, count):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_clip(job, segmenter_of(), stop)
    opened.frames = watched(opened.frames)
    originals = iter([opened, open_video(job.source)])
    monkeypatch.setattr(clip_module, "open_video", lambda _: next(originals))
    assert segment_clip(job, segmenter_of()).frames == 9
    assert len(alive) == 9


def test_a_run_that_was_finished_is_not_done_again(job):
    segment_clip(job, segmenter_of())
    again = segmenter_of()
    segment_clip(job, again)
    assert again.stages.proposer.encoded == []


def test_another_run_takes_the_place_of_the_first(job):
    segment_clip(job, segmenter_of())
    job.path("_overlay.mp4").touch()
    other = ClipJob(source=job.source, texts=("bird",), preset="tiny", folder=job.folder, stem="clip")
    assert [one.text for one in segment_clip(other, segmenter_of()).appearances] == ["bird"]
    assert not job.path("_overlay.mp4").exists()
    assert len(list(FrameRecords(job.path(".ndjson")))) == 9


def test_more_texts_than_labels_are_refused(job):
    many = ClipJob(source=job.source, texts=tuple(map(str, range(255))), preset="tiny", folder=job.folder, stem="clip")
    with pytest.raises(InputError, match="at most 254 texts for a clip, but got 255"):
        segment_clip(many, segmenter_of())


@pytest.fixture
def fake_models(monkeypatch, loads):
    monkeypatch.setattr("clip_as_rnn.loading.load_segmenter", lambda config, **_: segmenter_of())


def test_the_command_segments_clips_and_pictures_side_by_side(car, fake_models, clip):
    Image.new("RGB", (16, 12)).save("photo.png")
    end = car("segment", "clip.webm", "photo.png", "-t", "dog", "-t", "ghost", "-o", "found", "-f", "json")
    assert end.code == 0, end.err
    assert {"clip.json", "clip_overlay.webm", "clip_timeline.png", "photo.json"} <= set(files_in(Path("found")))
    assert "Note: Never found: ghost." in end.err
    assert "9 frames" in end.out


def test_the_command_takes_folders_as_clips_where_it_is_told_to(car, fake_models, tmp_path):
    (tmp_path / "frames").mkdir()
    for t in (0, 1, 3):
        Image.new("RGB", (16, 12)).save(tmp_path / "frames" / f"{t:03d}.png")
    end = car("segment", "frames", "--frames", "-t", "dog")
    assert end.code == 0
    assert "Note: The numbers 2 are missing" in end.err
    assert sorted(path.name for path in Path("out/frames_labels").iterdir()) == ["000.png", "001.png", "003.png"]


def test_a_clip_that_cannot_be_read_does_not_stop_the_rest(car, fake_models, clip):
    Path("broken.mp4").write_bytes(b"nothing")
    end = car("segment", "broken.mp4", "clip.webm", "-t", "dog")
    assert end.code == 2
    assert end.err.startswith("Error: Expected a video, but 'broken.mp4' is none")
    assert Path("out/clip.json").exists()


def test_an_unknown_kind_of_video_is_refused(car, fake_models, clip):
    end = car("segment", "clip.webm", "-t", "dog", "--video", "gif")
    assert (end.code, end.err) == (2, "Error: Expected --video to be one of webm, mp4, but got 'gif'.\n")
