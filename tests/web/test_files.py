"""The files of visitors: whose are whose, what goes when, and which pictures are let in."""

import pytest
from PIL import Image

from clip_as_rnn.apps.web.files import MAX_PIXELS, VisitorFiles, open_picture
from clip_as_rnn.errors import InputError


def _upload(root, folder, name):
    path = root / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"picture")
    return path


def test_a_visitors_files_go_and_those_of_others_stay(tmp_path):
    files = VisitorFiles(tmp_path)
    mine, shared, theirs = (_upload(tmp_path, name, "a.png") for name in ("mine", "shared", "theirs"))
    same_content = _upload(tmp_path, "mine", "b.png")
    for session, path in (("me", mine), ("me", shared), ("you", shared), ("you", theirs), ("you", same_content)):
        files.admit(session, path)
    results = {session: files.new_results(session) for session in ("me", "you")}
    files.leave("me")
    assert not any(path.exists() for path in (mine, results["me"]))
    assert all(path.exists() for path in (shared, theirs, same_content, results["you"]))
    files.leave("you")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    files.leave("nobody")


def test_new_results_replace_the_visitors_earlier_ones(tmp_path):
    files = VisitorFiles(tmp_path)
    earlier = files.new_results("me")
    assert files.new_results("me") != earlier
    assert not earlier.exists()


def test_only_uploads_are_admitted(tmp_path):
    with pytest.raises(InputError, match="Expected an uploaded picture"):
        VisitorFiles(tmp_path / "uploads").admit("me", tmp_path / "uploads" / ".." / "secret.png")


def test_messages_name_the_picture_and_not_the_servers_folders(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("words")
    with pytest.raises(InputError, match=r"^Expected an image, but 'notes.png' is none of") as caught:
        open_picture(path)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(InputError, match="The picture is no longer here; please choose it again"):
        open_picture(tmp_path / "gone.png")


def test_the_limit_of_pixels_is_the_pages_own(tmp_path):
    for side, allowed in ((6000, True), (6500, False)):
        path = tmp_path / f"{side}.png"
        Image.new("1", (side, side)).save(path)
        if allowed:
            assert open_picture(path).pixels.shape == (side, side, 3)
        else:
            with pytest.raises(InputError, match=f"at most {MAX_PIXELS // 1_000_000} million pixels"):
                open_picture(path)
