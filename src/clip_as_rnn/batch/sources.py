"""Which pictures are meant, and how the results of each are named."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

from clip_as_rnn.batch.storage import is_url, list_pictures
from clip_as_rnn.errors import InputError
from clip_as_rnn.io.images import SUFFIXES

_RESERVED_ENDING = "_labels"  # a_labels.json holds the classes of a, and would be the record of a_labels
_STEM_BYTES = 200  # of 255 that file systems allow; the rest is for endings
_LAST_LEVEL = 2
_LIST_MARK = "@"  # before the name of a file that lists pictures
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Source:
    """A picture to segment and how its results are named; or a folder that cannot be listed, and why.

    Attributes:
        path: of its file; what has a URL has no file yet, and this is only for its name.
        stem: what its results are called, without their endings.
        url: where it is, if that is no path.
    """

    path: Path
    stem: str = ""
    error: InputError | None = None
    url: str = ""

    @property
    def name(self) -> str:
        """The path as it was given, or the URL."""
        return self.url or str(self.path)


def list_sources(
    places: Sequence[str | Path], *, output: str | Path = "", standing: Mapping[str, str] = MappingProxyType({})
) -> list[Source]:
    """Replace every folder by the pictures in it and below it, by name, and every glob by what it matches.

    `@FILE` stands for the paths listed in a file, one per line. Folders, globs and pictures may be URLs. A folder
    without any picture and a glob without a match stay, to be reported. A picture that is named twice is taken once.
    Left out of folders are what is hidden, links to folders, and what lies in the folder `output`, where results go.

    `standing` holds the names of results of earlier runs, by the picture's name as given; they keep them.

    Raises:
        InputError: a list cannot be read, or a URL cannot be listed.
        DependencyError: what reads such URLs is not installed.
    """
    found: dict[Path, InputError | None] = {}
    urls: dict[Path, str] = {}
    for place in places:
        for one in _read_list(str(place)):
            if is_url(one):
                listed = [url for url in list_pictures(one) if url == one or not url.startswith(f"{output}/")]
                urls |= {Path(url): url for url in listed}
                found |= {Path(url): None for url in listed}
            else:
                found |= _expand(Path(one), _real(Path(output)) if output and not is_url(str(output)) else None)
    pictures = [path for path, error in found.items() if error is None]
    kept = {str(Path(name)): stem for name, stem in standing.items()}
    stems = dict(zip(pictures, unique_stems(pictures, kept), strict=True))
    return [Source(path, stems.get(path, ""), error, urls.get(path, "")) for path, error in found.items()]


def unique_stems(paths: Sequence[Path], standing: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Name the results of each image after it, whatever the order of the images.

    Images that would share a name, also regardless of case, take their suffix into it (a_jpg, a_png), and if they still
    do, a digest of their path. So does a name that ends as files of results do: a_labels.json is of a. Images that are
    `standing` keep the names that they have, and no other takes one of these.
    """
    levels = [int(path.stem.casefold().endswith(_RESERVED_ENDING)) for path in paths]
    _part(
        paths, levels, [None] * len(paths), Counter()
    )  # as if none were standing: names do not depend on what is done
    kept = [standing.get(str(path)) for path in paths]
    return _part(paths, levels, kept, Counter(stem.casefold() for stem in standing.values()))


def check_targets(pictures: Sequence[Path], targets: Sequence[Path]) -> None:
    """Check that no result would take the place of a picture that is to be segmented.

    Raises:
        InputError: one would.
    """
    real = {_real(path) for path in pictures}
    names = {path.name.casefold() for path in real}
    for target in targets:
        if target.name.casefold() in names and _real(target) in real:
            raise InputError(
                f"The result {str(target)!r} would overwrite a picture that is to be segmented, or is the result of an "
                "earlier run; choose another folder with -o."
            )


def _part(paths: Sequence[Path], levels: list[int], kept: Sequence[str | None], taken: Counter[str]) -> list[str]:
    """Raise the levels of names that meet others, or the taken ones, until none does; return the names."""
    while True:
        stems = [name or _stem(path, level) for path, level, name in zip(paths, levels, kept, strict=True)]
        counts = taken + Counter(stem.casefold() for stem, name in zip(stems, kept, strict=True) if name is None)
        meeting = [
            i
            for i, stem in enumerate(stems)
            if kept[i] is None and counts[stem.casefold()] > 1 and levels[i] < _LAST_LEVEL
        ]
        if not meeting:
            return stems
        for i in meeting:
            levels[i] += 1


def _read_list(word: str) -> list[str]:
    """Read the paths and URLs that @FILE stands for; any other word stands for itself."""
    if not word.startswith(_LIST_MARK) or os.path.lexists(word):
        return [word]
    name = word.removeprefix(_LIST_MARK)
    try:
        lines = os.fsdecode(Path(name).read_bytes()).removeprefix("\ufeff").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"The list of pictures {name!r} cannot be read: {reason}.") from error
    return [line for line in lines if line.strip()]


def _expand(path: Path, output: Path | None) -> dict[Path, InputError | None]:
    """List the pictures that a path stands for; what cannot be looked at is reported when it is read."""
    if _is_folder(path):
        return dict(_walk(path, output)) or {path: None}
    if not _GLOB.search(str(path)) or os.path.lexists(path):
        return {path: None}
    found: dict[Path, InputError | None] = {}
    for match in map(Path, sorted(glob.iglob(str(path), recursive=True))):  # noqa: PTH207 - of a whole pattern
        if _is_folder(match):
            found |= dict(_walk(match, output))
        elif match.suffix.lower() in SUFFIXES:
            found[match] = None
    return found or {path: None}


def _walk(folder: Path, output: Path | None) -> Iterator[tuple[Path, InputError | None]]:
    """Yield the pictures in a folder and below it, by name."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        yield folder, InputError(f"The folder {str(folder)!r} cannot be listed: {error.strerror}.")
        return
    for one in inside:
        if _is_folder(one):
            if not one.name.startswith(".") and not one.is_symlink() and _real(one) != output:
                yield from _walk(one, output)
        elif one.suffix.lower() in SUFFIXES:
            yield one, None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long, a null byte
        return False


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
