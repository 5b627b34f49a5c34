"""The families of encoders that can be read, each told by its files and never by a name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from clip_as_rnn.encoders.checkpoint import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, weight_files
from clip_as_rnn.encoders.clip import read_clip
from clip_as_rnn.encoders.json_files import read_json
from clip_as_rnn.encoders.metaclip2 import read_metaclip2
from clip_as_rnn.encoders.open_clip import read_open_clip
from clip_as_rnn.encoders.sentence_pieces import SENTENCE_PIECES
from clip_as_rnn.encoders.siglip import read_siglip
from clip_as_rnn.encoders.tipsv2 import read_tipsv2
from clip_as_rnn.encoders.tokenizer import has_tokenizer
from clip_as_rnn.encoders.tokenizer_file import TOKENIZER_FILE
from clip_as_rnn.encoders.transformer import TransformerEncoder

Reader: TypeAlias = Callable[[Path, torch.device, torch.dtype], TransformerEncoder]


@dataclass(frozen=True, slots=True)
class Family:
    """One family of encoders.

    Attributes:
        title: how it is named to people, with the class in transformers that its files are of.
        read: from a folder, the device and the precision to the encoder.
        tokenizer: what its tokenizer is made of, for messages.
        has_tokenizer: whether a folder holds that.
        tokenizer_help: where to get it if repositories lack it.
    """

    title: str
    read: Reader
    tokenizer: str = TOKENIZER_FILE
    has_tokenizer: Callable[[Path], bool] = lambda folder: (folder / TOKENIZER_FILE).is_file()
    tokenizer_help: str | None = None


_CLIP = Family("CLIP (CLIPModel)", read_clip, "tokenizer.json, or vocab.json and merges.txt", has_tokenizer)
_FAMILIES: Mapping[str, Family] = {  # by the model_type of config.json
    "clip": _CLIP,
    "metaclip_2": Family("MetaCLIP 2 (MetaClip2Model)", read_metaclip2),
    "tipsv2": Family(
        "TIPSv2 (Tipsv2Model)",
        read_tipsv2,
        f"{TOKENIZER_FILE}, or {SENTENCE_PIECES}",
        lambda folder: any((folder / name).is_file() for name in (TOKENIZER_FILE, SENTENCE_PIECES)),
    ),
    "siglip": Family("SigLIP and SigLIP 2 of fixed resolution (SiglipModel)", read_siglip),
}


_OPEN_CLIP = Family(
    "OpenCLIP's standard models",
    read_open_clip,
    _CLIP.tokenizer,
    has_tokenizer,
    "a standard one has CLIP's, which `hf download openai/clip-vit-base-patch16 vocab.json merges.txt "
    "--local-dir FOLDER` fetches",
)


def find_family(folder: Path) -> Family:
    """Say of which family the model of a folder is; where files of both formats are, transformers' are read.

    Raises:
        ValueError: of none that is known; the message names those that are.
        OSError: its config cannot be read.
    """
    if weight_files(folder) == [folder / OPEN_CLIP_WEIGHTS]:
        return _OPEN_CLIP
    kind = read_json(folder / "config.json").get("model_type")
    if isinstance(kind, str) and kind in _FAMILIES:
        return _FAMILIES[kind]
    known = ", ".join(f"{name!r}: {family.title}" for name, family in _FAMILIES.items())
    raise ValueError(
        f"config.json has the model_type {kind!r}, which is not supported; supported are {known} "
        f"and OpenCLIP's standard models ({OPEN_CLIP_CONFIG})"
    )
