"""Automatic masks on disk, so that a data set is segmented by SAM once and matched under many settings.

One file of arrays per image, named after all that the masks depend on: the model, its precision, the image's pixels
and the rules. `CLIP_AS_RNN_SAM_CACHE` names the folder; without it, or as "off", nothing is kept. A file that cannot be
used costs time only.
"""

import hashlib
import io
import json
import logging
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from clip_as_rnn.io.atomic import write_bytes
from clip_as_rnn.refine.sam.automatic import AutomaticMasks, AutomaticRules
from clip_as_rnn.refine.sam.model import Sam
from clip_as_rnn.types import RgbImage

_log = logging.getLogger(__name__)
_FORMAT = 2  # of the files, and of how masks are made: files of another one are not looked for
_DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, BadZipFile, zlib.error)


def mask_cache_folder() -> Path | None:
    """Say where automatic masks are kept; None where the user named no folder, or wants no cache."""
    chosen = os.environ.get("CLIP_AS_RNN_SAM_CACHE", "")
    return Path(chosen) if chosen and chosen.lower() != "off" else None


def cache_name(sam: Sam, image: RgbImage, rules: AutomaticRules) -> str:
    """Name the file for all that the masks depend on."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([_FORMAT, sam.fingerprint, str(sam.dtype), image.shape, asdict(rules)]).encode())
    digest.update(np.ascontiguousarray(image).data)
    return f"{digest.hexdigest()}.npz"


def read_masks(file: Path, size_hw: tuple[int, int]) -> AutomaticMasks | None:
    """Read the masks of an image of this size; None where there are none, or none that can be read and believed."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            height, width = (int(side) for side in stored["size_hw"])
            runs = np.split(stored["runs"], np.cumsum(stored["counts"])[:-1]) if len(stored["counts"]) else []
            boxes, scores = stored["boxes"], stored["scores"]
        if not len(runs) == len(boxes) == len(scores):
            raise ValueError("its lists differ in length")
        if (height, width) != size_hw or any(one.sum() != height * width or (one < 0).any() for one in runs):
            raise ValueError("its masks are not of the image's size")
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        _log.info("The automatic masks in %s were not read: %s", file, error)
        return None
    return AutomaticMasks((height, width), tuple(runs), boxes, scores)


def write_masks(file: Path, masks: AutomaticMasks) -> None:
    """Write the masks of an image, whole or not at all."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        size_hw=masks.size_hw,
        counts=np.array([len(runs) for runs in masks.runs], np.int64),
        runs=np.concatenate([np.zeros(0, np.int32), *masks.runs]),
        boxes=masks.boxes,
        scores=masks.scores,
    )
    try:
        write_bytes(file, content.getvalue())
    except OSError as error:
        _log.info("The automatic masks in %s were not written: %s", file, error)
