"""Which pictures are taken, and names of results that never meet."""

from pathlib import Path

import pytest

from clip_as_rnn.batch.sources import list_sources, unique_stems
from clip_as_rnn.errors import InputError


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


def test_folders_are_replaced_by_their_pictures_and_each_is_taken_once(tmp_path: Path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    gone = tmp_path / "gone.png"
    sources = list_sources([tmp_path / "b.png", tmp_path, gone, tmp_path / "empty"])
    assert [one.path.name for one in sources] == ["b.png", "a.JPG", "gone.png", "empty"]
    assert [one.stem for one in sources] == ["b", "a", "gone", "empty"]
    assert all(one.error is None for one in sources)


def test_a_folder_that_cannot_be_listed_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "secret").mkdir()

    def deny(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", deny)
    secret, picture = list_sources([tmp_path / "secret", tmp_path / "a.png"])
    assert str(secret.error) == f"The folder {str(tmp_path / 'secret')!r} cannot be listed: Permission denied."
    assert (picture.path, picture.stem, picture.error) == (tmp_path / "a.png", "a", None)


def test_folders_are_walked_but_for_what_is_hidden_linked_or_the_output(tmp_path: Path):
    for name in ("a.png", "deep/er/b.png", "deep/c.jpg", ".hidden/d.png", "out/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep/loop").symlink_to(tmp_path)
    sources = list_sources([tmp_path], output=tmp_path / "out")
    assert [str(one.path.relative_to(tmp_path)) for one in sources] == ["a.png", "deep/c.jpg", "deep/er/b.png"]


def test_globs_and_lists_stand_for_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/2.jpg", "a/b/3.png", "a/notes.txt", "[x].png", "@y.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("list.txt").write_text("\ufeff[x].png\n\n a.png\na/2.jpg\n", encoding="utf-8")

    def found(*paths: str) -> list[str]:
        return [str(one.path) for one in list_sources([Path(path) for path in paths])]

    assert found("a/*.png") == ["a/1.png"]
    assert found("a/**/*") == ["a/1.png", "a/2.jpg", "a/b/3.png"]
    assert found("@list.txt", "@y.png") == ["[x].png", " a.png", "a/2.jpg", "@y.png"]
    assert found("z*.png") == ["z*.png"]  # to be reported when it is read
    with pytest.raises(
        InputError, match=r"The list of pictures 'gone.txt' cannot be read: No such file or directory\."
    ):
        list_sources([Path("@gone.txt")])


def test_standing_names_stay_and_new_pictures_keep_off_them():
    standing = {"x/a.png": "a", "gone/b.png": "B"}
    paths = [Path("y/a.png"), Path("x/a.png"), Path("b.png"), Path("c.png")]
    first, *others = unique_stems(paths, standing)
    assert (first.partition("-")[0], others) == ("a_png", ["a", "b_png", "c"])
    assert unique_stems(paths, {"x/a.png": unique_stems(paths)[1]}) == unique_stems(paths)  # as before an interruption
