"""The files of visitors: whose are whose, what goes when, and which pictures are let in."""

import pytest
from PIL import Image

from clip_as_rnn.apps.pictures import MAX_PIXELS
from clip_as_rnn.apps.web.uploads import VisitorFiles, open_picture
from clip_as_rnn.errors import InputError


def _upload(root, folder, name):
    path = root / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"picture")
    return path


def test_a_visitors_files_go_and_those_of_others_stay(tmp_path):
    files = VisitorFiles(tmp_path, {})
    mine, shared, theirs = (_upload(tmp_path, name, "a.png") for name in ("mine", "shared", "theirs"))
    same_content = _upload(tmp_path, "mine", "b.png")
    for session, path in (("me", mine), ("me", shared), ("you", shared), ("you", theirs), ("you", same_content)):
        assert files.admit(session, {"path": str(path)}) == path
    results = {session: files.new_results(session) for session in ("me", "you")}
    files.leave("me")
    assert not any(path.exists() for path in (mine, results["me"]))
    assert all(path.exists() for path in (shared, theirs, same_content, results["you"]))
    files.leave("you")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    files.leave("nobody")


def test_new_results_replace_the_visitors_earlier_ones(tmp_path):
    files = VisitorFiles(tmp_path, {})
    earlier = files.new_results("me")
    assert files.new_results("me") != earlier
    assert not earlier.exists()


@pytest.mark.parametrize("name", ["{root}/../secret.png", "{root}", "/etc/passwd", "park.png", "a\0b", "a" * 5000])
def test_a_visitor_can_name_no_other_file_of_the_server(tmp_path, name):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "secret.png").write_bytes(b"picture")
    files = VisitorFiles(tmp_path / "uploads", {"park.jpg": tmp_path / "secret.png"})
    with pytest.raises(InputError, match=r"Expected an uploaded picture|The picture is no longer here"):
        files.admit("me", {"path": name.format(root=tmp_path / "uploads")})


@pytest.mark.parametrize("chosen", [None, "park.jpg", {}, {"path": None}, {"path": 5}, [1]])
def test_no_picture_is_no_picture(tmp_path, chosen):
    with pytest.raises(InputError, match="Please choose a picture first"):
        VisitorFiles(tmp_path, {"park.jpg": tmp_path / "park.jpg"}).admit("me", chosen)


def test_an_example_is_chosen_by_name_and_stays(tmp_path):
    example = _upload(tmp_path, "examples", "park.jpg")
    files = VisitorFiles(tmp_path / "uploads", {"park.jpg": example})
    assert files.admit("me", {"path": "park.jpg", "url": "data:"}) == example
    files.leave("me")
    assert example.exists()


def test_messages_name_the_picture_and_not_the_servers_folders(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("words")
    with pytest.raises(InputError, match=r"^Expected an image, but 'notes.png' is none of") as caught:
        open_picture(path)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(InputError, match="The picture is no longer here; please choose it again"):
        VisitorFiles(tmp_path, {}).admit("me", {"path": str(tmp_path / "gone.png")})


def test_the_limit_of_pixels_is_the_pages_own(tmp_path):
    for side, allowed in ((6000, True), (6500, False)):
        path = tmp_path / f"{side}.png"
        Image.new("1", (side, side)).save(path)
        if allowed:
            assert open_picture(path).pixels.shape == (side, side, 3)
        else:
            with pytest.raises(InputError, match=f"at most {MAX_PIXELS // 1_000_000} million pixels"):
                open_picture(path)


def test_links_in_a_circle_are_no_upload(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(InputError, match="Expected an uploaded picture"):
        VisitorFiles(tmp_path, {}).admit("me", {"path": str(tmp_path / "loop.png")})
