"""What a data set for labeling tools is to those who fill it: pictures go in one by one, in any order.

A data set is a folder. What belongs to one picture is in files of its own, which come to their place whole, so that an
interrupted data set lacks pictures but holds no half ones; `close` makes what concerns all pictures from these files.
Pictures are linked where the file system can, and else copied. The links are hard ones: readers refuse symbolic links
that lead out of the data set.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from clip_as_rnn.errors import InputError
from clip_as_rnn.io.atomic import staging, write_json
from clip_as_rnn.result import Segmentation

CLASSES_FILE = "classes.json"  # in every data set's folder: the texts asked, whose order numbers the classes


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One picture of a data set and what was found in it.

    Attributes:
        name: what its files are called, without their endings; no other picture's is equal to it, whatever the case.
        picture: its file.
        segmentation: made with the texts that are the data set's classes.
    """

    name: str
    picture: Path
    segmentation: Segmentation


@runtime_checkable
class DatasetExporter(Protocol):
    """Fills one data set. Several threads may add pictures at once, each its own.

    Attributes:
        parts: the folders in it of which `close` makes what concerns all pictures.
    """

    parts: Sequence[str]

    def paths(self, name: str, picture: Path) -> list[Path]:
        """List the files that `add` writes for a picture, the last one to be written last."""

    def add(self, sample: Sample) -> list[Path]:
        """Write what belongs to one picture, in the place of what was there of it; return the paths.

        Raises:
            InputError: it cannot be written.
        """

    def close(self) -> None:
        """Make what concerns all pictures that are there, of this run and of earlier ones.

        Raises:
            InputError: it cannot be written.
        """


def open_dataset(folder: Path, classes: Sequence[str]) -> None:
    """Make a data set's folder, or check that the one that is there has the same classes.

    Raises:
        InputError: its classes are others, or it cannot be written.
    """
    path = folder / CLASSES_FILE
    try:
        if not path.exists():
            write_json(path, list(classes))
            return
        standing = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unwritable(folder, error) from error
    except ValueError:
        standing = None
    if standing != list(classes):
        raise InputError(
            f"The data set in {str(folder)!r} has the classes {_in_short(standing)}, but now {_in_short(classes)} are "
            "asked; choose another folder with -o, or start anew with --overwrite."
        )


def remove_dataset(folder: Path) -> None:
    """Remove a data set that we made; what stands there of somebody else is left.

    Raises:
        InputError: it cannot be removed.
    """
    if (folder / CLASSES_FILE).is_file() and not folder.is_symlink():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise unwritable(folder, error) from error


def place_picture(picture: Path, target: Path) -> None:
    """Put a picture into a data set: a link to it, or a copy where there can be no link.

    Raises:
        OSError: neither can be made.
    """
    with staging(target.parent, target.name) as stage:
        try:
            (stage / target.name).hardlink_to(picture.resolve())
        except (OSError, NotImplementedError):  # another file system, or one without links
            shutil.copyfile(picture, stage / target.name)
        (stage / target.name).replace(target)


def unwritable(folder: Path, error: OSError) -> InputError:
    """Say that a data set cannot be written."""
    return InputError(f"The data set cannot be written to {str(folder)!r}: {error.strerror or os.fspath(folder)}.")


def _in_short(classes: object) -> str:
    listed = 5
    if not isinstance(classes, Sequence):
        return "of somebody else"
    words = ", ".join(repr(name) for name in classes[:listed])
    return words if len(classes) <= listed else f"{words}, ... {len(classes)} in all"
