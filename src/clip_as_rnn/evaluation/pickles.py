"""Read a pickle that holds nothing but plain containers, strings and numbers.

A pickle is a program that may call anything; the one here is stopped at the first name it asks for.
"""

import pickle
from pathlib import Path
from typing import NoReturn

from clip_as_rnn.errors import InputError

_CONTAINERS = {"set": set, "frozenset": frozenset}  # lists, tuples and dicts need no name
_DAMAGE = (  # what the unpickler raises on damaged files
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
)
_BUILTINS = ("builtins", "__builtin__")  # Python 3 and Python 2


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that resolves no names but those of plain containers."""

    def find_class(self, module_name: str, global_name: str, /) -> type:
        """Return a container's type.

        Raises:
            InputError: the pickle asks for anything else.
        """
        if module_name in _BUILTINS and global_name in _CONTAINERS:
            return _CONTAINERS[global_name]
        raise InputError(f"it asks for {module_name}.{global_name}, which plain data never needs, so it was not loaded")

    def persistent_load(self, pid: object, /) -> NoReturn:
        """Refuse references to objects outside of the file."""
        raise InputError("it refers to objects outside of the file, so it was not loaded")


def load_plain_pickle(path: Path) -> object:
    """Load plain data from a pickle.

    Raises:
        InputError: the file is missing, truncated, no pickle, or asks for more than plain data.
    """
    try:
        with path.open("rb") as stream:
            # The published files come from Python 2, whose strings are bytes.
            return _PlainUnpickler(stream, encoding="utf-8", errors="replace").load()
    except InputError as error:
        raise InputError(f"Expected plain lists, texts and numbers in {path}, but {error}.") from error
    except EOFError as error:
        raise InputError(f"{path} is truncated: its pickle ends before its data does.") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    except _DAMAGE as error:
        what = "is truncated" if "truncated" in str(error) else "is not a sound pickle"
        raise InputError(f"{path} {what}: {error}.") from error
