"""Finds and loads a SAM: a Hugging Face id or a local folder. Safetensors only, nothing of the folder is executed."""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from clip_as_rnn.encoders.checkpoint import read_json, weight_files
from clip_as_rnn.encoders.hub import find_folder, fingerprint, first_line, quiet_transformers
from clip_as_rnn.errors import DependencyError, InputError, WeightsError
from clip_as_rnn.refine.sam.frame import Preprocessing
from clip_as_rnn.refine.sam.model import Family, Sam

_FAMILIES: dict[str, tuple[Family, str]] = {  # model_type of config.json: the family, its class in transformers
    "sam": ("sam", "SamModel"),
    "sam_hq": ("sam_hq", "SamHQModel"),
    "sam2": ("sam2", "Sam2Model"),
    "sam2_video": ("sam2", "Sam2Model"),  # published checkpoints hold the video model, the image model is a part of it
}
_RELATIVES = ("sam", "edgetam")  # how the types of all others begin that descend from SAM
_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt")
_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, which all families were trained with
_STD = (0.229, 0.224, 0.225)


def load_sam(
    source: str | Path, *, device: torch.device, dtype: torch.dtype, cache_dir: str | Path | None = None
) -> Sam:
    """Load a SAM, an HQ-SAM or a SAM 2 / 2.1 in the format of transformers.

    Raises:
        InputError: a folder that holds no SAM, one of an unknown family, or pickles only.
        WeightsError: an id whose files are neither in the cache nor to be had now, or files that are damaged.
        DependencyError: a transformers without this family.
    """
    folder = find_folder(
        source,
        cache_dir=cache_dir,
        expected="a SAM's folder or a Hugging Face id",
        way_out="give a local folder with --sam",
    )
    _check_files(folder)
    config = _read(folder)
    family, class_name = _find_family(folder, config)
    if not hasattr(transformers, class_name):
        raise DependencyError(
            f"The SAM in '{folder}' needs {class_name}, which transformers {transformers.__version__} lacks; "
            "install a newer one with `pip install --upgrade 'clip-as-rnn[sam]'`."
        )
    model_class = getattr(transformers, class_name)
    try:
        weight_files(folder)  # refuses an index that names anything but safetensors of this folder
        with quiet_transformers(), torch.inference_mode(False):
            model, report = model_class.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
        preprocessing = _read_preprocessing(folder, model, family)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"The SAM in '{folder}' cannot be read: {first_line(error)}.") from error
    if lacking := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise WeightsError(f"The SAM in '{folder}' lacks the weights {lacking[0]}{others}.")
    model.vision_encoder.to(dtype)
    model.mask_decoder.to(dtype)
    return Sam(model.to(device), family, preprocessing, fingerprint(folder))


def _check_files(folder: Path) -> None:
    """Raise InputError unless a folder holds a config.json and safetensors."""
    if not (folder / "config.json").is_file():
        raise InputError(f"The folder '{folder}' is no SAM: it holds no config.json.")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"The SAM in '{folder}' is a pickle ({pickles[0]}), which could run any program and is not opened; "
            "take a repository with model.safetensors."
        )
    raise InputError(f"The folder '{folder}' is no SAM: it holds no *.safetensors file.")


def _read(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise WeightsError(f"The SAM in '{folder}' cannot be read: {first_line(error)}.") from error


def _find_family(folder: Path, config: dict[str, Any]) -> tuple[Family, str]:
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in _FAMILIES:
        return _FAMILIES[kind]
    known = f"known are the types {', '.join(_FAMILIES)}"
    if isinstance(kind, str) and kind.startswith(_RELATIVES):
        raise InputError(f"The SAM in '{folder}' is of the family {kind!r}, which is not supported; {known}.")
    raise InputError(f"The folder '{folder}' is no SAM: its config.json says model_type {kind!r}; {known}.")


def _read_preprocessing(folder: Path, model: Any, family: Family) -> Preprocessing:
    """Take the sizes from the model, mean and deviation from preprocessor_config.json where it says other ones."""
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.is_file() else {}
    red, green, blue = (float(value) for value in settings.get("image_mean", _MEAN))
    red_std, green_std, blue_std = (float(value) for value in settings.get("image_std", _STD))
    prompts = model.config.prompt_encoder_config
    side_px, patch_px = int(prompts.image_size), int(prompts.patch_size)
    return Preprocessing(
        side_px, 4 * (side_px // patch_px), family != "sam2", (red, green, blue), (red_std, green_std, blue_std)
    )
