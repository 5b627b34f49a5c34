"""Text features, computed once: in memory for a run, on disk from run to run.

The disk holds one small SQLite file, keyed by model fingerprint, precision and text, which several processes may share.
`CLIP_AS_RNN_CACHE` names its folder; `CLIP_AS_RNN_CACHE=off` does without. A cache that cannot be used costs time only.
"""

import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from clip_as_rnn.clip import Clip
from clip_as_rnn.shapes import Features

_log = logging.getLogger(__name__)
_KEYS_PER_QUERY = 500
_WAIT_S = 5.0


def cache_file() -> Path | None:
    """Say where the features of texts are kept; None where the user wants no cache."""
    chosen = os.environ.get("CLIP_AS_RNN_CACHE", "")
    if chosen.lower() == "off":
        return None
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "clip-as-rnn"
    return base / "texts.sqlite"


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
        unknown = [text for text in dict.fromkeys(texts) if text not in self._known]
        if unknown:
            self._known.update(self._recall(unknown))
        unknown = [text for text in unknown if text not in self._known]
        if unknown:
            fresh = dict(zip(unknown, self._clip.encode_texts(unknown).cpu(), strict=True))
            self._known.update(fresh)
            self._remember(fresh)
        rows = [self._known[text] for text in texts]
        return (
            torch.stack(rows).to(self._clip.device)
            if rows
            else torch.zeros(0, self._clip.width, device=self._clip.device)
        )

    def _recall(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Read what the disk knows of these texts."""
        if self._file is None or not self._file.exists():
            return {}
        found: dict[str, torch.Tensor] = {}
        try:
            with sqlite3.connect(self._file, timeout=_WAIT_S) as store:
                for start in range(0, len(texts), _KEYS_PER_QUERY):
                    found.update(_read(store, self._owner, texts[start : start + _KEYS_PER_QUERY], self._clip.width))
            store.close()
        except sqlite3.Error as error:
            _log.info("The cache of text features in %s was not read: %s", self._file, error)
        return found

    def _remember(self, features: dict[str, torch.Tensor]) -> None:
        """Write features to the disk, all or none."""
        if self._file is None:
            return
        rows = [(self._owner, text, row.numpy().astype(np.float32).tobytes()) for text, row in features.items()]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with sqlite3.connect(self._file, timeout=_WAIT_S) as store:
                _write(store, rows)
            store.close()
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
