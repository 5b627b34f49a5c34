"""Finds and loads an encoder: a Hugging Face id, a local folder, or the bundled CLIP.

Safetensors only, nothing is executed. `HF_HUB_OFFLINE`, `HF_HOME` and the usual variables of Hugging Face are honored.
"""

import os
import re
from functools import cache, partial
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError

from clip_as_rnn.config import BUNDLED
from clip_as_rnn.encoders.checkpoint import INDEX, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, WEIGHTS, weight_files
from clip_as_rnn.encoders.families import find_family
from clip_as_rnn.encoders.fingerprint import CONFIG_FILES
from clip_as_rnn.encoders.transformer import TransformerEncoder
from clip_as_rnn.errors import InputError, WeightsError

BUNDLED_FOLDER = Path(__file__).parents[1] / "assets" / "tiny"

_CONVERSION_BOT = "SFconvertbot"
_WANTED = ("model*.safetensors", INDEX, *CONFIG_FILES)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_PROBES = ["cat", "dog"]
_OPEN_CLIP_PICKLE = "open_clip_pytorch_model.bin"
_WHOLE = (
    "give a whole model folder of Hugging Face, as `hf download MODEL_ID --local-dir FOLDER` makes it, also of one "
    "that was fetched in part"
)


def load_encoder(
    source: str | Path, *, device: torch.device, dtype: torch.dtype, cache_dir: str | Path | None = None
) -> TransformerEncoder:
    """Load a model of any family that `families` knows, and see that it reads texts.

    Raises:
        InputError: a local folder that holds no such model, or not all of it.
        WeightsError: an id whose files are neither in the cache nor to be had now, or files that are damaged.
        DependencyError: the family is unknown to this transformers.
    """
    folder = find_folder(source, cache_dir=cache_dir)
    _keep_forks_alive()
    try:
        _check_parts(folder)
        with torch.inference_mode(False):  # else nothing could be pulled back through it
            return _read(folder, device, dtype)
    except InputError:
        raise
    except SafetensorError as error:
        raise WeightsError(
            f"The model in '{folder}' cannot be read: {first_line(error)}; its weights are damaged, or were fetched in "
            "part: fetch them again with `hf download MODEL_ID --local-dir FOLDER`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"The model in '{folder}' cannot be read: {first_line(error)}.") from error


def _check_parts(folder: Path) -> None:
    """Refuse a folder that lacks a file, before any is read."""
    files = weight_files(folder)
    if not files:
        raise InputError(
            f"The model folder '{folder}' holds no {WEIGHTS} (pickles are never loaded); {_way_to_safetensors(folder)}."
        )
    config = OPEN_CLIP_CONFIG if files[0].name == OPEN_CLIP_WEIGHTS else "config.json"
    if not (folder / config).is_file():
        raise InputError(f"The model folder '{folder}' holds no {config}; {_WHOLE}.")
    family = find_family(folder)
    if not family.has_tokenizer(folder):
        way_out = family.tokenizer_help or _WHOLE
        raise InputError(f"The model folder '{folder}' holds no tokenizer ({family.tokenizer}); {way_out}.")


def _way_to_safetensors(folder: Path) -> str:
    """Say how the weights of a folder can be had as safetensors, once and for all."""
    if (folder / _OPEN_CLIP_PICKLE).is_file():
        return (
            f'in it, convert {_OPEN_CLIP_PICKLE} once with `python -c "import torch; from safetensors.torch import '
            f"save_file; save_file({{k: v.contiguous() for k, v in torch.load('{_OPEN_CLIP_PICKLE}', "
            f"weights_only=True).items()}}, '{OPEN_CLIP_WEIGHTS}')\"`"
        )
    return _convert_command(str(folder)) if any(folder.glob("pytorch_model*.bin*")) else _WHOLE


def _convert_command(source: str) -> str:
    """Say how a model whose weights are a pickle is saved as safetensors."""
    return (
        'convert it once with `python -c "from transformers import AutoModel, AutoTokenizer; '
        f"[one.from_pretrained('{source}').save_pretrained('FOLDER') for one in (AutoModel, AutoTokenizer)]\"` and "
        "give that FOLDER"
    )


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX, OPEN_CLIP_WEIGHTS))


def _read(folder: Path, device: torch.device, dtype: torch.dtype) -> TransformerEncoder:
    encoder = find_family(folder).read(folder, device, dtype)
    features = encoder.encode_text(_PROBES)
    if not features.isfinite().all():
        raise ValueError(f"its features of texts are no finite numbers in {dtype}")
    if torch.equal(features[0], features[1]):
        raise ValueError("it reads different texts as the same")
    return encoder


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
    expected: str = "a model folder, a Hugging Face id or 'tiny'",
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
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # every error of the Hub's client is one of these
        raise WeightsError(
            f"The weights of '{source}' are not in the cache and cannot be fetched now ({first_line(error)}). "
            f"Fetch them where there is a network with `hf download {source}`, {way_out}."
        ) from error


def _fetch(model_id: str, cache_dir: str | Path | None) -> Path:
    """Fetch a model's files, or find them in the cache.

    Where there are none of transformers' format, OpenCLIP's are next; those of a repository with both are not fetched.
    Old repositories keep their safetensors on a branch of the Hub's own conversion bot; only that author is trusted.

    Raises:
        InputError: the repository holds its weights as pickles alone.
    """
    patterns = list(_WANTED)
    folder = Path(snapshot_download(model_id, allow_patterns=patterns, cache_dir=cache_dir))
    if _has_weights(folder):
        return folder
    folder = Path(snapshot_download(model_id, allow_patterns=[*patterns, OPEN_CLIP_WEIGHTS], cache_dir=cache_dir))
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
    raise InputError(
        f"The repository '{model_id}' has no safetensors, and pickles are never loaded; {_convert_command(model_id)}."
    )


def first_line(error: BaseException) -> str:
    """Shorten an error to one line without its full stop, to be quoted in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
