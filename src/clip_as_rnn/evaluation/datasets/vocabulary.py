"""The class names of a data set: what each is called, what CLIP is asked for, and whether it is a thing or stuff.

Kept as text files in `vocabularies/`, one class a line, in the order of the labels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from clip_as_rnn.errors import InputError, describe_mismatch
from clip_as_rnn.prompts.queries import check_texts

Kind = Literal["thing", "stuff"]
Wording = Literal["paper", "own"]  # the texts that CaR asks, or the data set's own names


@dataclass(frozen=True, slots=True)
class ClassName:
    """One class: the data set's own `name`, the `text` that is asked for, and its kind."""

    name: str
    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The classes of one data set, in the order of its labels: `classes[i]` has the label i + 1."""

    classes: tuple[ClassName, ...]

    def __post_init__(self) -> None:
        """Check that no two classes are asked for with what is the same text to CLIP.

        Raises:
            InputError: two are, so that their masks could not be told apart, or a text cannot be asked at all.
        """
        told_apart = set(check_texts(self.texts))  # of those that are the same, the first stays
        for i, text in enumerate(self.texts):
            if text.strip() not in told_apart or text in self.texts[:i]:
                raise InputError(
                    f"Expected every class to have a text of its own, but got {text!r} twice; neither case nor spaces "
                    "tell texts apart."
                )

    @property
    def texts(self) -> tuple[str, ...]:
        """What is asked for, in the order of the labels."""
        return tuple(entry.text for entry in self.classes)

    def of_kind(self, kind: Kind) -> tuple[str, ...]:
        """Return the texts of the things or of the stuff, in the order of the labels."""
        return tuple(entry.text for entry in self.classes if entry.kind == kind)

    def worded(self, wording: Wording) -> "Vocabulary":
        """Return the same classes asked for in the paper's words or by their own names."""
        if wording == "paper":
            return self
        return Vocabulary(tuple(replace(entry, text=entry.name) for entry in self.classes))


def bundled_vocabulary(name: str) -> Vocabulary:
    """Read the vocabulary `name` that ships with the package."""
    text = files("clip_as_rnn.evaluation.datasets").joinpath("vocabularies", f"{name}.txt").read_text(encoding="utf-8")
    return Vocabulary(tuple(_classes(text.splitlines(), source=f"{name}.txt")))


def read_class_list(path: Path) -> Vocabulary:
    """Read a data set's own class list: one name a line, optionally in the form of the bundled files.

    Raises:
        InputError: the file is not there, or a line of it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Expected the class names, one a line, in {path}, but: {describe_mismatch(error)}."
        ) from error
    return Vocabulary(tuple(_classes(lines, source=str(path))))


def _classes(lines: Iterable[str], *, source: str) -> Iterator[ClassName]:
    """Parse `name`, `kind | name` and `kind | name | text`; empty lines and those that begin with # say nothing."""
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("|")]
        kind, *names = parts if len(parts) > 1 else ("thing", *parts)
        if kind not in ("thing", "stuff") or len(names) not in (1, 2) or not all(names):
            raise InputError(f"Expected `thing | name | text` or `stuff | name | text` in line {number} of {source}.")
        yield ClassName(name=names[0], text=names[-1], kind="thing" if kind == "thing" else "stuff")
