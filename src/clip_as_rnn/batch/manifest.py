"""The record of a run: `results.jsonl` in the output folder, one line per picture, only ever appended to.

A line that says what settings and models the run has stands before those of its pictures. A picture's line comes after
its files are written, so that a killed run lacks lines but has none that lie; what a kill tore off is no line. The file
is locked while a run writes to it.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Any

from clip_as_rnn.batch.job import Entry, Outcome
from clip_as_rnn.batch.storage import RecordMirror
from clip_as_rnn.errors import InputError

if sys.platform != "win32":
    import fcntl

MANIFEST = "results.jsonl"
_SHOWN_DIFFERENCES = 3
_SHOWN_LETTERS = 80  # of a value in a message


class _Entries(Mapping[str, Entry]):
    """Lines by picture, kept as they stand in the file: read, each would take five times the memory."""

    def __init__(self) -> None:
        self._lines: dict[str, bytes] = {}

    def __getitem__(self, image: str) -> Entry:
        entry: Entry = json.loads(self._lines[image])
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def set(self, image: str, line: bytes | None) -> None:
        """Put a line in the place of that which is there; None takes it away."""
        self._lines.pop(image, None)
        if line is not None:
            self._lines[image] = line

    def clear(self) -> None:
        """Forget all."""
        self._lines.clear()


class Manifest:
    """The results of one output folder, those there are and those that come; several threads may add to it.

    Attributes:
        entries: the last line of each picture that was made with this run's settings, by the picture's path as given.
        stems: how the results of each picture are named, whatever its settings, by its path as given.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool,
        mixed: bool,
        mirror: RecordMirror | None = None,
    ) -> None:
        """Open the record of a folder that is there, and hold it until `close`.

        Args:
            folder: where the results go.
            settings: what makes the results, by name: texts and settings.
            overwrite: begin anew, whatever is there.
            mixed: go on after a run with other settings; what it made counts as not done.
            mirror: keeps the record under a URL as well; what is there is brought first.

        Raises:
            InputError: another run holds it, its settings are others, or it cannot be read or written.
        """
        self._path = folder / MANIFEST
        self._mirror = mirror
        self._place = mirror.place if mirror else str(folder)
        if mirror is not None:
            mirror.clear() if overwrite else mirror.pull()
        self._settings = _plain(settings)
        self._models: Mapping[str, Any] | None = None
        self._digest = hashlib.sha256(json.dumps(self._settings, sort_keys=True).encode()).hexdigest()[:16]
        self._mixed = mixed
        self._header_is_due = True
        self._lock = Lock()
        self.entries = _Entries()
        self.stems: dict[str, str] = {}
        try:
            self._file: IO[bytes] = self._path.open("a+b")
            try:
                self._hold()
                if overwrite:
                    self._file.truncate(0)
                self._read()
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise self._unusable(error) from error

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._file.close()
        if self._mirror is not None:
            self._mirror.close()

    def begin(self, models: Mapping[str, Any]) -> None:
        """Say which models the run has, once they are loaded; those of an earlier run must have been the same.

        Raises:
            InputError: they were others, or the file cannot be written.
        """
        if self._models is not None and self._models != _plain(models):
            if not self._mixed:
                raise self._changed(self._models, _plain(models))
            self.entries.clear()
            self._header_is_due = True
        self._models = _plain(models)
        if self._header_is_due:
            self._append({"run": self._digest, "settings": self._settings, "models": self._models})
            self._header_is_due = False

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Add what became of pictures, in one line each.

        Raises:
            InputError: the file cannot be written.
        """
        for one in outcomes:
            if one.entry is not None:
                self._append({"image": one.source.name, "run": self._digest, **one.entry})

    def _hold(self) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"Another run is writing to {str(self._path.parent)!r}; wait for its end, or choose another folder "
                "with -o."
            ) from error

    def _read(self) -> None:
        """Take up the lines of earlier runs, the last of each picture."""
        header: Mapping[str, Any] | None = None
        for line, raw in self._lines():
            if "settings" in line:
                header = line
                if line.get("run") == self._digest and line.get("models") != self._models:
                    self.entries.clear()
                    self._models = line.get("models")
                continue
            image, stem = line.get("image"), line.get("stem")
            if isinstance(image, str) and isinstance(stem, str):
                self.stems[image] = stem
                self.entries.set(image, raw if line.get("run") == self._digest else None)
        if header is not None and header["settings"] != self._settings and not self._mixed:
            raise self._changed(header["settings"], self._settings)
        self._header_is_due = header is None or header.get("run") != self._digest

    def _lines(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield what the file holds, read and raw; a line that was torn off is none, what comes next begins another."""
        self._file.seek(0)
        ended = True
        for raw in self._file:
            ended = raw.endswith(b"\n")
            with suppress(ValueError, RecursionError):
                line = json.loads(raw)
                if isinstance(line, dict):
                    yield line, raw
        if not ended:
            self._file.write(b"\n")
            self._file.flush()

    def _append(self, content: Mapping[str, Any]) -> None:
        line = json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        try:
            with self._lock:
                self._file.write(line)
                self._file.flush()
            if self._mirror is not None:
                self._mirror.add(line)
        except OSError as error:
            raise self._unusable(error) from error

    def _changed(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> InputError:
        names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        all_told = [f"{name} = {_short(before.get(name))}, now {_short(now.get(name))}" for name in names]
        told = "; ".join(all_told[:_SHOWN_DIFFERENCES])
        more = f" and {len(all_told) - _SHOWN_DIFFERENCES} more" if len(all_told) > _SHOWN_DIFFERENCES else ""
        return InputError(
            f"The folder {self._place!r} holds results made with {told}{more}. "
            "Choose another folder with -o, go on with what they were made with, or start anew with --overwrite."
        )

    def _unusable(self, error: OSError) -> InputError:
        return InputError(
            f"The record {str(self._path)!r} cannot be written: {error.strerror or os.fspath(self._path)}."
        )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn tuples into lists, as JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return plain


def _short(value: object) -> str:
    words = ", ".join(map(repr, value)) if isinstance(value, Sequence) and not isinstance(value, str) else repr(value)
    return words if len(words) <= _SHOWN_LETTERS else f"{words[: _SHOWN_LETTERS - 3]}..."
