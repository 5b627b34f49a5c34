"""What the page makes of a clip, and of what is none, without a browser."""

import numpy as np
import pytest
from made_up_stages import made_up_segmenter

from clip_as_rnn.apps.web import clip_handler
from clip_as_rnn.apps.web.clip_handler import ClipRequest, handle_clip
from clip_as_rnn.apps.web.workers import Job, StoppedError
from clip_as_rnn.errors import InputError
from clip_as_rnn.io.video import write_video
from clip_as_rnn.presets import find_preset

FRAMES = 20
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decoder


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "uploads" / "clip.webm"
    path.parent.mkdir()
    write_video(path, (np.full((64, 96, 3), 10 * t, dtype=np.uint8) for t in range(FRAMES)), fps=10)
    return path


def run(tmp_path, clip, said=None, *, stop_at=None, mode="semantic", texts=("dog", "ghost")):
    folder = tmp_path / "results"
    folder.mkdir()
    said = [] if said is None else said
    job = Job(said.append)

    def report(message):
        said.append(message)
        if len(said) == stop_at:
            job.stop.set()

    job = Job(report)
    request = ClipRequest(clip=clip, texts=list(texts), mode=mode)
    return handle_clip(request, made_up_segmenter(find_preset("tiny")), "tiny", lambda: folder, job)


def test_a_clip_gives_video_timeline_label_maps_and_records(tmp_path, clip):
    said = []
    response = run(tmp_path, clip, said)
    assert response.summary == f"Found dog in {FRAMES} of {FRAMES} frames. Never found: ghost."
    for path in (response.overlay, response.timeline, response.labels, response.records):
        assert path.stat().st_size > 0
    assert f"12 of {FRAMES} frames done; writing" in said  # a window of 16 frames looks 4 ahead
    assert str(tmp_path) not in response.records.read_text()


def test_a_run_that_is_stopped_ends_at_the_next_piece_of_work(tmp_path, clip):
    said = []
    with pytest.raises(StoppedError):
        run(tmp_path, clip, said, stop_at=7)
    assert len(said) == 7


@pytest.mark.parametrize("count", [FRAMES, None])
def test_a_clip_that_is_too_long_is_refused_also_if_it_does_not_say_so(tmp_path, clip, monkeypatch, count):
    monkeypatch.setattr(clip_handler, "MOST_FRAMES", 10)
    monkeypatch.setattr(clip_handler, "_check_clip", clip_handler._check_clip if count else lambda path: None)
    with pytest.raises(InputError, match="Expected a clip of at most 10 frames on this page"):
        run(tmp_path, clip)


def test_what_is_no_clip_is_refused_by_its_name(tmp_path):
    path = tmp_path / "uploads" / "song.mp4"
    path.parent.mkdir()
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"Expected a video, but 'song.mp4' is none"):
        run(tmp_path, path)


def test_a_mode_that_the_page_does_not_offer_is_refused(tmp_path, clip):
    with pytest.raises(InputError, match="Expected one of the modes that the page offers"):
        run(tmp_path, clip, mode=3)
