"""Pictures that try what they can: damaged, boundless, of odd kinds, under wrong names, and what is no picture at all.

Everything is drawn from fixed seeds, so that a case is the same bytes on every run with the same libraries.
"""

import io
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hostile_cases import Picture, Place
from numpy import ndarray
from PIL import Image

PICTURE = "picture.png"  # a sound one, which lies beside every case
_HEIGHT, _WIDTH = 40, 56
SAVED: dict[str, tuple[str, dict[str, Any]]] = {  # format of Pillow: ending, options
    "JPEG": (".jpg", {"quality": 92}),
    "PNG": (".png", {}),
    "WEBP": (".webp", {"lossless": True}),
    "GIF": (".gif", {}),
    "TIFF": (".tif", {"compression": "tiff_lzw"}),
    "BMP": (".bmp", {}),
    "AVIF": (".avif", {"quality": 90}),
    "JPEG2000": (".jp2", {}),
    "PPM": (".ppm", {}),
}
_CUTS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_FLIPS = 9


def photo() -> ndarray:
    """Draw the sound picture: a gradient with a disc and a bar."""
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    pixels = np.stack([rows * 5, columns * 4, 255 - rows * 3], axis=-1).astype(np.uint8)
    pixels[np.hypot(rows - 15, columns - 20) < 9] = (220, 40, 30)
    pixels[30:34, 8:50] = (10, 160, 60)
    return pixels


def encoded(form: str, pixels: ndarray | None = None, **options: Any) -> bytes:
    """Return the sound picture, or other pixels, as a file of a format."""
    file = io.BytesIO()
    Image.fromarray(photo() if pixels is None else pixels).save(file, form, **{**SAVED[form][1], **options})
    return file.getvalue()


def written(content: bytes | Callable[[], bytes], name: str) -> Callable[[Place], Path]:
    """Return what writes a file; content that takes time to make is made then."""

    def write(place: Place) -> Path:
        path = place.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content())
        return path

    return write


def pictures() -> list[Picture]:
    """List all still pictures and what goes under such names."""
    groups = (_cut, _flipped, _spliced, _shapes, _modes, _turned, _animated, _wrong_names, _no_pictures)
    return [case for group in groups for case in group()]


def _formats() -> list[str]:
    Image.init()
    return [form for form in SAVED if form in Image.SAVE]


def _cut() -> Iterator[Picture]:
    for form in _formats():
        whole = encoded(form)
        for share in _CUTS:
            name = f"{form.lower()}-cut-{share:g}{SAVED[form][0]}"
            yield Picture(kind="cut short", name=name, make=written(whole[: int(share * len(whole))], name))


def _flipped() -> Iterator[Picture]:
    for form in _formats():
        whole = encoded(form)
        for seed in range(_FLIPS):
            chance, damaged = random.Random(f"{form} {seed}"), bytearray(whole)
            for _ in range(1 + seed * seed):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            name = f"{form.lower()}-flip-{seed}{SAVED[form][0]}"
            yield Picture(kind="bits flipped", name=name, make=written(bytes(damaged), name))


