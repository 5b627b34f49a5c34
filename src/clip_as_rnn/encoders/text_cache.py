"""Text features, computed once: in memory for a run, on disk from run to run.

The disk holds one small SQLite file, keyed by model fingerprint, precision and text, which several processes may share.
`CLIP_AS_RNN_CACHE` names its folder; `CLIP_AS_RNN_CACHE=off` does without. A cache that cannot be used costs time only.
"""

import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from clip_as_rnn.encoders.clip import Clip
from clip_as_rnn.types import Features

_log = logging.getLogger(__name__)
_KEYS_PER_QUERY = 500
_WAIT_S = 5.0
_KEPT_TEXTS = 50_000  # in memory: 150 MB of a wide CLIP


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


class TextFeatures:
    """The text side of one CLIP. Asking for the same text again, in any order, returns the same features."""

    def __init__(self, clip: Clip, file: Path | None = None) -> None:
        self._clip = clip
        self._file = file
        self._known: dict[str, torch.Tensor] = {}
        self._owner = f"{clip.fingerprint}:{clip.dtype}:{clip.device.type}"

    def __call__(self, texts: Sequence[str]) -> Features:
        """Return one feature of length 1 per text, float32, on the CLIP's device.

        Raises:
            InputError: a text is too long for CLIP.
        """
        unique = list(dict.fromkeys(texts))
        known = {text: self._known[text] for text in unique if text in self._known}
        known |= self._recall([text for text in unique if text not in known])
        unknown = [text for text in unique if text not in known]
        if unknown:
            fresh = dict(zip(unknown, self._clip.encode_texts(unknown).cpu(), strict=True))
            known |= fresh
            self._remember(fresh)
        if len(self._known) + len(known) > _KEPT_TEXTS:  # a server is asked new ones for ever
            self._known = {}
        self._known |= known
        if not texts:
            return torch.zeros(0, self._clip.width, device=self._clip.device)
        return torch.stack([known[text] for text in texts]).to(self._clip.device)

    def _recall(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Read what the disk knows of these texts."""
        if self._file is None or not texts:
            return {}
        found: dict[str, torch.Tensor] = {}
        try:
            if not self._file.exists():
                return {}
            with closing(sqlite3.connect(self._file, timeout=_WAIT_S)) as store:
                for start in range(0, len(texts), _KEYS_PER_QUERY):
                    found.update(_read(store, self._owner, texts[start : start + _KEYS_PER_QUERY], self._clip.width))
        except (sqlite3.Error, OSError) as error:
            _log.info("The cache of text features in %s was not read: %s", self._file, error)
        return found

    def _remember(self, features: dict[str, torch.Tensor]) -> None:
        """Write features to the disk, all or none."""
        if self._file is None:
            return
        rows = [(self._owner, text, row.numpy().astype(np.float32).tobytes()) for text, row in features.items()]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=_WAIT_S)) as store, store:  # the second commits
                _write(store, rows)
        except (sqlite3.Error, OSError) as error:
            _log.info("The cache of text features in %s was not written: %s", self._file, error)


def _read(store: sqlite3.Connection, owner: str, texts: Sequence[str], width: int) -> dict[str, torch.Tensor]:
    marks = ",".join("?" * len(texts))
    query = f"SELECT text, feature FROM features WHERE owner = ? AND text IN ({marks})"
    rows = store.execute(query, (owner, *texts)).fetchall()
    return {
        text: torch.from_numpy(np.frombuffer(blob, np.float32).copy()) for text, blob in rows if len(blob) == 4 * width
    }


def _write(store: sqlite3.Connection, rows: Iterable[tuple[str, str, bytes]]) -> None:
    store.execute(
        "CREATE TABLE IF NOT EXISTS features (owner TEXT, text TEXT, feature BLOB, PRIMARY KEY (owner, text))"
    )
    store.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", rows)
