"""What identifies a model: every byte of the files that its features depend on."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clip_as_rnn.encoders.checkpoint import OPEN_CLIP_CONFIG, weight_files
from clip_as_rnn.encoders.sentence_pieces import SENTENCE_PIECES
from clip_as_rnn.encoders.tokenizer import TOKENIZER_FILES

CONFIG_FILES = ("config.json", "preprocessor_config.json", *TOKENIZER_FILES, SENTENCE_PIECES, OPEN_CLIP_CONFIG)

_PIECE_BYTES = 16 * 2**20


def fingerprint(folder: Path) -> str:
    """Identify a model by every byte of its weights, configs and tokenizer files; 16 hexadecimal digits.

    Raises:
        ValueError: the weights are not where their index says.
        OSError: a file cannot be read.
    """
    files = [folder / name for name in CONFIG_FILES if (folder / name).is_file()] + weight_files(folder)
    pieces = [(path, start) for path in files for start in range(0, max(path.stat().st_size, 1), _PIECE_BYTES)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(_hash_piece, pieces)
        whole = hashlib.sha256()
        for (path, start), digest in zip(pieces, digests, strict=True):
            whole.update(f"{path.name}\n{start}\n".encode() + digest)
    return whole.hexdigest()[:16]


def _hash_piece(piece: tuple[Path, int]) -> bytes:
    path, start = piece
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.sha256(file.read(_PIECE_BYTES)).digest()
