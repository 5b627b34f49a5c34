"""Tokenizers that are kept as SentencePiece's own tokenizer.model: pieces and their scores. Needs `sentencepiece`."""

from collections.abc import Sequence
from pathlib import Path

from clip_as_rnn.encoders.transformer import Tokenize
from clip_as_rnn.errors import DependencyError

SENTENCE_PIECES = "tokenizer.model"


def read_sentence_pieces(folder: Path, vocab_size: int) -> Tokenize:
    """Read the tokenizer of a text tower that has `vocab_size` token embeddings and whose texts have small letters.

    Control tokens are neither added to a text nor read out of it.

    Raises:
        DependencyError: sentencepiece is not installed.
        ValueError: the file is damaged, or has pieces that the text tower does not know.
        OSError: it cannot be read.
    """
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise DependencyError(
            f"The tokenizer in '{folder}' is kept as {SENTENCE_PIECES}, which sentencepiece reads; install it with "
            "`pip install 'clip-as-rnn[tipsv2]'`."
        ) from error
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto((folder / SENTENCE_PIECES).read_bytes())
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{SENTENCE_PIECES} holds no pieces ({' '.join(str(error).split())})") from error
    if (count := processor.GetPieceSize()) > vocab_size:
        raise ValueError(f"{SENTENCE_PIECES} has {count:,} pieces, but the text tower knows {vocab_size:,}")

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = processor.Encode([text.lower() for text in texts], out_type=int)
        return ids

    return tokenize
