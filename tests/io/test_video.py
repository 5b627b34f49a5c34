"""Clips in and out: files of both containers, folders, odd sizes, rotation, uneven times, damage."""

import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.errors import DependencyError, InputError
from clip_as_rnn.io.video import open_video, write_video


def moving_square(count, size_hw=(48, 64)):
    frames = np.full((count, *size_hw, 3), 40, dtype=np.uint8)
    for t, frame in enumerate(frames):
        frame[10:30, 4 + 2 * t : 24 + 2 * t] = (230, 60, 20)
    return frames


def read(source):
    video = open_video(source)
    return video, list(video.frames)


@pytest.mark.parametrize("ending", ["webm", "mp4"])
def test_what_is_written_reads_back(tmp_path, ending):
    frames, path = moving_square(7), tmp_path / f"clip.{ending}"
    write_video(path, frames, fps=10)
    video, back = read(path)
    assert (video.count, video.fps, video.notes) == (7, 10, [])
    assert [frame.name for frame in back] == [f"{t:05d}" for t in range(7)]
    assert [frame.time_s for frame in back] == pytest.approx(np.arange(7) / 10, abs=1e-3)
    for frame, pixels in zip(back, frames, strict=True):
        assert np.abs(frame.pixels.astype(int) - pixels).mean() < 8


@pytest.mark.parametrize("ending", ["webm", "mp4"])
def test_odd_sides_lose_no_pixel(tmp_path, ending):
    frames, path = moving_square(3, (47, 65)), tmp_path / f"odd.{ending}"
    write_video(path, frames, fps=10)
    _, back = read(path)
    assert back[0].pixels.shape == (48, 66, 3)
    assert np.abs(back[0].pixels[:47, :65].astype(int) - frames[0]).mean() < 8


def test_writing_says_nothing(tmp_path, capfd):
    write_video(tmp_path / "clip.webm", moving_square(2), fps=10)
    assert capfd.readouterr() == ("", "")


def test_frames_that_are_shown_unevenly_keep_their_times(tmp_path):
    path, times_ms = tmp_path / "uneven.mp4", [0, 40, 200, 230, 700]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time_ms in zip(moving_square(5), times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _, back = read(path)
    assert [frame.time_s for frame in back] == pytest.approx([time / 1000 for time in times_ms], abs=2e-3)


def test_a_damaged_clip_is_read_without_its_decoder_speaking_also_after_one_was_written(tmp_path):
    """In a process of its own: the decoder asks whether to speak once, as it is first used, be it to write."""
    program = """
import sys
from pathlib import Path
import numpy as np
from clip_as_rnn.io.video import open_video, write_video
path = Path(sys.argv[1])
frames = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
write_video(path, frames, fps=10)
content = bytearray(path.read_bytes())
content[2000:4000] = b"\\xff" * 2000
path.write_bytes(content)
print(len(list(open_video(path).frames)))
"""
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.webm")], capture_output=True, text=True)
    assert int(ran.stdout) < 6
    assert ran.stderr == ""


def test_frames_are_turned_as_the_file_says(tmp_path):
    path = tmp_path / "turned.mp4"
    write_video(path, moving_square(3), fps=10)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    _, back = read(path)
    assert back[0].pixels.shape == (64, 48, 3)
    upright = np.rot90(moving_square(3)[0], -1)
    assert np.abs(back[0].pixels.astype(int) - upright).mean() < 8


def test_a_file_that_breaks_off_gives_what_could_be_read(tmp_path):
    path = tmp_path / "cut.webm"
    rng = np.random.default_rng(0)
    write_video(path, rng.integers(0, 255, (30, 48, 64, 3), dtype=np.uint8), fps=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video, back = read(path)
    assert 0 < len(back) < 30
    assert video.notes == [
        f"Only {len(back)} of about 30 frames of {str(path)!r} could be read; it is damaged or cut short."
    ]


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_what_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"Expected a video, but .*clip\.mp4"):
        open_video(path)


def test_a_video_without_frames_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="has no pictures in it"):
        open_video(path)


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(InputError, match=r"No video at .*; check the path"):
        open_video(tmp_path / "missing.mp4")


