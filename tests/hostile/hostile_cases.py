"""What a hostile case is: something made in a folder, and how every door of the program must end on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from numpy import ndarray

Ends = Literal["right", "refused", "either"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a case is made: an empty folder, and a port of this machine on which somebody listens for lost requests."""

    folder: Path
    port: int = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture, a clip, or something under such a name.

    Attributes:
        kind, name: what it is, in groups and alone.
        make: makes it and returns its path.
        ends: "right" and "refused" where only one can be; "either" for damage that may leave a picture.
        pixels: what must be read, within `tolerance` on average; None where only the rules are checked.
        is_clip: it is given as a clip; the page takes files of some seconds, the server none.
        is_private: it is looked at without the rights of an administrator.
    """

    kind: str
    name: str
    make: Callable[[Place], Path]
    ends: Ends = "either"
    pixels: ndarray | None = None
    tolerance: float = 2.0
    is_clip: bool = False
    is_private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Words to look for.

    Attributes:
        texts: as the API, the page and the server get them, and the command line by -t.
        file: as the command line gets them instead, in a file of these bytes.
        command, strangers: how the command line, and the page and the server must end, where that differs from `ends`.
    """

    kind: str
    name: str
    texts: object
    ends: Ends = "right"
    file: bytes | None = None
    command: Ends | None = None
    strangers: Ends | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model's folder, made from a sound one; `role` is the option that it is given to, --model or --sam."""

    kind: str
    name: str
    spoil: Callable[[Path], None]
    ends: Ends = "refused"
    role: Literal["model", "sam", "sam for clips"] = "model"


Case = Picture | Texts | Model
