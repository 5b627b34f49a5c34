"""What users ask for: checked, stripped, and merged where an encoder could not tell two texts apart."""

import unicodedata
from collections.abc import Iterable

from clip_as_rnn.errors import InputError

_MOST_CHARACTERS = 10_000  # far more than the tokens that CLIP reads, far fewer than keep a tokenizer busy


def check_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Strip texts and merge those that CLIP cannot tell apart.

    Raises:
        InputError: no texts, one without a visible character, not in Unicode or far too long, or something that is no
            list of texts.
    """
    if isinstance(texts, str):
        raise InputError(f"Expected a list of texts, but got the single text {texts!r}; write [{texts!r}].")
    if not isinstance(texts, Iterable):
        raise InputError(f"Expected a list of texts, but got {texts!r}.")
    merged: dict[str, str] = {}
    for text in texts:
        if isinstance(text, str) and len(text) > _MOST_CHARACTERS:
            raise InputError(
                f"Expected texts of at most {_MOST_CHARACTERS:,} characters, but {text[:20]!r}... is longer."
            )
        if not isinstance(text, str) or not any(char.isprintable() and not char.isspace() for char in text):
            raise InputError(f"Expected every text to hold a word, but got {text!r}.")
        if any("\ud800" <= char <= "\udfff" for char in text):  # bytes of a terminal or a file that were not UTF-8
            raise InputError(f"Expected texts in Unicode, but got {text!r}; check the terminal's encoding.")
        merged.setdefault(normalize_text(text), text.strip())
    if not merged:
        raise InputError("Expected at least one text to look for, but got none.")
    return tuple(merged.values())


def normalize_text(text: str) -> str:
    """Bring a text to what CLIP reads of it, in which alone texts differ to it: composed, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())
