"""Clips: damaged, of odd kinds, and files that tell a decoder to open another file or address."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from hostile_cases import Picture, Place
from hostile_pictures import encoded, photo, written

from clip_as_rnn.io.video import write_video

_FRAMES = 5
_KINDS = ("clip.mp4", "clip.webm", "clip.avi", "clip.mkv")


def clips() -> list[Picture]:
    """List all clips."""
    return [*_sound(), *_damaged(), *_lists(), *_others(), *_folders()]


def clip(path: Path, height: int = 40, width: int = 56) -> Path:
    """Write a sound clip of a few frames in the kind that its name ends with."""
    picture = cv2.resize(photo(), (width, height))
    frames = [np.roll(picture, 3 * i, axis=1) for i in range(_FRAMES)]
    if path.suffix != ".avi":
        write_video(path, frames, fps=10)
        return path
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # as the program itself does before its first use
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for frame in frames:
        writer.write(frame[:, :, ::-1])
    writer.release()
    return path


def _sound() -> Iterator[Picture]:
    for name in _KINDS:
        yield Picture(
            kind="clip", name=name, make=lambda place, name=name: clip(place.folder / name), ends="right", is_clip=True
        )
    yield Picture(
        kind="clip", name="small.webm", make=lambda place: clip(place.folder / "small.webm", 2, 2), is_clip=True
    )


def _damaged() -> Iterator[Picture]:
    """Cut clips short and flip their bits."""

    def spoilt(name: str, spoil: Callable[[bytearray], bytes | bytearray]) -> Callable[[Place], Path]:
        def make(place: Place) -> Path:
            path = clip(place.folder / name)
            path.write_bytes(spoil(bytearray(path.read_bytes())))
            return path

        return make

    def flip(content: bytearray, chance: random.Random) -> bytearray:
        for _ in range(12):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        return content

    for name in _KINDS:
        for share in (0.05, 0.4, 0.7, 0.95):
            make = spoilt(name, lambda content, share=share: content[: int(share * len(content))])
            yield Picture(kind="clip cut short", name=f"{name}-cut-{share:g}", make=make, is_clip=True)
        for seed in range(4):
            make = spoilt(name, lambda content, seed=seed, name=name: flip(content, random.Random(f"{name} {seed}")))
            yield Picture(kind="clip with bits flipped", name=f"{name}-flip-{seed}", make=make, is_clip=True)


def _lists() -> Iterator[Picture]:
    """Ask the decoder for other files and for addresses, under the name of a clip."""
    lists = {
        "address.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
        "file.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{folder}/secret.ts\n#EXT-X-ENDLIST\n",
        "relative.ts": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "joined.mkv": "ffconcat version 1.0\nfile secret.ts\n",
        "joined-address.mkv": "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.ts'\n",
        "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
        "dash.mp4": '<?xml version="1.0"?><MPD><Period><BaseURL>http://127.0.0.1:{port}/</BaseURL></Period></MPD>',
        "key.mp4": "#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=http://127.0.0.1:{port}/k\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST",
    }

    def listing(name: str, words: str) -> Callable[[Place], Path]:
        def make(place: Place) -> Path:
            clip(place.folder / "secret.mkv").rename(place.folder / "secret.ts")
            path = place.folder / name
            path.write_text(words.replace("{port}", str(place.port)).replace("{folder}", str(place.folder)))
            return path

        return make

    for name, words in lists.items():
        make = listing(name, words)
        yield Picture(kind="clip that names files", name=name, make=make, ends="refused", is_clip=True)


def _others() -> Iterator[Picture]:
    contents = {
        "empty.mp4": b"",
        "text.webm": b"no clip\n" * 99,
        "noise.mkv": random.Random(2).randbytes(50_000),
        "zeros.avi": bytes(50_000),
        "boxes.mp4": b"\0\0\0\x08moov" * 5000,
        "deep.mp4": b"".join((8 * (900 - i)).to_bytes(4, "big") + b"moov" for i in range(900)),
        "sound.mp4": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0",
    }
    for name, content in contents.items():
        yield Picture(kind="clip of another kind", name=name, make=written(content, name), ends="refused", is_clip=True)
    for name in ("gone.mp4", "null\0.mp4", "n" * 300 + ".mp4"):
        make = lambda place, name=name: place.folder / name  # noqa: E731 - one line is what it is
        yield Picture(kind="clip of another kind", name=ascii(name[:9]), make=make, ends="refused", is_clip=True)


def _folders() -> Iterator[Picture]:
    """Take a folder as the frames of a clip."""

    def folder(frames: list[bytes]) -> Callable[[Place], Path]:
        def make(place: Place) -> Path:
            path = place.folder / "frames"
            path.mkdir()
            for i, content in enumerate(frames):
                (path / f"{i:03d}.png").write_bytes(content)
            return path

        return make

    sound, other = encoded("PNG"), encoded("PNG", photo()[:-1])
    folders = {
        "sound": ([sound] * 3, "right"),
        "damaged": ([sound, sound[:300], b"", sound], "right"),
        "sizes": ([sound, other, sound], "right"),
        "hopeless": ([b"", b"no picture"], "refused"),
        "none": ([], "refused"),
    }
    for name, (frames, ends) in folders.items():
        yield Picture(kind="clip in a folder", name=f"frames-{name}", make=folder(frames), ends=ends, is_clip=True)
