"""Pictures and results under URLs: a run makes there what it makes in a folder, and is gone on with as there."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from PIL import Image

import command
from clip_as_rnn.batch.sources import list_sources
from clip_as_rnn.batch.storage import RecordMirror, RemoteFolder, find_version, list_pictures
from clip_as_rnn.errors import DependencyError, InputError
from command import Ending

car, loads = command.car, command.loads  # fixtures
BUCKET = fsspec.filesystem("memory")


def put(name: str, shade: int) -> None:
    png = io.BytesIO()
    Image.new("RGB", (32, 24), (shade, 0, 0)).save(png, format="PNG")
    BUCKET.pipe_file(f"/{name}", png.getvalue())


@pytest.fixture(autouse=True)
def bucket() -> Iterator[None]:
    """Put pictures into a bucket: two good ones of one name, a broken one, a hidden one, and no picture."""
    BUCKET.rm("/", recursive=True) if BUCKET.ls("/") else None
    put("in/a.png", 1)
    put("in/more/a.png", 2)
    put("in/.cache/b.png", 3)
    BUCKET.pipe_file("/in/broken.png", b"no picture")
    BUCKET.pipe_file("/in/notes.txt", b"notes")
    yield
    BUCKET.store.clear()


def under(place: str) -> dict[str, bytes]:
    return {one.removeprefix(f"/{place}/"): BUCKET.cat_file(one) for one in BUCKET.find(f"/{place}")}


RUN = ("segment", "memory://in", "-t", "cat", "-t", "dog", "-f", "labels,masks,json,coco,label-studio,voc,yolo", "-o")


def test_what_is_made_under_a_url_is_what_is_made_in_a_folder(car: Callable[..., Ending]):
    assert car(*RUN, "memory://out").code == 1
    assert car(*RUN, "folder").code == 1
    local = {str(path.relative_to("folder")): path.read_bytes() for path in Path("folder").rglob("*") if path.is_file()}
    remote = under("out")
    assert set(remote) == set(local)
    for name in sorted(local):
        if not name.endswith((".jsonl", "a_png.json")) and "tasks" not in name and not name.endswith(".json"):
            assert remote[name] == local[name], name
    annotations = "coco/annotations/instances_default.json"
    assert json.loads(remote[annotations]) == json.loads(local[annotations])
    assert len(json.loads(remote[annotations])["images"]) == 2
    lines = [json.loads(line) for line in remote["results.jsonl"].splitlines()]
    by_image = {line["image"]: line for line in lines if "image" in line}
    assert set(by_image) == {"memory://in/a.png", "memory://in/more/a.png", "memory://in/broken.png"}
    assert by_image["memory://in/broken.png"]["error"].startswith(
        "Expected an image, but 'memory://in/broken.png' is none of"
    )
    assert set(by_image["memory://in/a.png"]["outputs"]) <= {*remote, f"{by_image['memory://in/a.png']['stem']}_masks"}


def test_the_same_command_goes_on_does_what_changed_and_refuses_other_settings(car: Callable[..., Ending]):
    car(*RUN, "memory://out")
    before = under("out")
    again = car(*RUN, "memory://out")
    assert again.err.count("Skipped memory://in/") == 2
    assert again.out == ""
    put("in/a.png", 9)
    put("in/new.png", 4)
    third = car(*RUN, "memory://out")
    assert sorted(line.partition(":")[2].partition(":")[0] for line in third.out.splitlines()) == [
        "//in/a.png",
        "//in/new.png",
    ]
    assert set(before) < set(under("out"))
    other = car("segment", "memory://in", "-t", "bird", "-f", "json", "-o", "memory://out")
    assert other.code == 2
    assert other.err.startswith(
        "Error: The folder 'memory://out' holds results made with texts = 'cat', 'dog', now 'bird'"
    )
    assert car("segment", "memory://in", "-t", "bird", "-f", "json,coco", "-o", "memory://out", "--overwrite").code == 1
    categories = json.loads(under("out")["coco/annotations/instances_default.json"])["categories"]
    assert [one["name"] for one in categories] == ["bird"]


def test_what_a_killed_run_recorded_in_pieces_is_taken_up_and_joined(tmp_path: Path):
    now_s = 0.0
    remote = RemoteFolder("memory://out")

    def mirror(name: str) -> RecordMirror:
        (tmp_path / name).mkdir()
        return RecordMirror(remote, tmp_path / name / "results.jsonl", lambda: now_s)

    killed = mirror("first")
    for i in range(4):
        killed.add(b'{"line": %d}\n' % i)
        now_s += 3
    assert len([name for name in under("out") if name.startswith("results/")]) == 1  # a piece in six seconds
    goes_on = mirror("second")
    goes_on.pull()
    taken_up = (tmp_path / "second/results.jsonl").read_bytes()
    assert taken_up == b"".join(b'{"line": %d}\n' % i for i in range(3))  # the last one was not put yet
    goes_on.add(b'{"line": 4}\n')
    (tmp_path / "second/results.jsonl").write_bytes(taken_up + b'{"line": 4}\n')
    goes_on.close()
    assert set(under("out")) == {"results.jsonl"}
    assert under("out")["results.jsonl"].count(b"\n") == 4


def test_folders_globs_lists_and_single_pictures_are_found_by_url(tmp_path: Path):
    assert list_pictures("memory://in") == ["memory://in/a.png", "memory://in/broken.png", "memory://in/more/a.png"]
    assert list_pictures("memory://in/*/a.png") == ["memory://in/more/a.png"]
    assert list_pictures("memory://in/gone.png") == ["memory://in/gone.png"]
    (tmp_path / "list.txt").write_text("memory://in/more/a.png\nmemory://in/a.png\n")
    sources = list_sources([f"@{tmp_path / 'list.txt'}", "memory://in"], output="memory://in/more")
    assert [one.name for one in sources] == ["memory://in/more/a.png", "memory://in/a.png", "memory://in/broken.png"]
    assert len({one.stem for one in sources}) == 3
    kept = list_sources(["memory://in/more/a.png", "memory://in/a.png"], standing={"memory://in/a.png": "a"})
    assert next(one.stem for one in kept if one.name == "memory://in/a.png") == "a"


def test_a_url_of_a_file_of_this_machine_is_a_path(car: Callable[..., Ending], tmp_path: Path):
    (tmp_path / "a b.png").write_bytes(BUCKET.cat_file("/in/a.png"))
    assert (
        car("segment", f"file://{tmp_path}/a%20b.png", "-t", "cat", "-f", "json", "-o", f"file://{tmp_path}/out").code
        == 0
    )
    assert json.loads((tmp_path / "out/a b.json").read_text())["image"] == str(tmp_path / "a b.png")


def test_a_version_changes_with_the_picture_and_with_nothing_else():
    before = find_version("memory://in/a.png")
    assert find_version("memory://in/a.png") == before
    put("in/a.png", 7)
    assert find_version("memory://in/a.png") != before


def test_what_a_storage_cannot_do_is_said_in_one_sentence(car: Callable[..., Ending], monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"^The pictures of 's4://x' cannot be listed: Protocol not known: s4\.$"):
        list_pictures("s4://x")
    with pytest.raises(InputError, match=r"^The image 'memory://in/gone\.png' cannot be read: there is nothing"):
        find_version("memory://in/gone.png")
    with pytest.raises(DependencyError, match=r"cannot be listed: .*[Ii]nstall"):
        list_pictures("gdrive://x/y")
    missing = car("segment", "memory://in/gone.png", "-t", "cat", "-o", "memory://out")
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert car("segment", "memory://in", "-t", "cat", "-o", "out", "--skip-existing").code == 2
    clip = car("segment", "clip.mp4", "-t", "cat", "-o", "memory://out")
    assert (clip.code, "copy them first" in clip.err) == (2, True)

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Access denied")

    monkeypatch.setattr(type(BUCKET), "pipe_file", deny)
    denied = car("segment", "memory://in", "-t", "cat", "-o", "memory://out")
    assert denied.code == 2
    assert denied.err == (
        "Error: Expected an output folder that can be written, but got 'memory://out': Access denied.\n"
    )
