"""Finds and loads a CLIP: a Hugging Face id, a local folder, or the bundled one. Safetensors only, nothing is executed.

`HF_HUB_OFFLINE`, `HF_HOME` and the usual variables of Hugging Face are honoured.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, CLIPModel, CLIPTokenizer
from transformers import logging as transformers_logging

from clip_as_rnn.config import BUNDLED
from clip_as_rnn.encoders.clip import Clip
from clip_as_rnn.encoders.preprocess import PreprocessorConfig
from clip_as_rnn.errors import InputError, WeightsError

BUNDLED_FOLDER = Path(__file__).parents[1] / "assets" / "tiny"

_CONVERSION_BOT = "SFconvertbot"
_WANTED = ("*.safetensors", "*.json", "*.txt")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SAMPLE_BYTES = 4096
_SAMPLES = 256
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_log = logging.getLogger(__name__)


def load_clip(
    source: str | Path, *, device: torch.device, dtype: torch.dtype, cache_dir: str | Path | None = None
) -> Clip:
    """Load a CLIP in Hugging Face's CLIPModel format.

    Raises:
        InputError: a local folder that holds no such model.
        WeightsError: an id whose files are neither in the cache nor to be had now, or files that are damaged.
    """
    folder = find_folder(source, cache_dir=cache_dir)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        missing = "config.json" if weights else "*.safetensors file"
        raise InputError(
            f"The model folder '{folder}' holds no {missing}; a CLIPModel folder of Hugging Face has both."
        )
    try:
        read_json(folder / "config.json")
        with quiet_transformers(), torch.inference_mode(False):  # else nothing could be pulled back through it
            model, report = CLIPModel.from_pretrained(
                folder, use_safetensors=True, dtype=dtype, local_files_only=True, output_loading_info=True
            )
            tokenizer = _load_tokenizer(folder)
        preparation = _read_preparation(folder, int(model.config.vision_config.image_size))
        scale = _read_logit_scale(weights)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"The model in '{folder}' cannot be read: {first_line(error)}.") from error
    if lacking := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise WeightsError(f"The model in '{folder}' lacks the weights {lacking[0]}{others}.")
    with torch.inference_mode(False):
        return Clip(model.to(device), tokenizer, preparation, fingerprint(folder), scale)


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
    if any(folder.glob("*.safetensors")):
        return folder
    for other in sorted(folder.parent.iterdir()):  # snapshots of other branches fetched before
        if any(other.glob("*.safetensors")):
            return other
    for discussion in HfApi().get_repo_discussions(model_id, author=_CONVERSION_BOT, discussion_type="pull_request"):
        branch = snapshot_download(
            model_id, revision=discussion.git_reference, allow_patterns=patterns, cache_dir=cache_dir
        )
        if any(Path(branch).glob("*.safetensors")):
            return Path(branch)
    raise OSError("the repository has no safetensors")


def fingerprint(folder: Path) -> str:
    """Identify a model's weights by sizes, headers and samples of its safetensors files; 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name in ("config.json", "vocab.json", "merges.txt"):
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for start in range(0, size, max(size // _SAMPLES, _SAMPLE_BYTES)):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _load_tokenizer(folder: Path) -> CLIPTokenizer:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.padding_side = "right"  # CLIP's text tower reads causally: padding must come last
    return tokenizer


def _read_preparation(folder: Path, side_px: int) -> PreprocessorConfig:
    """Read mean and deviation from preprocessor_config.json; CLIP's own where the file or a field is missing."""
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.is_file() else {}
    red, green, blue = (float(value) for value in settings.get("image_mean", _CLIP_MEAN))
    red_std, green_std, blue_std = (float(value) for value in settings.get("image_std", _CLIP_STD))
    return PreprocessorConfig(side_px, (red, green, blue), (red_std, green_std, blue_std))


def _read_logit_scale(files: Sequence[Path]) -> float | None:
    """Read s as it is stored: in half precision it would be rounded by a hundredth."""
    for path in files:
        with safe_open(path, framework="pt") as stored:
            if "logit_scale" in stored.keys():  # noqa: SIM118 - not a mapping
                return float(stored.get_tensor("logit_scale").float().exp())
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        ValueError: it holds something else, or nothing.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the loader's bars and remarks off the terminal while it works."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Shorten an error to one line without its full stop, to be quoted in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
