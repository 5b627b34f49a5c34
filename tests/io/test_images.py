"""Reading pictures: every odd file that holds a picture is read, every other one is refused in one sentence."""

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.io import images
from clip_as_rnn.io.images import MAX_PIXELS, read_image, read_picture


@pytest.fixture
def photo() -> np.ndarray:
    """Make a smooth picture, so that JPEG keeps it nearly as it is."""
    rows, columns = np.mgrid[0:40, 0:60]
    return np.stack([rows * 6, columns * 4, 255 - rows * 3], axis=2).astype(np.uint8)


def _saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def _png_header(width: int, height: int) -> bytes:
    """Make a PNG that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_all_sources_of_one_picture_read_the_same(photo: np.ndarray, tmp_path: Path):
    path = _saved(tmp_path / "a.png", Image.fromarray(photo))
    sources = [
        str(path),
        path,
        path.read_bytes(),
        Image.fromarray(photo),
        photo,
        torch.from_numpy(photo.copy()).permute(2, 0, 1),
    ]
    for source in sources:
        assert np.array_equal(read_image(source), photo)


def test_an_rgb_array_is_not_copied(photo: np.ndarray):
    assert read_image(photo) is photo


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(photo: np.ndarray, tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.transpose(1, 0, 2),
        6: np.rot90(photo),
        7: photo[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(photo, -1),
    }[orientation]
    path = _saved(tmp_path / "turned.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(read_image(path), photo)


def test_damaged_exif_leaves_the_picture_as_it_is(photo: np.ndarray, tmp_path: Path):
    path = _saved(
        tmp_path / "a.jpg", Image.fromarray(photo), exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff garbage"
    )
    assert read_image(path).shape == photo.shape


def test_cmyk_keeps_its_colors(photo: np.ndarray, tmp_path: Path):
    path = _saved(tmp_path / "print.jpg", Image.fromarray(photo).convert("CMYK"), quality=95)
    assert np.abs(read_image(path).astype(int) - photo).mean() < 8


def test_16_bit_gray_is_scaled_to_8_bits(tmp_path: Path):
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("deep.png", "deep.tif"):
        path = _saved(tmp_path / name, Image.fromarray(deep))
        picture = read_picture(path)
        assert np.array_equal(picture.pixels[:, :, 0], np.arange(256, dtype=np.uint8).reshape(16, 16))
        assert picture.notes == ()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_12_bits_in_16_are_read_as_they_are_and_said(tmp_path: Path, channels: int, suffix: str):
    path = tmp_path / f"camera{suffix}"
    deep = np.linspace(0, 4095, 300 * channels).astype(np.uint16).reshape(15, 20, channels)
    cv2.imwrite(str(path), deep)
    picture = read_picture(path)
    assert picture.pixels.max() == (16 if channels == 1 else 15)
    assert picture.notes == (
        f"Of the 16 bits of {str(path)!r} only the lowest 12 are used; it is almost black as it is read.",
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_dark_pictures_of_8_bits_and_black_ones_of_16_need_no_note(tmp_path: Path, mode: str):
    assert read_picture(_saved(tmp_path / "night.png", Image.new(mode, (9, 9)))).notes == ()
    assert read_picture(_saved(tmp_path / "black.png", Image.fromarray(np.zeros((9, 9), np.uint16)))).notes == ()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_reading_takes_little_more_memory_than_the_array(
    tmp_path: Path, kind: type, orientation: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(images, "_BAND_PIXELS", 50_000)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _saved(tmp_path / "large.png", Image.fromarray(np.zeros((2000, 1500), kind)), compress_level=1, exif=exif)
    tracemalloc.start()
    pixels = read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * pixels.nbytes


def test_float_gray_is_stretched_and_said(tmp_path: Path):
    path = _saved(tmp_path / "height.tif", Image.fromarray(np.array([[-1.0, 0.0], [1.0, 3.0]], dtype=np.float32)))
    picture = read_picture(path)
    assert picture.pixels[:, :, 0].tolist() == [[0, 64], [128, 255]]
    assert picture.notes == (
        f"The gray values of {str(path)!r} have no fixed range; -1 to 3 were stretched to black to white.",
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 2, 4))
    source = clear.convert(mode) if mode != "PA" else clear.convert("P").convert("PA")
    if mode == "PA":
        source.putalpha(clear.getchannel("A"))
    pixels = read_image(source)
    assert (pixels[:, :2] == 0).all()
    assert (pixels[:, 2:] == 255).all()


def test_a_palette_with_alpha_is_laid_on_white(tmp_path: Path):
    indexed = Image.new("P", (4, 4), 0)
    indexed.putpalette([10, 20, 30, 200, 100, 0])
    indexed.putpixel((1, 0), 1)
    path = _saved(tmp_path / "icon.png", indexed, transparency=bytes([0, 255]))
    pixels = read_image(path)
    assert pixels[0, 1].tolist() == [200, 100, 0]
    assert pixels[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "value"), [("1", 1), ("L", 255), ("P", 0), ("YCbCr", (255, 128, 128)), ("HSV", (0, 0, 255))]
)
def test_other_modes_are_read(mode: str, value: object):
    image = Image.new(mode, (3, 2), value)
    if mode == "P":
        image.putpalette([255, 255, 255])
    pixels = read_image(image)
    assert pixels.shape == (2, 3, 3)
    assert (pixels >= 254).all()


def test_the_first_frame_of_an_animation_is_used_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "green", "blue")]
    path = _saved(tmp_path / "clip.gif", frames[0], save_all=True, append_images=frames[1:])
    picture = read_picture(path)
    assert (picture.pixels == [255, 0, 0]).all()
    assert picture.notes == (f"Of the 3 frames of {str(path)!r} only the first is used.",)
    read_image(path)
    assert caplog.messages == list(picture.notes)


def test_a_phone_photo_with_extras_is_one_picture(photo: np.ndarray, tmp_path: Path):
    extra = Image.new("RGB", (8, 8))
    path = _saved(tmp_path / "phone.jpg", Image.fromarray(photo), format="MPO", save_all=True, append_images=[extra])
    assert read_picture(path).notes == ()


@pytest.mark.parametrize("size_hw", [(1, 1), (3000, 1), (1, 3000), (3000, 4000)])
def test_extreme_sizes_are_read(tmp_path: Path, size_hw: tuple[int, int]):
    path = _saved(tmp_path / "a.png", Image.new("RGB", size_hw[::-1], "teal"), compress_level=1)
    assert read_image(path).shape == (*size_hw, 3)


@pytest.mark.parametrize(
    "size", [(60_000, 60_000), (30_000, 30_000), (13_000, 13_000)]
)  # beyond and within Pillow's own limit
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(*size))
    message = (
        f"at most 150 million pixels, but {str(path)!r} has {size[0] * size[1] / 1e6:,.0f} million; shrink it first"
    )
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert message in str(caught.value)


def test_an_array_beyond_the_limit_is_refused():
    huge = np.broadcast_to(np.zeros(1, np.uint8), (MAX_PIXELS // 100 + 1, 100, 3))
    with pytest.raises(InputError, match="at most 150 million pixels"):
        read_image(huge)


@pytest.mark.parametrize("path", ["pipe.png", "/dev/zero"])
def test_what_is_no_file_of_the_disk_is_refused_and_not_waited_for(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    kind = "a device" if path == "/dev/zero" else "a pipe"
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value) == f"Expected an image file, but {path!r} is {kind}; save what it gives to a file first."


def test_a_truncated_jpeg_is_refused(photo: np.ndarray, tmp_path: Path):
    path = _saved(tmp_path / "cut.jpg", Image.fromarray(photo))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"^The image '.*cut\.jpg' is damaged or cut short: [^\n]*\.$"):
        read_image(path)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_damaged_tiff_is_refused_without_its_library_speaking(
    photo: np.ndarray, compression: str, capfd: pytest.CaptureFixture[str]
):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, format="TIFF", compression=compression)
    damaged = bytearray(file.getvalue())
    damaged[20:400] = b"\x00\xff" * 190
    with pytest.raises(InputError, match=r"^The image is damaged or cut short"):
        read_image(bytes(damaged))
    assert capfd.readouterr() == ("", "")


def test_a_tiff_of_too_many_samples_is_refused_without_pillow_speaking(caplog: pytest.LogCaptureFixture):
    rows = {256: 5, 257: 5, 258: 8, 262: 1, 273: 8, 277: 60000, 279: 25}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in rows.items())
    with pytest.raises(InputError, match="is none of"):
        read_image(b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + entries + bytes(4))
    assert caplog.messages == []


def test_an_empty_file_is_refused(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InputError, match=r"^Expected an image, but '.*empty\.jpg' is empty \(0 bytes\)\.$"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(InputError, match=r"^Expected an image, but the image is empty \(0 bytes\)\.$"):
        read_image(b"")


def test_a_text_file_is_refused_and_the_formats_named(tmp_path: Path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(InputError, match=r"^Expected an image, but '.*notes\.jpg' is none of .*GIF, JPEG.*WEBP\.$"):
        read_image(tmp_path / "notes.jpg")


def test_a_format_that_runs_programs_is_refused(tmp_path: Path):
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(InputError, match="is none of"):
        read_image(tmp_path / "a.eps")


def test_missing_files_and_folders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"^No image at '.*gone\.png'; check the path\.$"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"^No image at 'a\\x00b'; check the path\.$"):
        read_image("a\0b")
    with pytest.raises(InputError, match=r"^Expected an image file, but '.*' is a folder\.$"):
        read_image(tmp_path)


@pytest.mark.parametrize("cut", range(0, 700, 7))
def test_damage_anywhere_is_an_input_error_or_a_picture(photo: np.ndarray, cut: int):
    for file_format in sorted({"PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "AVIF", "JPEG2000"} & set(Image.SAVE)):
        file = io.BytesIO()
        Image.fromarray(photo).save(
            file, format=file_format, **({"exif": Image.Exif()} if file_format == "PNG" else {})
        )
        whole = file.getvalue()
        position = cut * len(whole) // 700
        flipped = whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
        for damaged in (whole[:position], flipped):
            try:
                assert read_image(damaged).dtype == np.uint8
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "of type uint8 with values from 0 to 255, but got float32"),
        (np.zeros((3, 40, 40), np.uint8), r"of shape \(h, w\), \(h, w, 3\) or \(h, w, 4\), but got \(3, 40, 40\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel, but the image is 4 x 0"),
        (torch.zeros((40, 40, 3), dtype=torch.uint8), r"tensor of shape \(3, h, w\), but got \(40, 40, 3\)"),
        (torch.zeros((3, 4, 4)), "of type uint8 with values from 0 to 255, but got float32"),
        (
            torch.zeros((3, 4, 4), dtype=torch.uint8).to_sparse(),
            r"that holds every pixel, but got one of layout torch.sparse_coo",
        ),
        (12, "as path, bytes, PIL image, array or tensor, but got int"),
    ],
)
def test_arrays_of_another_kind_are_refused(source: object, message: str):
    with pytest.raises(InputError, match=message):
        read_image(source)


def test_every_suffix_belongs_to_a_format_that_is_read():
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in images.SUFFIXES if suffix in Image.EXTENSION} <= set(images.FORMATS)
