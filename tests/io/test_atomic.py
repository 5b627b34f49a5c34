"""Files are whole or not there, after interrupts, hard kills and writers at the same time."""

import json
import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_as_rnn.errors import InputError
from clip_as_rnn.io.atomic import prepare_folder, remove_parts, replacing, staging, write_bytes, write_json, write_text

SPAWN = multiprocessing.get_context("spawn")


def _stay(folder: Path, ready: Path) -> None:
    with replacing(folder / "a.bin") as file:
        file.write(b"half")
        file.flush()
        ready.touch()
        signal.pause()


def _write_often(path: Path, content: bytes) -> None:
    for _ in range(100):
        write_bytes(path, content)


def _started(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = SPAWN.Process(target=target, args=arguments)
    process.start()
    return process


@pytest.fixture
def halted(tmp_path: Path):
    """Start a process that stops in the middle of writing out/a.bin."""
    folder, ready = tmp_path / "out", tmp_path / "ready"
    process = _started(_stay, folder, ready)
    while not ready.exists():
        assert process.is_alive()
    yield folder, process
    process.kill()
    process.join()


def test_bytes_text_and_json_read_back(tmp_path: Path):
    write_bytes(tmp_path / "new" / "a.bin", b"\x00\xff")
    write_text(tmp_path / "a.txt", "é\udce9")
    write_json(tmp_path / "a.json", {"b": [1, "犬\udce9"], "a": None}, sync=True)
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é\\udce9"
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "b": [\n  1,\n  "犬\\udce9"\n ],\n "a": null\n}\n'
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["b"][1] == "犬\udce9"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt", "new"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_interrupts_leaves_the_old_file_and_no_part(tmp_path: Path, error: BaseException):
    write_text(tmp_path / "a.txt", "old")

    def write() -> None:
        with replacing(tmp_path / "a.txt") as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path: Path):
    write_text(tmp_path / ("x" * 255), "a")
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 255]


def test_the_part_of_a_killed_run_goes_with_the_next_write_of_that_name(halted):
    folder, process = halted
    process.kill()
    process.join()
    assert [path.suffix for path in folder.iterdir()] == [".part"]
    write_bytes(folder / "a.bin", b"whole")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.bin": b"whole"}


def test_parts_of_killed_runs_are_removed_and_those_being_written_stay(halted):
    folder, process = halted
    remove_parts(folder)
    assert [path.suffix for path in folder.iterdir()] == [".part"]
    process.kill()
    process.join()
    prepare_folder(folder)
    assert list(folder.iterdir()) == []


def test_two_writers_of_one_file_leave_it_whole(tmp_path: Path):
    contents = [bytes([i]) * 100_000 for i in (1, 2)]
    processes = [_started(_write_often, tmp_path / "a.bin", content) for content in contents]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert {path.name: path.read_bytes() in contents for path in tmp_path.iterdir()} == {"a.bin": True}


def test_a_stage_is_empty_and_gone_afterwards(tmp_path: Path):
    for _ in range(2):
        with staging(tmp_path, "a") as stage:
            assert list(stage.iterdir()) == []
            (stage / "folder").mkdir()
            (stage / "file").touch()
        assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path: Path):
    with staging(tmp_path, "a.txt") as stage:
        part = stage
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").touch()
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"symbolic link|Not a directory"):
        write_text(tmp_path / "a.txt", "a")
    remove_parts(tmp_path)
    assert (tmp_path / "elsewhere" / "theirs").exists()


def test_a_folder_is_made_and_left_empty(tmp_path: Path):
    prepare_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "out", "Not a directory")):
        with pytest.raises(InputError) as caught:
            prepare_folder(folder)
        assert str(caught.value) == f"Expected an output folder that can be written, but got {str(folder)!r}: {reason}."
    with pytest.raises(InputError, match=r"embedded null (byte|character)"):
        prepare_folder(Path("a\0b"))

    def deny(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", deny)
    with pytest.raises(InputError, match=r": Permission denied\.$"):
        prepare_folder(tmp_path)


def test_a_folder_that_goes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    make, tried = Path.mkdir, []

    def mkdir(self, *arguments, **options):
        if not tried:
            tried.append(self)
            raise FileExistsError(17, "File exists", str(self))  # as it says where another removes it meanwhile
        make(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with replacing(tmp_path / "a.txt") as file:
        file.write(b"a")
    assert tried
    assert (tmp_path / "a.txt").read_bytes() == b"a"


def test_a_file_in_the_way_of_a_folder_is_said(tmp_path):
    with replacing(tmp_path / "a.txt") as file:
        file.write(b"a")
        (part,) = tmp_path.glob(".*.part")
    part.write_bytes(b"")
    with pytest.raises(OSError, match=r"File exists|Not a directory"), replacing(tmp_path / "a.txt"):
        pass
