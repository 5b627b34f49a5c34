"""Which pictures are meant, and how the results of each are named."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from clip_as_rnn.errors import InputError
from clip_as_rnn.io.images import SUFFIXES

_RESERVED_ENDING = "_labels"  # a_labels.json holds the classes of a, and would be the record of a_labels
_STEM_BYTES = 200  # of 255 that file systems allow; the rest is for endings
_LAST_LEVEL = 2


@dataclass(frozen=True, slots=True)
class Source:
    """A picture to segment and how its results are named; or a folder that cannot be listed, and why."""

    path: Path
    stem: str = ""
    error: InputError | None = None


def list_sources(paths: Sequence[Path]) -> list[Source]:
    """Replace every folder by the pictures in it, by name; a folder without any stays, to be reported.

    A picture that is named twice is taken once.
    """
    found: dict[Path, InputError | None] = {}
    for path in paths:
        found |= _expand(path)
    pictures = [path for path, error in found.items() if error is None]
    stems = dict(zip(pictures, unique_stems(pictures), strict=True))
    return [Source(path, stems.get(path, ""), error) for path, error in found.items()]


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """Name the results of each image after it, whatever the order of the images.

    Images that would share a name, also regardless of case, take their suffix into it (a_jpg, a_png), and if they still
    do, a digest of their path. So does a name that ends as files of results do: a_labels.json is of a.
    """
    levels = [int(path.stem.casefold().endswith(_RESERVED_ENDING)) for path in paths]
    while True:
        stems = [_stem(path, level) for path, level in zip(paths, levels, strict=True)]
        counts = Counter(stem.casefold() for stem in stems)
        meeting = [i for i, stem in enumerate(stems) if counts[stem.casefold()] > 1 and levels[i] < _LAST_LEVEL]
        if not meeting:
            return stems
        for i in meeting:
            levels[i] += 1


def check_targets(pictures: Sequence[Path], targets: Sequence[Path]) -> None:
    """Check that no result would take the place of a picture that is to be segmented.

    Raises:
        InputError: one would.
    """
    real = {_real(path) for path in pictures}
    for target in targets:
        if _real(target) in real:
            raise InputError(
                f"The result {str(target)!r} would overwrite a picture that is to be segmented, or is the result of an "
                "earlier run; choose another folder with -o."
            )


def _expand(path: Path) -> dict[Path, InputError | None]:
    """List the pictures that a path stands for; what cannot be looked at is reported when it is read."""
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError):  # a name too long, a null byte
        is_folder = False
    try:
        inside = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES) if is_folder else []
    except OSError as error:
        return {path: InputError(f"The folder {str(path)!r} cannot be listed: {error.strerror}.")}
    return dict.fromkeys(inside or [path])


def _stem(path: Path, level: int) -> str:
    """Name an image's results: by its stem, also by its suffix, or also by a digest of its path."""
    stem = path.stem.encode(errors="surrogateescape")[:_STEM_BYTES].decode(errors="ignore") or "image"
    suffix = f"_{path.suffix.removeprefix('.')}" if level > 0 else ""
    whole = str(path).encode(errors="surrogateescape")
    return stem + suffix + (f"-{blake2b(whole, digest_size=4).hexdigest()}" if level == _LAST_LEVEL else "")


def _real(path: Path) -> Path:
    """Follow links; a path that cannot be looked at stays, and is reported with the images."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # a null byte, links in a circle
        return path
