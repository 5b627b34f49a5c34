"""Label maps on the disk."""

import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.io.label_maps import read_label_map, write_label_map


def test_labels_beyond_a_byte_are_saved_in_16_bits(tmp_path):
    labels = np.array([[0, 847]])
    write_label_map(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode.startswith("I;16")
    assert np.array_equal(read_label_map(tmp_path / "a.png"), labels)


def test_a_palette_changes_no_label(tmp_path):
    palette = np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    labels = np.array([[0, 2], [1, 2]])
    write_label_map(tmp_path / "a.png", labels, palette=palette)
    assert np.array_equal(read_label_map(tmp_path / "a.png"), labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.convert("RGB").getpixel((1, 0)) == (0, 0, 255)


def test_a_damaged_label_map_is_an_input_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"plain text")
    with pytest.raises(InputError, match=r"Expected a label map in .*a\.png"):
        read_label_map(tmp_path / "a.png")
