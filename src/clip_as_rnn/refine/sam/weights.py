"""Finds and loads a SAM: a Hugging Face id or a local folder. Safetensors only, nothing of the folder is executed."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import logging as transformers_logging

from clip_as_rnn.encoders.checkpoint import check_shape, read_preprocessor, refuse_names, weight_files
from clip_as_rnn.encoders.fingerprint import fingerprint
from clip_as_rnn.encoders.hub import find_folder, first_line
from clip_as_rnn.errors import InputError, WeightsError
from clip_as_rnn.refine.sam.checkpoint import SamDescription, read_description
from clip_as_rnn.refine.sam.frame import Preprocessing
from clip_as_rnn.refine.sam.model import Sam, explain_lack_of_memory

_CONFIG = "config.json"
_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt")
_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, which all families were trained with
_STD = (0.229, 0.224, 0.225)
_DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError),
    *(SafetensorError, StrictDataclassError),
)


def load_sam(
    source: str | Path, *, device: torch.device, dtype: torch.dtype, cache_dir: str | Path | None = None
) -> Sam:
    """Load a SAM, an HQ-SAM or a SAM 2 / 2.1 in the format of transformers.

    Raises:
        InputError: a folder that holds no SAM, one of an unknown family, or pickles only; or too little memory.
        WeightsError: an id whose files are neither in the cache nor to be had now, or files that are damaged.
        DependencyError: a transformers without this family.
    """
    expected, way_out = "a SAM's folder or a Hugging Face id", "or give a local folder with --sam"
    folder = find_folder(source, cache_dir=cache_dir, expected=expected, way_out=way_out)
    try:
        files = _find_weights(folder)
        description = read_description(folder)
        preprocessing = _read_preprocessing(folder, description)
        with explain_lack_of_memory(f"the SAM in '{folder}' on {device}; take a smaller one, or another device"):
            state = _read_weights(files)
            model = _load_model(description.model_class, description.config, state)
            model.vision_encoder.to(dtype)
            model.mask_decoder.to(dtype)
            memory = None
            if description.video_class is not None:
                memory = _load_model(description.video_class, description.video_config, state)
                memory.vision_encoder = torch.nn.Identity()  # it is given what the other model sees
                memory.to(device, dtype)
            return Sam(model.to(device), description.family, preprocessing, fingerprint(folder), memory)
    except InputError:
        raise
    except _DAMAGE as error:
        raise WeightsError(f"The SAM in '{folder}' cannot be read: {first_line(error)}.") from error


def _find_weights(folder: Path) -> list[Path]:
    """List the files of a SAM's weights; InputError where there is no config.json, or no safetensors."""
    if not (folder / _CONFIG).is_file():
        raise InputError(f"The folder '{folder}' is no SAM: it holds no config.json.")
    if files := weight_files(folder):
        return files
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"The SAM in '{folder}' is a pickle ({pickles[0]}), which could run any program and is not opened; "
            "take a repository with model.safetensors."
        )
    raise InputError(f"The folder '{folder}' is no SAM: it holds no model.safetensors.")


def _read_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """Read the weights in `files`; ValueError where some are no numbers."""
    state = {name: weight for file in files for name, weight in load_file(file).items()}
    for name, weight in state.items():
        if not weight.isfinite().all():
            raise ValueError(f"the weight {name} holds values that are no finite numbers")
    return state


def _load_model(model_class: Any, config: Any, state: dict[str, Tensor]) -> Any:
    """Make a model with its share of the weights, in float32 on the CPU.

    Raises:
        ValueError: some are missing or of other sizes, or have no place in the part of the model that they belong to;
            parts that the model's class leaves to another one do not count, as those of SAM 2 that are for clips.
    """
    with torch.device("meta"), _quiet_transformers():  # shapes without memory
        expected = model_class(config).state_dict()
    for name in sorted(expected.keys() & state.keys()):
        check_shape(name, tuple(state[name].shape), tuple(expected[name].shape), _CONFIG)
    with _quiet_transformers(), torch.inference_mode(False):
        model, report = model_class.from_pretrained(
            None, config=config, state_dict=dict(state), dtype=torch.float32, output_loading_info=True
        )
    lacking = report["missing_keys"]  # transformers would fill them with random numbers
    unknown = [name for name in state if name not in expected and _belongs_to(model, name)]
    refuse_names(lacking=lacking, unknown=unknown, config_file=_CONFIG)
    return model


def _belongs_to(model: Any, name: str) -> bool:
    """Tell whether a weight is of a part of the model and not of one that its class leaves to others."""
    ignored = type(model)._keys_to_ignore_on_load_unexpected or ()  # the model itself has its parts' rules as well
    return hasattr(model, name.partition(".")[0]) and not any(re.search(pattern, name) for pattern in ignored)


def _read_preprocessing(folder: Path, description: SamDescription) -> Preprocessing:
    """Take the sizes from the config, mean and deviation from preprocessor_config.json where it says other ones."""
    prompts = description.config.prompt_encoder_config
    side_px, patch_px = int(prompts.image_size), int(prompts.patch_size)
    colors = read_preprocessor(folder, side_px, mean=_MEAN, std=_STD)
    return Preprocessing(
        side_px, 4 * (side_px // patch_px), description.family != "sam2", colors.image_mean, colors.image_std
    )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
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