def test_mp4_names_the_extra_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DependencyError, match=r"pip install 'clip-as-rnn\[video\]'"):
        write_video(tmp_path / "clip.mp4", moving_square(2), fps=10)


def test_a_codec_that_opencv_lacks_names_the_extra(tmp_path, monkeypatch):
    class Silent:
        def __init__(self, _):
            pass

        def isOpened(self):  # noqa: N802 - OpenCV's name
            return True

        def get(self, _):
            return 0.0

        def read(self):
            return False, None

        def release(self):
            pass

    path = tmp_path / "clip.mp4"
    write_video(path, moving_square(3), fps=10)
    monkeypatch.setattr("clip_as_rnn.io.video.cv2.VideoCapture", Silent)
    assert len(read(path)[1]) == 3
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DependencyError, match=r"cannot be read without PyAV.*clip-as-rnn\[video\]"):
        open_video(path)


@pytest.fixture
def folder(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in (0, 1, 2, 9, 10, 11):
        Image.fromarray(moving_square(12)[number]).save(frames / f"f{number}.png")
    return frames


def test_a_folder_is_read_in_the_order_of_its_numbers_and_holes_are_said(folder):
    video, back = read(folder)
    assert [frame.name for frame in back] == ["f0", "f1", "f2", "f9", "f10", "f11"]
    assert video.count == 6
    assert read(folder)[0].notes == []  # as many holes as frames: the numbers count something else
    (folder / "f9.png").unlink()
    (folder / "f10.png").unlink()
    (folder / "f11.png").unlink()
    Image.fromarray(moving_square(12)[4]).save(folder / "f4.png")
    assert read(folder)[0].notes == [f"The numbers 3 are missing among the frames in {str(folder)!r}."]


def test_a_corrupt_frame_in_a_folder_costs_that_frame_alone(folder):
    (folder / "f2.png").write_bytes((folder / "f2.png").read_bytes()[:90])
    Image.new("RGB", (9, 9)).save(folder / "f9.png")
    video, back = read(folder)
    assert [frame.name for frame in back] == ["f0", "f1", "f10", "f11"]
    assert "f2.png" in video.notes[0]
    assert video.notes[1] == "The frame f9.png is left out: it has 9 x 9 pixels, unlike the first one."


def test_a_folder_of_which_no_frame_can_be_read_is_refused_with_the_reason(tmp_path):
    for name in ("0.png", "1.png"):
        tmp_path.joinpath(name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"Not one of the 2 frames in .* could be read\. Expected an image, but"):
        list(open_video(tmp_path).frames)


@pytest.mark.parametrize(
    "words",
    [
        "ffconcat version 1.0\nfile 'secret.webm'\n",
        "\ufeff\n#EXTM3U\n#EXTINF:1,\nsecret.webm\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\n",
    ],
)
def test_a_list_of_other_files_under_a_clips_name_is_not_followed(tmp_path, words):
    write_video(tmp_path / "secret.webm", [np.zeros((32, 32, 3), dtype=np.uint8)] * 3, fps=10)
    listed = tmp_path / "clip.mkv"
    listed.write_text(words, encoding="utf-8")
    with pytest.raises(InputError, match=r"'.*clip\.mkv' is a list that names other files; give one of these\."):
        open_video(listed)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no picture in it"):
        open_video(tmp_path)


def test_frames_may_come_one_by_one_with_an_alpha_channel():
    clear = np.zeros((4, 5, 4), dtype=np.uint8)
    video, back = read(iter([clear, clear]))
    assert video.count is None
    assert [frame.pixels.tolist() for frame in back] == [np.full((4, 5, 3), 255).tolist()] * 2
