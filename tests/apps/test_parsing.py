"""From words on a command line to settings and names of results."""

from pathlib import Path

import pytest

from clip_as_rnn.apps.cli.parsing import parse_settings, unique_stems


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


def test_stems_never_meet_and_know_no_order():
    names = ("x/a.png", "x/A.jpg", "b.png", "c_labels.png", "y/b.png", "a_png.gif", "c.gif", "é" * 120 + ".png")
    paths = [Path(name) for name in names]
    stems = dict(zip(paths, unique_stems(paths), strict=True))
    plain = [stems[path].partition("-")[0] for path in paths[:-1]]  # without the digests
    assert plain == ["a_png", "A_jpg", "b_png", "c_labels_png", "b_png", "a_png_gif", "c"]
    assert len({stem.casefold() for stem in stems.values()}) == len(paths)
    assert all(len(stem.encode()) <= 220 for stem in stems.values())
    assert dict(zip(paths[::-1], unique_stems(paths[::-1]), strict=True)) == stems


@pytest.mark.parametrize("names", [("a.png",), ("a.png", "b.png")])
def test_a_stem_of_its_own_stays(names: tuple[str, ...]):
    assert unique_stems([Path(name) for name in names]) == [Path(name).stem for name in names]
