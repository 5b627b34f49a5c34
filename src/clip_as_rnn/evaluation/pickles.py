"""Read a pickle that holds nothing but plain containers, strings and numbers.

A pickle is a program that may call anything; the one here is stopped at the first name it asks for.
"""

import io
import pickle
import pickletools
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
)
_ARGUMENTS = {op.code.encode("latin-1"): op.arg.n if op.arg else 0 for op in pickletools.opcodes}
_TWO_LINES = (pickle.GLOBAL, pickle.INST)  # a module's name and one in it
_LENGTH_BYTES = {  # of arguments that begin with their length
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_MEMO = (pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT)
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
        data = path.read_bytes()
        _check_memory(data)
        # The published files come from Python 2, whose strings are bytes.
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except InputError as error:
        raise InputError(f"Expected plain lists, texts and numbers in {path}, but {error}.") from error
    except EOFError as error:
        raise InputError(f"{path} is truncated: its pickle ends before its data does.") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    except MemoryError as error:
        raise InputError(
            f"{path} holds more than this machine's memory can; check that it is the published file."
        ) from error
    except _DAMAGE as error:
        what = "is truncated" if "truncated" in str(error) else "is not a sound pickle"
        raise InputError(f"{path} {what}: {error}.") from error


def _check_memory(data: bytes) -> None:
    """Go through the opcodes without running them, for the unpickler reserves whatever size a few bytes ask for.

    Raises:
        InputError: an index of the memo, which is as long as its greatest index, is beyond the file's own size.
        EOFError: a length is beyond the end of the file, or the file ends without the opcode that ends it.
    """
    position = 0
    while (code := data[position : position + 1]) != pickle.STOP:
        if code not in _ARGUMENTS:
            raise pickle.UnpicklingError(f"invalid load key, {code!r}") if code else EOFError
        start, position = position + 1, _argument_end(data, position + 1, _ARGUMENTS[code])
        if code in _TWO_LINES:
            position = _argument_end(data, position, _ARGUMENTS[code])
        if code in _MEMO and _memo_index(code, data[start:position]) > len(data):
            raise InputError("it asks for far more memory than its data needs, so it was not loaded")


def _argument_end(data: bytes, start: int, size: int) -> int:
    """Return where an opcode's argument ends, whose size is a number of bytes or one of pickletools' marks.

    Raises:
        EOFError: the file ends before.
    """
    end = start + size
    if size == pickletools.UP_TO_NEWLINE:
        end = data.find(b"\n", start) + 1 or len(data) + 1
    elif size in _LENGTH_BYTES:
        length_end = start + _LENGTH_BYTES[size]
        end = length_end + int.from_bytes(data[start:length_end], "little")
    if end > len(data):
        raise EOFError
    return end


def _memo_index(code: bytes, argument: bytes) -> int:
    return int(argument) if code == pickle.PUT else int.from_bytes(argument, "little")
