"""Tokenizers that are whole in their tokenizer.json: pieces, normalization and special tokens, all of it data.

The Rust library that reads the file looks up no class and runs no code. Padding and truncation, which a file may ask
for, are left out: texts that are too long are refused, and each family pads as it was trained.
"""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from clip_as_rnn.encoders.json_files import read_json
from clip_as_rnn.encoders.transformer import Tokenize

TOKENIZER_FILE = "tokenizer.json"
_PROBE = "cat"


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """Build the tokenizer of a folder for a text tower with `vocab_size` token embeddings.

    Special tokens are added around a text and never read out of it: "</s>" within a text is four signs.

    Raises:
        ValueError: the file is malformed, or has tokens that the text tower does not know.
        OSError: it cannot be read.
    """
    path = folder / TOKENIZER_FILE
    read_json(path)
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no class of its own
        raise ValueError(f"{path.name} holds no tokenizer ({' '.join(str(error).split())})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    beyond = [(token, number) for token, number in tokenizer.get_vocab().items() if number >= vocab_size]
    if beyond:
        token, number = min(beyond, key=lambda one: one[1])
        raise ValueError(f"the token {token!r} has the id {number}, but the text tower knows {vocab_size} from 0 on")
    return tokenizer


def find_token(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token.

    Raises:
        ValueError: the vocabulary lacks it.
    """
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"{TOKENIZER_FILE} lacks the token {token!r}")
    return number


def check_end(tokenize: Tokenize, end_id: int) -> None:
    """See that texts end with the token by which the text tower reads them.

    Raises:
        ValueError: they do not.
    """
    if (ids := tokenize([_PROBE])[0])[-1:] != [end_id]:
        raise ValueError(
            f"the text tower reads texts by the token {end_id} (eos_token_id in config.json) at their end, "
            f"but {TOKENIZER_FILE} ends them with {ids[-1] if ids else 'nothing'}"
        )


def tokenize_with(tokenizer: Tokenizer) -> Tokenize:
    """Make a function that turns texts into ids."""

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]

    return tokenize
