"""From words on a command line to texts and settings."""

from pathlib import Path

import pytest

from clip_as_rnn.apps.cli.parsing import gather_texts, parse_settings
from clip_as_rnn.errors import InputError


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("crf=false", False),
        ("max_steps=3", 3),
        ("max_steps=none", None),
        ("cam_threshold=.5", 0.5),
        ("templates=none", ()),
        ("contrast_texts=sky, grass", ("sky", "grass")),
        ('contrast_texts=["red, blue", "sky"]', ("red, blue", "sky")),
        ("stuff_visual_prompts=None", None),
        ("stuff_visual_prompts=circle", ("circle",)),
        ("proposals=dense", "dense"),
        ("proposal_template=a = {}", "a = {}"),
    ],
)
def test_settings_are_read_as_their_type(assignment: str, value: object):
    name = assignment.partition("=")[0]
    assert parse_settings([assignment]) == {name: value}


def test_texts_come_from_a_file_of_limited_size(tmp_path: Path):
    (tmp_path / "texts.txt").write_text("# animals\ncat\n", encoding="utf-8-sig")
    assert gather_texts(["dog"], tmp_path / "texts.txt") == ["dog", "cat"]
    with pytest.raises(InputError, match=r"^Expected a texts file of at most 10,000,000 bytes, but '/dev/zero' is lar"):
        gather_texts([], Path("/dev/zero"))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("contrast_texts=a\udc80", r"^Expected settings in Unicode, but got 'contrast_texts=a\\udc80'; check"),
        ("templates=" + "[" * 200_000, "^The value of setting `templates` has too many brackets"),
    ],
)
def test_values_that_cannot_be_read_are_said(assignment: str, message: str):
    with pytest.raises(InputError, match=message):
        parse_settings([assignment])
