"""Reads the config and the weights of a CLIPModel folder as plain data: JSON and safetensors, nothing is executed.

The headers of the weights are compared with the config before anything is allocated, and every weight must be a finite
number: what is loaded is the model that the files describe, or nothing.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from clip_as_rnn.encoders.preprocess import PreprocessorConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
_MAX_JSON_BYTES = 64 * 2**20
_MAX_SIZE = 2**20  # of anything that a config counts
_TOWERS = ("text", "vision")
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_TOWER_SIZES = {
    "text": (*_SIZES, "vocab_size", "max_position_embeddings"),
    "vision": (*_SIZES, "image_size", "patch_size", "num_channels"),
}
_TOWER_FIELDS = ("hidden_act", "layer_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id")
_FLOATS = ("F64", "F32", "F16", "BF16")
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """Where a weight lies, and what the header of its file says of it."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        ValueError: it holds something else, or nothing, or too much.
        OSError: it cannot be read.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path.name} has more than {_MAX_JSON_BYTES >> 20} MiB")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON file ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def weight_files(folder: Path) -> list[Path]:
    """List the files of a folder's weights: model.safetensors, or the parts that its index names; none if neither.

    Raises:
        ValueError: the index names something else than safetensors files of this folder.
        OSError: the index cannot be read.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{INDEX} holds no weight_map")
    for name in sorted(map(str, names.values())):
        if not _SHARD.fullmatch(name) or not (folder / name).is_file():
            raise ValueError(f"{INDEX} names {name!r}, which is no safetensors file of this folder")
    return sorted({folder / str(name) for name in names.values()})


def read_config(folder: Path) -> CLIPConfig:
    """Read what config.json says of the two towers; everything else in it is left alone.

    Raises:
        ValueError: it describes no CLIPModel, or one that cannot be.
        OSError: it cannot be read.
    """
    content = read_json(folder / "config.json")
    kind = content.get("model_type")
    if kind != "clip":
        raise ValueError(f"config.json has the model_type {kind!r}, but only 'clip' (CLIPModel) is supported")
    for name, what in (
        ("auto_map", "code of its own, which is never run"),
        ("quantization_config", "quantized weights"),
    ):
        if content.get(name):
            raise ValueError(f"config.json asks for {what} ({name}); only a plain CLIPModel is supported")
    towers = {name: _read_tower(content, name) for name in _tower_sections(content)}
    shared = {name: content[name] for name in ("projection_dim",) if name in content}
    try:
        config = CLIPConfig(**towers, **shared)
    except StrictDataclassError as error:
        raise ValueError(f"config.json describes no CLIPModel ({' '.join(str(error).split())})") from error
    vision = config.vision_config
    if vision.patch_size > vision.image_size or vision.num_channels != 3:  # noqa: PLR2004
        raise ValueError(
            f"config.json describes patches of {vision.patch_size} pixels in images of {vision.image_size} pixels and "
            f"{vision.num_channels} channels, which is no CLIP"
        )
    return config


def read_preprocessor(
    folder: Path,
    image_size: int,
    *,
    mean: tuple[float, float, float] = _CLIP_MEAN,
    std: tuple[float, float, float] = _CLIP_STD,
) -> PreprocessorConfig:
    """Read mean and standard deviation from preprocessor_config.json; those given where file or field is missing.

    Raises:
        ValueError: they are not three finite numbers each, the deviations above 0.
        OSError: the file cannot be read.
    """
    path = folder / "preprocessor_config.json"
    content = read_json(path) if path.is_file() else {}
    mean = _three_numbers(content, "image_mean", mean)
    std = _three_numbers(content, "image_std", std)
    if min(std) <= 0:
        raise ValueError(f"{path.name} has the image_std {list(std)}, but each must be above 0")
    return PreprocessorConfig(image_size, mean, std)


def load_model(config: CLIPConfig, files: Sequence[Path], device: torch.device, dtype: torch.dtype) -> CLIPModel:
    """Make the CLIPModel of a config with the weights in `files`, on a device in one precision.

    Raises:
        ValueError: the weights are not those that the config describes, or not finite numbers.
        OSError, SafetensorError: they cannot be read.
    """
    stored = _read_headers(files)
    _check_layers(config, stored)
    with torch.device("meta"):  # shapes without memory
        model = CLIPModel(config)
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    _check_shapes(expected, stored)
    state = dict(_read_tensors({name: stored[name] for name in expected}, device, dtype))
    model.load_state_dict(state, assign=True)
    for tower in (model.text_model, model.vision_model):  # not among the weights
        positions = tower.embeddings.position_embedding.num_embeddings
        tower.embeddings.position_ids = torch.arange(positions, device=device)[None]
    return model


def read_logit_scale(files: Sequence[Path]) -> float:
    """Read s as it is stored: in half precision it would be rounded by a hundredth.

    Raises:
        ValueError: it is no finite number.
    """
    place = _read_headers(files)["logit_scale"].path
    with safe_open(place, framework="pt") as stored:
        scale = float(stored.get_tensor("logit_scale").to(torch.float32).exp())
    if not 0 < scale < math.inf:
        raise ValueError(f"the weight logit_scale stands for a scale of {scale}, which is no use")
    return scale


def _tower_sections(content: Mapping[str, Any]) -> list[str]:
    """Name the sections of a config that describe towers; files of the first conversions have two for each."""
    names = [f"{tower}_config{suffix}" for tower in _TOWERS for suffix in ("", "_dict")]
    return [name for name in names if content.get(name) is not None]


def _read_tower(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Take of a tower's section what the computation depends on."""
    section, sizes = content[name], _TOWER_SIZES[name.split("_")[0]]
    if not isinstance(section, dict):
        raise ValueError(f"config.json holds no JSON object as {name}")
    for field in sizes:
        value = section.get(field, 1)
        if type(value) is not int or not 0 < value <= _MAX_SIZE:
            raise ValueError(f"config.json has the {field} {value!r} in {name}, but it must be a whole number above 0")
    width, heads = section.get("hidden_size", 1), section.get("num_attention_heads", 1)
    if width % heads:
        raise ValueError(f"config.json gives {name} {heads} heads, which do not divide its width of {width}")
    return {field: section[field] for field in (*sizes, "projection_dim", *_TOWER_FIELDS) if field in section}


