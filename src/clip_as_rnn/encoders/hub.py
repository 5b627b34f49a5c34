"""Finds and loads a CLIP: a Hugging Face id, a local folder, or the bundled one. Safetensors only, nothing is executed.

`HF_HUB_OFFLINE`, `HF_HOME` and the usual variables of Hugging Face are honored.
"""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError

from clip_as_rnn.config import BUNDLED
from clip_as_rnn.encoders.checkpoint import (
    INDEX,
    WEIGHTS,
    load_model,
    read_config,
    read_logit_scale,
    read_preprocessor,
    weight_files,
)
from clip_as_rnn.encoders.clip import ClipEncoder
from clip_as_rnn.encoders.tokenizer import TOKENIZER_FILES, has_tokenizer, load_tokenizer
from clip_as_rnn.errors import InputError, WeightsError

BUNDLED_FOLDER = Path(__file__).parents[1] / "assets" / "tiny"

_CONVERSION_BOT = "SFconvertbot"
_CONFIG_FILES = ("config.json", "preprocessor_config.json", *TOKENIZER_FILES)
_WANTED = ("model*.safetensors", INDEX, *_CONFIG_FILES)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_PIECE_BYTES = 16 * 2**20
_PROBES = ["cat", "dog"]


def load_clip(
    source: str | Path, *, device: torch.device, dtype: torch.dtype, cache_dir: str | Path | None = None
) -> ClipEncoder:
    """Load a CLIP in Hugging Face's CLIPModel format, and see that it reads texts.

    Raises:
        InputError: a local folder that holds no such model, or not all of it.
        WeightsError: an id whose files are neither in the cache nor to be had now, or files that are damaged.
    """
    folder = find_folder(source, cache_dir=cache_dir)
    _check_parts(folder)
    _keep_forks_alive()
    try:
        with torch.inference_mode(False):  # else nothing could be pulled back through it
            return _read_clip(folder, device, dtype)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"The model in '{folder}' cannot be read: {first_line(error)}.") from error


def _check_parts(folder: Path) -> None:
    parts = {
        f"{WEIGHTS} (pickles are never loaded)": _has_weights(folder),
        "config.json": (folder / "config.json").is_file(),
        "tokenizer (tokenizer.json, or vocab.json and merges.txt)": has_tokenizer(folder),
    }
    for name, found in parts.items():
        if not found:
            raise InputError(
                f"The model folder '{folder}' holds no {name}; give a whole CLIPModel folder of Hugging Face, "
                "as `hf download MODEL_ID --local-dir FOLDER` makes it."
            )


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def _read_clip(folder: Path, device: torch.device, dtype: torch.dtype) -> ClipEncoder:
    config, files = read_config(folder), weight_files(folder)
    text = config.text_config
    tokenizer = load_tokenizer(folder, text.vocab_size, text.eos_token_id)
    preprocessor = read_preprocessor(folder, config.vision_config.image_size)
    model = load_model(config, files, device, dtype)
    clip = ClipEncoder(model, tokenizer, preprocessor, fingerprint(folder), read_logit_scale(files))
    features = clip.encode_text(_PROBES)
    if not features.isfinite().all():
        raise ValueError(f"its features of texts are no finite numbers in {dtype}")
    if torch.equal(features[0], features[1]):
        raise ValueError("it reads different texts as the same")
    return clip


@cache
def _keep_forks_alive() -> None:
    """Let processes forked from this one compute on one thread: the threads of torch's pool do not survive a fork.

    Without this, the first larger operation of the child would wait for them for ever.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


def find_folder(
    source: str | Path,
    *,
    cache_dir: str | Path | None = None,
    expected: str = "a CLIPModel folder, a Hugging Face id or 'tiny'",
    way_out: str = "give a local folder with --model and --classifier, or use the bundled model with --preset tiny",
) -> Path:
    """Turn a model's name into the folder that holds its files, fetching them if they are on the Hub.

    Args:
        source: a local folder, a Hugging Face id, or "tiny".
        cache_dir: where models of the Hub are kept and looked for.
        expected: what would be right, for the message on a folder that is not there.
        way_out: what helps where there is no network, for the message on weights that cannot be had.

    Raises:
        InputError: `source` reads as a path and there is nothing there.
        WeightsError: the id's files are neither in the cache nor to be had now.
    """
    if str(source) == BUNDLED:
        return BUNDLED_FOLDER
    try:
        folder = Path(source).expanduser()
        if folder.is_dir():
            return folder
        is_id = isinstance(source, str) and _HUB_ID.fullmatch(source)
    except (OSError, RuntimeError):  # a name too long, no such user
        is_id = None
    if not is_id:
        raise InputError(f"There is no model folder {str(source)!r}; give {expected}.")
    try:
        return _fetch(str(source), cache_dir)
    except (OSError, ValueError, RuntimeError) as error:  # every error of the Hub's client is one of these
        raise WeightsError(
            f"The weights of '{source}' are not in the cache and cannot be fetched now ({first_line(error)}). "
            f"Fetch them where there is a network with `hf download {source}`, {way_out}."
        ) from error


def _fetch(model_id: str, cache_dir: str | Path | None) -> Path:
    """Fetch a model's files, or find them in the cache.

    Old repositories keep their safetensors on a branch of the Hub's own conversion bot; only that author is trusted.
    """
    patterns = list(_WANTED)
    folder = Path(snapshot_download(model_id, allow_patterns=patterns, cache_dir=cache_dir))
    if _has_weights(folder):
        return folder
    for other in sorted(folder.parent.iterdir()):  # snapshots of other branches fetched before
        if _has_weights(other):
            return other
    for discussion in HfApi().get_repo_discussions(model_id, author=_CONVERSION_BOT, discussion_type="pull_request"):
        branch = snapshot_download(
            model_id, revision=discussion.git_reference, allow_patterns=patterns, cache_dir=cache_dir
        )
        if _has_weights(Path(branch)):
            return Path(branch)
    raise OSError("the repository has no safetensors")


def fingerprint(folder: Path) -> str:
    """Identify a model by every byte of its weights, configs and tokenizer files; 16 hexadecimal digits.

    Raises:
        ValueError: the weights are not where their index says.
        OSError: a file cannot be read.
    """
    files = [folder / name for name in _CONFIG_FILES if (folder / name).is_file()] + weight_files(folder)
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


def first_line(error: BaseException) -> str:
    """Shorten an error to one line without its full stop, to be quoted in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
