"""Everything that can go wrong for a reason the user can mend.

    CarError
    ├── InputError (ValueError)     what was asked cannot be done: an image, a text, a setting, a folder
    ├── WeightsError                a model's files cannot be had or read
    └── DependencyError             an optional part is not installed

Applications catch `CarError` and print its one sentence; anything else is a bug and shows.
"""

from collections.abc import Sequence
from difflib import get_close_matches


class CarError(Exception):
    """Base of all errors of this package; its message is one sentence for the user."""


class InputError(CarError, ValueError):
    """The user's image, text, setting or folder cannot be used as given."""


class WeightsError(CarError):
    """A model's files cannot be had or read; the message holds the way out."""


class DependencyError(CarError):
    """An optional dependency is missing; the message holds the command that installs it."""


def suggest(name: str, known: Sequence[str]) -> str:
    """Say which known name is nearest to an unknown one, and list all, for the end of a message."""
    close = get_close_matches(name, known, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"{guess} Known: {', '.join(known)}."


def describe_mismatch(error: Exception) -> str:
    """Say what a file lacks, given what Python raised while its fields were read: words, not an exception's name."""
    match error:
        case KeyError():
            return f"there is no {error.args[0]!r} where one was expected"
        case IndexError():
            return "a list in it is shorter than expected"
        case UnicodeDecodeError():
            return "a text in it is not in UTF-8"
        case OSError(strerror=str(reason)):
            return reason
        case TypeError() | AttributeError():
            return f"a field in it is of another kind than expected ({error})"
        case _:
            return str(error)