def _spliced() -> Iterator[Picture]:
    """Begin as one format and go on as another, or as nothing but one byte."""
    forms = _formats()
    for i, form in enumerate(forms):
        begun, other = encoded(form), encoded(forms[i - 1])
        for name, rest in (("into-other", other), ("into-zeros", bytes(5000)), ("into-ones", b"\xff" * 5000)):
            content = begun[: len(begun) // 2] + rest
            title = f"{form.lower()}-{name}{SAVED[form][0]}"
            yield Picture(kind="spliced", name=title, make=written(content, title))


def _shapes() -> Iterator[Picture]:
    for height, width in ((1, 1), (1, 2), (2, 1), (1, 20000), (20000, 1), (3, 7001), (15, 17), (1000, 1), (8, 4096)):
        pixels = np.full((height, width, 3), (30, 120, 200), np.uint8)
        for form in ("PNG", "JPEG") if max(height, width) < 9999 else ("PNG",):
            name = f"{height}x{width}{SAVED[form][0]}"
            make = written(encoded(form, pixels), name)
            yield Picture(kind="extreme shape", name=name, make=make, ends="right", pixels=pixels)


def _modes() -> Iterator[Picture]:
    """Save the picture in every way that a camera, a scanner or a printer's shop does."""
    image, gray = Image.fromarray(photo()), np.asarray(Image.fromarray(photo()).convert("L"))
    stacked = np.repeat(gray[:, :, None], 3, axis=2)
    deep = gray.astype(np.uint16) * 257
    clear = image.copy()
    clear.putalpha(255)
    palette = image.quantize(64, dither=Image.Dither.NONE)
    sound: list[tuple[str, Image.Image, dict[str, Any], ndarray | None, float]] = [
        ("gray.png", Image.fromarray(gray), {}, stacked, 1),
        ("gray.jpg", Image.fromarray(gray), {}, stacked, 4),
        ("one-bit.png", image.convert("1"), {}, None, 0),
        ("one-bit-fax.tif", image.convert("1"), {"compression": "group4"}, None, 0),
        ("16-bit-gray.png", Image.fromarray(deep), {}, stacked, 1),
        ("16-bit-gray.tif", Image.fromarray(deep), {}, stacked, 1),
        ("32-bit.tif", Image.fromarray(gray.astype(np.int32) * 70000), {}, None, 0),
        ("float.tif", Image.fromarray(gray.astype(np.float32) / 255), {}, None, 0),
        ("cmyk.jpg", image.convert("CMYK"), {"quality": 95}, photo(), 12),
        ("cmyk.tif", image.convert("CMYK"), {}, photo(), 2),
        ("lab.tif", image.convert("LAB"), {}, None, 0),
        ("jpeg-in.tif", image, {"compression": "jpeg", "quality": 95}, photo(), 6),
        ("progressive.jpg", image, {"quality": 95, "progressive": True}, photo(), 6),
        ("alpha.png", clear, {}, photo(), 1),
        ("alpha.webp", clear, {"lossless": True}, photo(), 1),
        ("gray-alpha.png", clear.convert("LA"), {}, stacked, 1),
        ("palette.png", palette, {}, np.asarray(palette.convert("RGB")), 0),
        ("palette-alpha.png", palette, {"transparency": bytes([0, 128, *[255] * 62])}, None, 0),
        ("palette.gif", palette, {}, np.asarray(palette.convert("RGB")), 0),
        ("palette.bmp", palette, {}, np.asarray(palette.convert("RGB")), 0),
    ]
    for name, picture, options, pixels, tolerance in sound:
        file = io.BytesIO()
        form = next(form for form, (ending, _) in SAVED.items() if name.endswith(ending))
        picture.save(file, form, **options)
        make = written(file.getvalue(), name)
        yield Picture(kind="mode", name=name, make=make, ends="right", pixels=pixels, tolerance=tolerance)
    holes = np.array([[np.nan, np.inf], [-np.inf, 1e38]], np.float32).repeat(9, 0).repeat(9, 1)
    for name, pixels in (("16-bit-color.png", photo().astype(np.uint16)[:, :, ::-1] * 257), ("no-numbers.tif", holes)):
        content = cv2.imencode(Path(name).suffix, pixels)[1].tobytes()
        expected = photo() if pixels.ndim > 2 else None
        yield Picture(kind="mode", name=name, make=written(content, name), ends="right", pixels=expected)


def _turned() -> Iterator[Picture]:
    """Turn the picture by EXIF, by numbers that there are and that there are not, and spoil the EXIF block."""
    turns: dict[int, Callable[[ndarray], ndarray]] = {
        2: np.fliplr,
        3: lambda pixels: np.rot90(pixels, 2),
        4: np.flipud,
        5: lambda pixels: pixels.transpose(1, 0, 2),
        6: lambda pixels: np.rot90(pixels, -1),
        7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        for orientation in range(12) if form == "JPEG" else (6,):
            exif = Image.Exif()
            exif[0x0112] = orientation
            upright = turns.get(orientation, np.asarray)(photo())
            name = f"exif-{orientation}{SAVED[form][0]}"
            make = written(encoded(form, exif=exif.tobytes()), name)
            yield Picture(kind="turned by EXIF", name=name, make=make, ends="right", pixels=upright, tolerance=6)
    chance = random.Random(0)
    blocks = {
        "noise": chance.randbytes(60_000),
        "loop": b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8),
        "many": b"II*\0\x08\0\0\0" + struct.pack("<H", 65535) + bytes(300),
        "text": b"II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x0112, 2, 4, b"six\0", 0),
    }
    for name, block in blocks.items():
        make = written(encoded("JPEG", exif=b"Exif\0\0" + block), f"exif-{name}.jpg")
        yield Picture(
            kind="turned by EXIF", name=f"exif-{name}.jpg", make=make, ends="right", pixels=photo(), tolerance=6
        )
    make = written(encoded("PNG", icc_profile=chance.randbytes(9000)), "profile.png")
    yield Picture(kind="turned by EXIF", name="profile.png", make=make, ends="right", pixels=photo())


def _animated() -> Iterator[Picture]:
    first, rest = Image.fromarray(photo()), [Image.new("RGB", (_WIDTH, _HEIGHT), (i, 9, 9)) for i in range(40)]
    for form in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        ending, options = SAVED[form]
        if form not in _formats():
            continue
        file = io.BytesIO()
        first.save(file, form, **options, save_all=True, append_images=rest)
        for name, content in ((f"frames{ending}", file.getvalue()), (f"frames-cut{ending}", file.getvalue()[:-99])):
            sound = "cut" not in name
            pixels = photo() if sound and form != "GIF" else None  # GIF has a palette
            ends: Any = "right" if sound else "either"
            make = written(content, name)
            yield Picture(kind="animated", name=name, make=make, ends=ends, pixels=pixels, tolerance=6)


def _wrong_names() -> Iterator[Picture]:
    """Give sound pictures the ending of another format, and other things that of a picture."""
    for form, ending in (("JPEG", ".png"), ("PNG", ".jpg"), ("WEBP", ".gif"), ("TIFF", ".bmp"), ("BMP", ".webp")):
        name = f"{form.lower()}-as{ending}"
        make = written(encoded(form), name)
        yield Picture(kind="wrong name", name=name, make=make, ends="right", pixels=photo(), tolerance=6)
    image = Image.fromarray(photo())
    for form in ("ICO", "PCX", "TGA", "DDS", "EPS", "PDF", "SGI", "IM", "MSP", "XBM", "SPIDER"):
        file = io.BytesIO()
        image.convert({"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(form, "RGB")).save(file, form)
        name = f"{form.lower()}-as.png"
        yield Picture(kind="wrong name", name=name, make=written(file.getvalue(), name), ends="refused")
    entity = '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    contents = {
        "text.jpg": b"not a picture\n" * 50,
        "page.png": b"<!doctype html><script>alert(1)</script>",
        "laughs.png": f'<?xml version="1.0"?><!DOCTYPE svg [{entity}]><svg>&b;</svg>'.encode(),
        "program.jpg": b"\x7fELF" + bytes(4000),
        "archive.png": b"PK\x03\x04" + bytes(4000),
        "pickle.png": b"cos\nsystem\n(S'touch OWNED'\ntR.",
        "playlist.jpg": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "empty.png": b"",
        "one-byte.jpg": b"\xff",
        "zeros.tif": bytes(100_000),
        "noise.png": random.Random(1).randbytes(100_000),
    }
    for name, content in contents.items():
        yield Picture(kind="wrong name", name=name, make=written(content, name), ends="refused")


def _no_pictures() -> Iterator[Picture]:
    """Name what is no file of the disk, or no file that may be read."""

    def make(place: Place, name: str, way: Callable[[Path], Any]) -> Path:
        path = place.folder / name
        way(path)
        return path

    def bind(path: Path) -> None:
        os.chdir(path.parent)  # addresses are short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)

    def lock(path: Path) -> None:
        path.write_bytes(encoded("PNG"))
        path.chmod(0)

    def lock_folder(path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(encoded("PNG"))
        path.parent.chmod(0)

    ways: dict[str, Callable[[Path], Any]] = {
        "folder.png": Path.mkdir,
        "pipe.png": os.mkfifo,
        "socket.png": bind,
        "broken-link.png": lambda path: path.symlink_to("gone.png"),
        "loop.png": lambda path: path.symlink_to(path.name),
        "to-pipe.png": lambda path: (os.mkfifo(path.parent / "pipe"), path.symlink_to("pipe")),
        "to-device.png": lambda path: path.symlink_to("/dev/zero"),
        "to-folder.png": lambda path: ((path.parent / "empty").mkdir(), path.symlink_to("empty")),
        "gone.png": lambda _: None,
        f"{'long' * 70}.png": lambda _: None,
        "/".join(["deep"] * 1200): lambda _: None,
        "null\0byte.png": lambda _: None,
    }
    for name, way in ways.items():
        case = partial(make, name=name, way=way)
        yield Picture(kind="no file to read", name=repr(name[:30]), make=case, ends="refused")
    for name, way in {"locked.png": lock, "locked/inside.png": lock_folder}.items():
        case = partial(make, name=name, way=way)
        yield Picture(kind="no file to read", name=name, make=case, ends="refused", is_private=True)
    for name in ("/dev/zero", "/dev/null", "/dev/urandom", "/dev/stdin", "/proc/self/mem", "/proc/self/environ"):
        yield Picture(kind="no file to read", name=name, make=lambda _, path=name: Path(path), ends="refused")
    names = (
        "-t.png",
        "..png",
        "a b.png",
        "line\nbreak.png",
        "\u202egnp.png",
        "🦊.png",
        "[x].png",
        "@list.png",
        "%s.png",
    )
    for name in (*names, "[red]markup.png", os.fsdecode(b"bytes-\xff.png"), "n" * 251 + ".png", "CON.png", "~.png"):
        make_named = written(encoded("PNG"), name)
        yield Picture(kind="odd name", name=ascii(name[:30]), make=make_named, ends="right", pixels=photo())
