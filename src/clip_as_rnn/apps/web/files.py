"""The files of visitors: what they upload and what is written for them. All of it goes when they leave.

A file that two visitors uploaded is one file; it stays until the last of them has left.
"""

import shutil
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from threading import Lock
from uuid import uuid4

from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.io.images import Picture, read_picture

MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000


class VisitorFiles:
    """Keeps account of whose files are whose, by the session that the server gives each open page."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._uploads: defaultdict[str, set[Path]] = defaultdict(set)
        self._results: dict[str, Path] = {}
        self._lock = Lock()

    def admit(self, session: str, upload: Path) -> None:
        """Note that a visitor uploaded a file.

        Raises:
            InputError: it is no upload at all.
        """
        if not upload.resolve().is_relative_to(self.root.resolve()):
            raise InputError("Expected an uploaded picture.")
        with self._lock:
            self._uploads[session].add(upload)

    def new_results(self, session: str) -> Path:
        """Make an empty folder whose name nobody can guess; the visitor's earlier one is removed."""
        folder = self.root / "results" / uuid4().hex
        folder.mkdir(parents=True)
        with self._lock:
            earlier = self._results.get(session)
            self._results[session] = folder
        if earlier is not None:
            shutil.rmtree(earlier, ignore_errors=True)
        return folder

    def leave(self, session: str) -> None:
        """Remove everything that is this visitor's alone."""
        with self._lock:
            uploads = self._uploads.pop(session, set())
            others = set().union(*self._uploads.values())
            results = self._results.pop(session, None)
        for upload in uploads - others:
            upload.unlink(missing_ok=True)
            with suppress(OSError):  # the same picture under another name lies in the same folder
                upload.parent.rmdir()
        if results is not None:
            shutil.rmtree(results, ignore_errors=True)


def open_picture(path: Path) -> Picture:
    """Read an uploaded picture within the page's limit of pixels.

    Raises:
        InputError: it has gone, is no picture, is damaged, or is too large.
    """
    if not path.is_file():
        raise InputError("The picture is no longer here; please choose it again.")
    try:
        pixels = _claimed_pixels(path)
        if pixels > MAX_PIXELS:
            limit = f"{MAX_PIXELS / 1e6:.0f} million"
            raise InputError(
                f"Expected a picture of at most {limit} pixels, but this one has {pixels / 1e6:.0f} million."
            )
        return read_picture(path)
    except InputError as error:
        raise InputError(str(error).replace(repr(str(path)), repr(path.name))) from error  # not the server's folders


def _claimed_pixels(path: Path) -> int:
    """Read the size that a file's header claims; what cannot be read is left for `read_picture` to explain."""
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
    except (OSError, SyntaxError, ValueError):
        return 0
