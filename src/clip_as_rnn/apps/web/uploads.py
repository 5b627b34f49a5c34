"""The pictures that visitors choose and the files that are written for them. All of theirs goes when they leave.

A file that two visitors uploaded is one file; it stays until the last of them has left.
"""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

from clip_as_rnn.apps.pictures import MAX_PIXELS, check_claimed_size
from clip_as_rnn.errors import InputError
from clip_as_rnn.io.images import Picture, read_picture


class VisitorFiles:
    """Keeps account of whose files are whose, by the session that the server gives each open page.

    Args:
        root: the folder of all uploads and results; visitors can name no file outside it.
        examples: pictures that anyone may choose, by name.
    """

    def __init__(self, root: Path, examples: Mapping[str, Path]) -> None:
        self.root = root
        self._examples = examples
        self._uploads: defaultdict[str, set[Path]] = defaultdict(set)
        self._results: defaultdict[str, dict[str, Path]] = defaultdict(dict)
        self._lock = Lock()

    def admit(self, session: str, chosen: Any) -> Path:
        """Return the picture that a visitor chose, from what the browser says of it; an upload becomes the visitor's.

        Raises:
            InputError: it is neither an upload nor an example, or has gone.
        """
        name = chosen.get("path") if isinstance(chosen, dict) else None
        if not isinstance(name, str):
            raise InputError("Please choose a picture first.")
        if name in self._examples:
            return self._examples[name]
        upload = Path(name)
        try:
            inside, here = upload.resolve().is_relative_to(self.root.resolve()), upload.is_file()
        except (OSError, ValueError, RuntimeError):  # a name too long, a null byte, links in a circle
            inside = False
        if not inside:
            raise InputError("Expected an uploaded picture.")
        if not here:
            raise InputError("The picture is no longer here; please choose it again.")
        with self._lock:
            self._uploads[session].add(upload)
        return upload

    def new_results(self, session: str, kind: str = "picture") -> Path:
        """Make an empty folder whose name nobody can guess; the visitor's earlier one of this kind is removed."""
        folder = self.root / "results" / uuid4().hex
        folder.mkdir(parents=True)
        with self._lock:
            earlier = self._results[session].get(kind)
            self._results[session][kind] = folder
        if earlier is not None:
            shutil.rmtree(earlier, ignore_errors=True)
        return folder

    def leave(self, session: str) -> None:
        """Remove everything that is this visitor's alone."""
        with self._lock:
            uploads = self._uploads.pop(session, set())
            others = set().union(*self._uploads.values())
            results = self._results.pop(session, {})
        for upload in uploads - others:
            upload.unlink(missing_ok=True)
            with suppress(OSError):  # the same picture under another name lies in the same folder
                upload.parent.rmdir()
        for folder in results.values():
            shutil.rmtree(folder, ignore_errors=True)


def open_picture(path: Path) -> Picture:
    """Read an uploaded picture within the page's limit of pixels.

    Raises:
        InputError: it is no picture, is damaged, or is too large.
    """
    try:
        check_claimed_size(path, MAX_PIXELS)
        return read_picture(path)
    except InputError as error:
        raise InputError(str(error).replace(repr(str(path)), repr(path.name))) from error  # not the server's folders
