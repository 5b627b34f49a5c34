"""Pictures and results under URLs, through fsspec: s3://, gs://, az://, http://, and whatever else is installed for it.

Objects are put whole or not at all, and never appended to. So results are made in a folder of this machine and then put
to their place; what the record gains is put every few seconds as an object of its own, and joined at the end.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec

from clip_as_rnn.errors import DependencyError, InputError
from clip_as_rnn.io.images import SUFFIXES

_URL = re.compile(r"(?:[a-z0-9]+::)*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FILE_URL = "file:///"
_GLOB = re.compile(r"[*?\[]")
_INTERVAL_S = 5.0  # between objects of the record; a hard kill loses at most the lines of so many seconds
_ERRORS = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"), ("gcsfs.retry", "HttpError"))


def is_url(word: str) -> bool:
    """Tell whether a word is a URL and no path."""
    return _URL.match(word) is not None


def plain_path(word: str) -> str:
    """Write a URL of a file of this machine as its path; other words stay as they are."""
    return unquote(urlsplit(word).path) if word.startswith(_FILE_URL) else word


def list_pictures(url: str) -> list[str]:
    """Replace a URL of a folder by those of the pictures in it and below it, and a glob by what it matches, by name.

    Anything else stays as it is. What is hidden is left out.

    Raises:
        InputError: it cannot be listed.
        DependencyError: what reads such URLs is not installed.
    """
    with _told(f"The pictures of {url!r} cannot be listed"):
        files, root = fsspec.core.url_to_fs(url)
        if _GLOB.search(root):
            inside = files.glob(root)
        elif root.lower().endswith(SUFFIXES) or not files.isdir(root):
            return [url]
        else:
            inside = [one for one in files.find(root) if "/." not in one.removeprefix(root)]
    head, root_head = (_GLOB.split(place.rstrip("/") + "/", maxsplit=1)[0].rpartition("/")[0] for place in (url, root))
    found = (one for one in sorted(inside) if one.lower().endswith(SUFFIXES))
    return [head + one.removeprefix(root_head) for one in found] or [url]


def find_version(url: str) -> str:
    """Name what changes when a picture does: its date and checksum, or what else the storage tells without reading it.

    Raises:
        InputError: it is not there, or cannot be looked at.
    """
    with _told(f"The image {url!r} cannot be read"):
        files, path = fsspec.core.url_to_fs(url)
        return str(files.ukey(path))


def download(url: str, target: Path) -> None:
    """Bring a picture to a file.

    Raises:
        InputError: it cannot be read.
    """
    with _told(f"The image {url!r} cannot be read"):
        files, path = fsspec.core.url_to_fs(url)
        target.parent.mkdir(exist_ok=True)
        files.get_file(path, str(target))


class RemoteFolder:
    """A folder of results under a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with _told(f"Expected an output folder that can be written, but got {url!r}"):
            self._files, self._root = fsspec.core.url_to_fs(self.url)

    def put(self, folder: Path, paths: Sequence[Path]) -> list[str]:
        """Move files, or folders of files, to the places under the URL that they have in `folder`; name those.

        Raises:
            InputError: they cannot be written.
        """
        for path in paths:
            place = self._place(path.relative_to(folder).as_posix())
            with _told(f"The results cannot be written to {self.url!r}"):
                if path.is_dir():
                    self._remove(place)  # masks of an earlier run
                    for one in sorted(path.iterdir()):
                        self._files.put_file(str(one), f"{place}/{one.name}")
                        one.unlink()
                    path.rmdir()
                elif path.exists():
                    self._files.put_file(str(path), place)
                    path.unlink()
        return [path.relative_to(folder).as_posix() for path in paths]

    def get(self, name: str, folder: Path) -> None:
        """Bring a file, or a folder of files, to the place that it has in `folder`; nothing if it is not there.

        Raises:
            InputError: it cannot be read.
        """
        place = self._place(name)
        with _told(f"What is in {self.url!r} cannot be read"):
            for one in self._files.find(place) if self._files.exists(place) else ():
                target = folder / one.removeprefix(self._root).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(one, str(target))

    def remove(self, name: str) -> None:
        """Remove a file, or a folder of files, if it is there.

        Raises:
            InputError: it cannot be removed.
        """
        with _told(f"What is in {self.url!r} cannot be removed"):
            self._remove(self._place(name))

    def check(self) -> None:
        """Try to write.

        Raises:
            InputError: nothing can be written.
        """
        with _told(f"Expected an output folder that can be written, but got {self.url!r}"):
            self._files.pipe_file(self._place(".try"), b"")
            self._files.rm_file(self._place(".try"))

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _remove(self, place: str) -> None:
        if self._files.exists(place):
            self._files.rm(place, recursive=True)


class RecordMirror:
    """Keeps a record that grows on this machine under a URL as well, in pieces in the folder `results` to the end."""

    def __init__(self, remote: RemoteFolder, record: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.place = remote.url
        self._remote, self._record, self._clock = remote, record, clock
        self._parts = record.with_suffix("")
        self._lines: list[bytes] = []
        self._count, self._put_at = 0, clock()
        self._session = f"{time.time_ns():020d}"
        self._lock = Lock()

    def pull(self) -> None:
        """Bring what earlier runs recorded: the joined record, and what was not joined, in the order of writing."""
        folder = self._record.parent
        self._remote.get(self._record.name, folder)
        self._remote.get(self._parts.name, folder)
        parts = sorted(self._parts.glob("*.jsonl")) if self._parts.is_dir() else []
        with self._record.open("ab") as file:
            for part in parts:
                file.write(part.read_bytes())

    def clear(self) -> None:
        """Remove what earlier runs recorded."""
        self._remote.remove(self._record.name)
        self._remote.remove(self._parts.name)

    def add(self, line: bytes) -> None:
        """Take a line; those of a few seconds are put together."""
        with self._lock:
            self._lines.append(line)
            if self._clock() - self._put_at >= _INTERVAL_S:
                self._put()

    def close(self) -> None:
        """Put the whole record in the place of its parts."""
        with self._lock:
            self._put()
        self._remote.put(self._record.parent, [self._record])
        self._remote.remove(self._parts.name)

    def _put(self) -> None:
        if self._lines:
            part = self._parts / f"{self._session}-{self._count:06d}.jsonl"
            part.parent.mkdir(exist_ok=True)
            part.write_bytes(b"".join(self._lines))
            self._remote.put(self._record.parent, [part])
            self._lines, self._count = [], self._count + 1
        self._put_at = self._clock()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell in a sentence of ours what a storage could not do."""
    try:
        yield
    except ImportError as error:
        raise DependencyError(f"{what}: {str(error).rstrip('.')}.") from error
    except _errors() as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError) and not error.strerror:  # it says no more than the place
            reason = "there is nothing at that place"
        raise InputError(f"{what}: {reason.rstrip('.')}.") from error


def _errors() -> tuple[type[Exception], ...]:
    """List what storages raise: Python's own errors, and those of their libraries that are in use."""
    known: list[Any] = [getattr(sys.modules.get(module), name, None) for module, name in _ERRORS]
    return (OSError, ValueError, *(one for one in known if one is not None))
