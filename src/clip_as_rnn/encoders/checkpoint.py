"""Reads the weights of a model folder as plain data: safetensors and JSON, nothing is executed.

The headers of the weights are compared with the config before anything is allocated, and every weight must be a finite
number: what is loaded is the model that the files describe, or nothing.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from clip_as_rnn.encoders.json_files import read_json
from clip_as_rnn.encoders.model_config import ModelFormat, StoredPart
from clip_as_rnn.encoders.preprocess import PreprocessorConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"

_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """Where a weight lies, and what the header of its file says of it."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> list[Path]:
    """List the files of a folder's weights: model.safetensors, the parts that its index names, or OpenCLIP's, if any.

    Raises:
        ValueError: the index names something else than safetensors files of this folder.
        OSError: the index cannot be read.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return [path] if (path := folder / OPEN_CLIP_WEIGHTS).is_file() else []
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{INDEX} holds no weight_map")
    for name in sorted(map(str, names.values())):
        if not _SHARD.fullmatch(name) or not (folder / name).is_file():
            raise ValueError(
                f"{INDEX} names {name!r}, which is no safetensors file of this folder; if it was fetched in part, "
                "fetch all of it with `hf download MODEL_ID --local-dir FOLDER`"
            )
    return sorted({folder / str(name) for name in names.values()})


def read_preprocessor(
    folder: Path,
    image_size: int,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> PreprocessorConfig:
    """Read mean and standard deviation from preprocessor_config.json; those given where file or field is missing.

    Raises:
        ValueError: they are not three finite numbers each, the deviations above 0.
        OSError: the file cannot be read.
    """
    path = folder / "preprocessor_config.json"
    content = read_json(path) if path.is_file() else {}
    mean = three_numbers(content, "image_mean", mean, path.name)
    std = three_numbers(content, "image_std", std, path.name)
    if min(std) <= 0:
        raise ValueError(f"{path.name} has the image_std {list(std)}, but each must be above 0")
    return PreprocessorConfig(image_size, mean, std)


def load_model(form: ModelFormat, config: Any, files: Sequence[Path], device: torch.device, dtype: torch.dtype) -> Any:
    """Make the model of a config with the weights in `files`, on a device in one precision.

    Raises:
        ValueError: the weights are not those that the config describes, or not finite numbers.
        OSError, SafetensorError: they cannot be read.
    """
    stored = _read_headers(files)
    _check_layers(form, config, stored)
    with torch.device("meta"):  # shapes without memory
        model = form.model_class(config)
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    wanted = {name: form.find(name) for name in expected if name not in form.optional or form.find(name).name in stored}
    _check_names(form, wanted, stored)
    _check_shapes(form, expected, wanted, stored)
    state = dict(_read_tensors(wanted, stored, device, dtype))
    model.load_state_dict(state, assign=True, strict=not form.optional)
    _fill_positions(model, device)
    return model


def _fill_positions(model: nn.Module, device: torch.device) -> None:
    """Number the positions, which are not among the weights."""
    for module in model.modules():
        positions = getattr(module, "position_ids", None)
        if isinstance(positions, Tensor):
            module.position_ids = torch.arange(positions.shape[-1], device=device)[None]


def weight_names(files: Sequence[Path]) -> frozenset[str]:
    """List the names of all weights that the files hold."""
    return frozenset(_read_headers(files))


def read_logit_scale(files: Sequence[Path]) -> float:
    """Read s as it is stored: in half precision it would be rounded by a hundredth.

    Raises:
        ValueError: it is no finite number.
    """
    return check_scale(float(torch.tensor(read_number(files, "logit_scale")).exp()), "logit_scale")


def read_number(files: Sequence[Path], name: str) -> float:
    """Read a weight that is a single number, in float32."""
    with safe_open(_read_headers(files)[name].path, framework="pt") as stored:
        return float(stored.get_tensor(name).to(torch.float32))


def check_scale(scale: float, name: str) -> float:
    """Return a scale if it is one; `name` is the weight that stands for it.

    Raises:
        ValueError: it is no finite number above 0.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"the weight {name} stands for a scale of {scale}, which is no use")
    return scale


