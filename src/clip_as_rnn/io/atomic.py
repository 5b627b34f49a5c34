"""Files that are there whole or not at all, whatever interrupts.

They are written in a hidden folder beside their place and then moved there; a move within one file system is atomic.
The folder's name ends in `.part` and follows from the file's. Who writes holds a lock on it, so that a part without one
is what a killed run left: the next write of the same name takes its place, and `remove_parts` clears a folder of them.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO

from clip_as_rnn.errors import InputError

if sys.platform != "win32":
    import fcntl


@contextmanager
def staging(folder: Path, name: str) -> Iterator[Path]:
    """Make an empty folder in `folder`, for what is to be moved to its place when complete; it goes at the end.

    Missing folders are made. Of two runs that stage the same name at once, the second waits for the first.

    Raises:
        OSError: it cannot be made.
    """
    digest = blake2b(os.fsencode(name), digest_size=12).hexdigest()  # a name as long as the file system allows has room
    part = folder / f".{digest}.part"
    with _locked_folder(part):
        try:
            for left in part.iterdir():
                _remove(left)
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that takes its place at `path` once it is complete; an exception leaves what was there.

    With `sync` it is on the disk before it takes its place, and so outlasts a power failure. Missing folders are made.

    Raises:
        OSError: it cannot be written.
    """
    with staging(path.parent, path.name) as part:
        with (part / path.name).open("xb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        (part / path.name).replace(path)


def write_bytes(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path, sync=sync) as file:
        file.write(content)


def write_text(path: Path, content: str, *, sync: bool = False) -> None:
    """Write a text as UTF-8, whole or not at all; what is not Unicode, as some file names are, becomes escapes."""
    write_bytes(path, content.encode(errors="backslashreplace"), sync=sync)


def write_json(path: Path, content: object, *, indent: int | None = 1, sync: bool = False) -> None:
    """Write JSON that depends on nothing but its content, whole or not at all."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=indent) + "\n", sync=sync)


def prepare_folder(folder: Path) -> None:
    """Make a folder for results, try to write to it before any work is done for it, and clear it of killed runs' parts.

    Raises:
        InputError: it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"Expected an output folder that can be written, but got {str(folder)!r}: {reason}."
        raise InputError(message) from error
    remove_parts(folder)


def remove_parts(folder: Path) -> None:
    """Remove what killed runs left half-written in a folder; what is being written stays."""
    for part in folder.glob(".*.part"):
        with suppress(OSError), _locked_folder(part, wait=False):  # it is being written, or another run was quicker
            shutil.rmtree(part)


@contextmanager
def _locked_folder(part: Path, *, wait: bool = True) -> Iterator[None]:
    """Make a folder if it is not there and hold its lock; without `wait`, BlockingIOError if another holds it."""
    if sys.platform == "win32":  # folders have no locks there; a file that is open cannot be removed by another
        part.mkdir(parents=True, exist_ok=True)
        yield
        return
    while True:
        try:
            part.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # who held the lock has removed the folder
        except FileExistsError:
            if os.path.lexists(part) and not part.is_dir():
                raise
            continue  # the same, between two looks of `mkdir`
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(descriptor, part):
                yield
                return
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open folder is still the one at `path`, or was removed while it was waited for."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
