"""Text features, computed once: in memory for a run, on disk from run to run.

The disk holds one SQLite file, which several processes may share. Its keys are digests of the model's fingerprint, the
precision and the text, so that it shows nobody's words. It keeps the 65,536 texts written last, about 270 MB for
ViT-B/16 or ViT-L/14. `CLIP_AS_RNN_CACHE` names its folder (else `$XDG_CACHE_HOME/clip-as-rnn`, else
`~/.cache/clip-as-rnn`); `CLIP_AS_RNN_CACHE=off` does without. A cache that cannot be used or believed costs time only.
"""

import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from clip_as_rnn.encoders.base import Tick, VisionLanguageEncoder, ignore_tick
from clip_as_rnn.types import Features

_log = logging.getLogger(__name__)
_TEXTS_PER_BATCH = 256
_KEYS_PER_QUERY = 500
_WAIT_S = 5.0
_KEPT_TEXTS = 50_000  # in memory: 150 MB of a wide CLIP
_KEPT_ROWS = 65_536  # on disk
_FORMAT = 2  # of the rows and of how texts become tokens; another number makes every older row unknown
_LENGTH_TOLERANCE = 1e-3  # of a feature's length, which is 1


def cache_file() -> Path | None:
    """Say where the features of texts are kept; None where the user wants no cache, or has no home."""
    chosen = os.environ.get("CLIP_AS_RNN_CACHE", "")
    if chosen.lower() == "off":
        return None
    if chosen:
        return Path(chosen) / "texts.sqlite"
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        _log.info("Text features are not kept: %s", error)
        return None
    return base / "clip-as-rnn" / "texts.sqlite"


class TextCache:
    """The text side of one encoder. Asking for the same text again, in any order, returns the same features."""

    def __init__(self, encoder: VisionLanguageEncoder, file: Path | None = None) -> None:
        self._encoder = encoder
        self._file = file
        self._known: dict[str, torch.Tensor] = {}
        self._owner = f"{_FORMAT}:{encoder.fingerprint}:{encoder.dtype}:{encoder.device.type}"

    def __call__(self, texts: Sequence[str], tick: Tick = ignore_tick) -> Features:
        """Return one feature of length 1 per text, float32, on the encoder's device.

        Texts that are not known are encoded and kept in batches, so that what was done is not lost when `tick`, which
        is called before each, ends the work.

        Raises:
            InputError: a text is too long for it.
        """
        unique = list(dict.fromkeys(texts))
        kept = self._known  # another thread may replace it meanwhile
        known = {text: kept[text] for text in unique if text in kept}
        known |= self._recall([text for text in unique if text not in known])
        unknown = [text for text in unique if text not in known]
        self._keep(known)
        for start in range(0, len(unknown), _TEXTS_PER_BATCH):
            tick(start, len(unknown))
            batch = unknown[start : start + _TEXTS_PER_BATCH]
            fresh = dict(zip(batch, self._encoder.encode_text(batch).cpu(), strict=True))
            self._remember(fresh)
            self._keep(fresh)
            known |= fresh
        if not texts:
            return torch.zeros(0, self._encoder.embed_dim, dtype=torch.float32, device=self._encoder.device)
        return torch.stack([known[text] for text in texts]).to(self._encoder.device)

    def _keep(self, features: dict[str, torch.Tensor]) -> None:
        """Keep features in memory; when there are too many, all others are forgotten."""
        if len(self._known) + len(features) > _KEPT_TEXTS:  # a server is asked new ones for ever
            self._known = {}
        self._known |= features

    def _key(self, text: str) -> bytes:
        return hashlib.blake2b(f"{self._owner}:{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def _recall(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Read what the disk knows of these texts."""
        if self._file is None or not texts:
            return {}
        found: dict[str, torch.Tensor] = {}
        try:
            if not self._file.exists():
                return {}
            with closing(sqlite3.connect(self._file, timeout=_WAIT_S)) as store:
                keys = {self._key(text): text for text in texts}
                rows = _read(store, list(keys), self._encoder.embed_dim)
                found = {keys[key]: feature for key, feature in rows.items()}
        except (sqlite3.Error, OSError) as error:
            _log.info("The cache of text features in %s was not read: %s", self._file, error)
        return found

    def _remember(self, features: dict[str, torch.Tensor]) -> None:
        """Write features to the disk, all or none."""
        if self._file is None:
            return
        rows = [(self._key(text), row.numpy().astype(np.float32).tobytes()) for text, row in features.items()]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=_WAIT_S)) as store, store:  # the second commits
                _write(store, rows)
        except (sqlite3.Error, OSError) as error:
            _log.info("The cache of text features in %s was not written: %s", self._file, error)


def _read(store: sqlite3.Connection, keys: Sequence[bytes], width: int) -> dict[bytes, torch.Tensor]:
    """Read the rows of these keys; a row that can be no feature of length 1 is as good as none."""
    found = {}
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        asked = keys[start : start + _KEYS_PER_QUERY]
        marks = ",".join("?" * len(asked))
        for key, blob in store.execute(f"SELECT key, feature FROM text_features WHERE key IN ({marks})", asked):
            if not isinstance(blob, bytes) or len(blob) != 4 * width:
                continue
            feature = torch.from_numpy(np.frombuffer(blob, np.float32).copy())
            if abs(float(feature.norm()) - 1) < _LENGTH_TOLERANCE:  # false for what is not finite
                found[key] = feature
    return found


def _write(store: sqlite3.Connection, rows: Iterable[tuple[bytes, bytes]]) -> None:
    """Write rows, and drop those beyond the limit that were written first; what is replaced counts as new."""
    store.execute("PRAGMA secure_delete = ON")
    store.execute("DROP TABLE IF EXISTS features")  # of the first format, with texts as they were typed
    store.execute("CREATE TABLE IF NOT EXISTS text_features (key BLOB PRIMARY KEY, feature BLOB)")
    store.executemany("INSERT OR REPLACE INTO text_features VALUES (?, ?)", rows)
    store.execute("DELETE FROM text_features WHERE rowid <= (SELECT max(rowid) FROM text_features) - ?", (_KEPT_ROWS,))