def refuse_names(*, lacking: Iterable[str], unknown: Iterable[str], config_file: str) -> None:
    """Refuse weights that are missing or superfluous, if there are any.

    Raises:
        ValueError: there are; it names the first one and counts the others.
    """
    if missing := sorted(lacking):
        raise ValueError(f"it lacks the weight {missing[0]}{_and_more(missing)}")
    if superfluous := sorted(unknown):
        raise ValueError(
            f"it holds the weight {superfluous[0]}{_and_more(superfluous)}, which the model of {config_file} lacks"
        )


def check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...], config_file: str) -> None:
    """Compare the size of a weight with that in the model that `config_file` describes.

    Raises:
        ValueError: it is another one.
    """
    if found != wanted:
        raise ValueError(f"the weight {name} has the size {_by(found)}, but {config_file} asks for {_by(wanted)}")


def three_numbers(
    content: Mapping[str, Any], name: str, default: tuple[float, float, float], place: str
) -> tuple[float, float, float]:
    """Read a field of three numbers, one a color.

    Raises:
        ValueError: it is something else; `place` is the file that the message names.
    """
    values = content.get(name, default)
    try:
        first, second, third = map(float, values)
    except (TypeError, ValueError):
        first = second = third = math.nan
    if not all(map(math.isfinite, (first, second, third))):
        raise ValueError(f"{place} has the {name} {values!r}, but it must be three finite numbers")
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


def _check_layers(form: ModelFormat, config: Any, stored: Mapping[str, _StoredTensor]) -> None:
    """Compare the number of layers first: a model of as many as a config asks for is large even without weights."""
    for name, tower in (("text", config.text_config), ("vision", config.vision_config)):
        pattern = re.compile(form.layers[name])
        layers = {found.group(1) for found in map(pattern.match, stored) if found}
        if len(layers) != tower.num_hidden_layers:
            raise ValueError(
                f"{form.config_file} gives the {name} tower {tower.num_hidden_layers:,} layers, "
                f"but the weights hold {len(layers):,}"
            )


def _check_names(form: ModelFormat, wanted: Mapping[str, StoredPart], stored: Mapping[str, _StoredTensor]) -> None:
    """Refuse weights that are missing or superfluous."""
    names = {part.name for part in wanted.values()}
    unknown = {
        name
        for name in set(stored) - names - set(form.optional)
        if name.startswith(form.prefixes) and not name.endswith("position_ids")
    }
    refuse_names(lacking=names - set(stored), unknown=unknown, config_file=form.config_file)


def _check_shapes(
    form: ModelFormat,
    expected: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, StoredPart],
    stored: Mapping[str, _StoredTensor],
) -> None:
    """Refuse weights of other sizes or that are no floating-point numbers."""
    for name, part in wanted.items():
        shape = expected[name][::-1] if part.transposed else expected[name]
        if part.piece is not None:
            shape = (part.pieces * shape[0], *shape[1:])
        found = stored[part.name]
        check_shape(part.name, found.shape, shape, form.config_file)
        if found.dtype not in _FLOATS:
            raise ValueError(f"the weight {part.name} is stored as {found.dtype}, but {', '.join(_FLOATS)} are read")


def _read_tensors(
    wanted: Mapping[str, StoredPart], stored: Mapping[str, _StoredTensor], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Read the weights; where neither device nor precision change, they stay mapped and processes share the memory."""
    with ExitStack() as stack:
        paths = {stored[part.name].path for part in wanted.values()}
        opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in paths}
        for name, part in wanted.items():
            weight = opened[stored[part.name].path].get_tensor(part.name).to(device, dtype)
            if not all(torch.isfinite(extreme) for extreme in torch.aminmax(weight)):
                raise ValueError(f"the weight {part.name} holds values that are no finite numbers in {dtype}")
            if part.piece is not None:
                weight = weight.chunk(part.pieces)[part.piece]
            yield name, weight.T.contiguous() if part.transposed else weight


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1 (a single number)"


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
