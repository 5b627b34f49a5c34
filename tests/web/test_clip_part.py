"""The part of the page that takes clips, in the browser, on made-up stages."""

import zipfile

import numpy as np
import pytest

from clip_as_rnn.io.video import write_video

pytestmark = pytest.mark.web
FRAMES = 20


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.webm"
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None], (64, 96, 3))
    write_video(path, (np.ascontiguousarray(ramp + 5 * t) for t in range(FRAMES)), fps=10)
    return path


def ask(visitor, clip, *texts):
    """Turn to the clips, upload one and type the texts."""
    visitor.page.get_by_role("tab", name="Clip").click()
    visitor.page.locator("#clip input[type=file]").set_input_files(clip)
    for text in texts:
        visitor.page.locator("#clip-texts input").fill(text)
        visitor.page.locator("#clip-texts input").press("Enter")
    visitor.page.locator("#clip .file-preview").wait_for()
    visitor.page.get_by_role("button", name="Find in the clip").click()


def await_status(visitor, words):
    visitor.page.locator("#clip-status .car-status", has_text=words).wait_for()


def test_a_clip_is_shown_with_its_masks_and_its_timeline(visit, made_up, clip, tmp_path):
    visitor = visit(made_up)
    ask(visitor, clip, "dog", "ghost")
    await_status(visitor, f"Found dog in {FRAMES} of {FRAMES} frames. Never found: ghost.")
    visitor.page.wait_for_function(
        "() => [...document.querySelectorAll('#clip-overlay video')].some(v => v.readyState >= 2 && v.videoWidth > 0)"
    )
    visitor.page.evaluate("document.querySelector('#clip-overlay video').play()")
    visitor.page.wait_for_function("() => document.querySelector('#clip-overlay video').currentTime > 0.3")
    visitor.page.wait_for_function("() => document.querySelector('#clip-timeline img').naturalWidth > 100")
    archive = visitor.download("Label maps (ZIP)", tmp_path)
    assert len(zipfile.ZipFile(archive).namelist()) == FRAMES
    failures = [one for one in visitor.failures if "ERR_ABORTED" not in one]  # streams end when they are not needed
    assert failures == []


def test_a_run_over_a_clip_can_be_stopped(visit, made_up, clip):
    visitor = visit(made_up)
    ask(visitor, clip, "slow", "dog")
    await_status(visitor, f"of {FRAMES} frames done")
    visitor.page.get_by_role("button", name="Stop").click()
    await_status(visitor, "Stopped.")
    visitor.page.wait_for_function(
        "() => [...document.querySelectorAll('button')].some(b => b.innerText == 'Find in the clip' && !b.disabled)"
    )


def test_what_is_no_clip_is_told(visit, made_up, tmp_path):
    path = tmp_path / "song.mp4"
    path.write_bytes(b"nothing")
    visitor = visit(made_up)
    visitor.page.get_by_role("tab", name="Clip").click()
    visitor.page.locator("#clip input[type=file]").set_input_files(path)
    visitor.page.locator("#clip-texts input").fill("dog")
    visitor.page.locator("#clip-texts input").press("Enter")
    visitor.page.locator("#clip .file-preview").wait_for()
    visitor.page.get_by_role("button", name="Find in the clip").click()
    await_status(visitor, "Expected a video, but 'song.mp4' is none")