def _three_numbers(
    content: Mapping[str, Any], name: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    values = content.get(name, default)
    try:
        first, second, third = map(float, values)
    except (TypeError, ValueError):
        first = second = third = math.nan
    if not all(map(math.isfinite, (first, second, third))):
        raise ValueError(f"preprocessor_config.json has the {name} {values!r}, but it must be three finite numbers")
    return first, second, third


def _read_headers(files: Sequence[Path]) -> dict[str, _StoredTensor]:
    """Read which weights the files hold, without the weights."""
    found: dict[str, _StoredTensor] = {}
    for path in files:
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - not a mapping
                if name in found:
                    raise ValueError(f"{found[name].path.name} and {path.name} both hold the weight {name}")
                header = stored.get_slice(name)
                found[name] = _StoredTensor(path, tuple(header.get_shape()), str(header.get_dtype()))
    return found


def _check_layers(config: CLIPConfig, stored: Mapping[str, _StoredTensor]) -> None:
    """Compare the number of layers first: a model of as many as a config asks for is large even without weights."""
    for name, tower in (("text", config.text_config), ("vision", config.vision_config)):
        pattern = re.compile(rf"{name}_model\.encoder\.layers\.(\d+)\.")
        layers = {found.group(1) for found in map(pattern.match, stored) if found}
        if len(layers) != tower.num_hidden_layers:
            raise ValueError(
                f"config.json gives the {name} tower {tower.num_hidden_layers:,} layers, "
                f"but the weights hold {len(layers):,}"
            )


def _check_shapes(expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, _StoredTensor]) -> None:
    """Refuse weights that are missing, superfluous, of other sizes or no floating-point numbers."""
    if lacking := sorted(set(expected) - set(stored)):
        raise ValueError(f"it lacks the weight {lacking[0]}{_and_more(lacking)}")
    prefixes = ("text_model.", "vision_model.", "text_projection.", "visual_projection.")
    unknown = sorted(
        name for name in set(stored) - set(expected) if name.startswith(prefixes) and not name.endswith("position_ids")
    )
    if unknown:
        raise ValueError(f"it holds the weight {unknown[0]}{_and_more(unknown)}, which the model of config.json lacks")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise ValueError(
                f"the weight {name} has the size {_by(stored[name].shape)}, but config.json asks for {_by(shape)}"
            )
        if stored[name].dtype not in _FLOATS:
            raise ValueError(f"the weight {name} is stored as {stored[name].dtype}, but {', '.join(_FLOATS)} are read")


def _read_tensors(
    wanted: Mapping[str, _StoredTensor], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Read the weights; where neither device nor precision change, they stay mapped and processes share the memory."""
    with ExitStack() as stack:
        paths = {tensor.path for tensor in wanted.values()}
        opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in paths}
        for name, tensor in wanted.items():
            weight = opened[tensor.path].get_tensor(name).to(device, dtype)
            if not all(torch.isfinite(extreme) for extreme in torch.aminmax(weight)):
                raise ValueError(f"the weight {name} holds values that are no finite numbers in {dtype}")
            yield name, weight


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1 (a single number)"


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
