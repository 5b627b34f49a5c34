"""Reads a SAM's config as plain data: what the computation depends on and nothing else, so that nothing is executed.

Attention kernels, quantizers, adapters and code of a repository's own, which a config can name, are never looked up.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any

import transformers

from clip_as_rnn.encoders.json_files import read_json
from clip_as_rnn.errors import DependencyError, InputError
from clip_as_rnn.refine.sam.model import Family

_FAMILIES: dict[str, tuple[Family, str]] = {  # model_type of config.json: the family, its classes in transformers
    "sam": ("sam", "Sam"),
    "sam_hq": ("sam_hq", "SamHQ"),
    "sam2": ("sam2", "Sam2"),
    "sam2_video": ("sam2", "Sam2"),  # published checkpoints hold the video model, the image model is a part of it
}
_RELATIVES = ("sam", "edgetam")  # how the types of all others begin that descend from SAM
_SECTIONS = {"vision_config": "Vision", "prompt_encoder_config": "PromptEncoder", "mask_decoder_config": "MaskDecoder"}
_MAX_SIZE = 2**16
_MAX_LAYERS = 256
_LAYERS = (
    *("num_hidden_layers", "iou_head_depth", "blocks_per_stage"),
    *("memory_attention_num_layers", "memory_fuser_num_layers"),
)
_COLORS = 3
_VIDEO_SECTIONS = {
    "vision_config": "Sam2VisionConfig",
    "prompt_encoder_config": "Sam2VideoPromptEncoderConfig",
    "mask_decoder_config": "Sam2VideoMaskDecoderConfig",
}
_MEMORY_WIDTHS = (
    *("memory_attention_hidden_size", "memory_encoder_hidden_size"),
    *("mask_downsampler_embed_dim", "memory_fuser_embed_dim"),
)
_MEMORY_CHANNELS = 64  # transformers reads no other memories
_MAX_ROPE_THETA = 10**9  # 10,000 in published checkpoints


@dataclass(frozen=True, slots=True)
class SamDescription:
    """What a folder's config describes: a family, and the model and its config as transformers know them.

    `video_class` and `video_config` are those of the whole where the model is one for clips, of which it follows masks
    from frame to frame; else None.
    """

    family: Family
    model_class: Any
    config: Any
    video_class: Any = None
    video_config: Any = None


def read_description(folder: Path) -> SamDescription:
    """Read config.json.

    Raises:
        InputError: it describes no SAM, or one of an unknown family.
        DependencyError: a family that this transformers lacks.
        ValueError: it is damaged, or describes a SAM that cannot be.
        OSError: it cannot be read.
    """
    content = read_json(folder / "config.json")
    family, prefix = _find_family(folder, content.get("model_type"))
    is_video = content["model_type"] == "sam2_video"
    if not all(hasattr(transformers, f"{name}Model") for name in (prefix, *(["Sam2Video"] if is_video else []))):
        raise DependencyError(
            f"The SAM in '{folder}' needs {prefix}Model, which transformers {transformers.__version__} lacks; "
            "install a newer one with `pip install --upgrade 'clip-as-rnn[sam]'`."
        )
    sections = {name: _read_section(content, name, f"{prefix}{part}Config") for name, part in _SECTIONS.items()}
    config = getattr(transformers, f"{prefix}Config")(**sections)
    described = SamDescription(family, getattr(transformers, f"{prefix}Model"), config)
    if not is_video:
        return described
    return replace(described, video_class=transformers.Sam2VideoModel, video_config=_read_video_config(content))


def _find_family(folder: Path, kind: object) -> tuple[Family, str]:
    if isinstance(kind, str) and kind in _FAMILIES:
        return _FAMILIES[kind]
    known = f"known are the types {', '.join(_FAMILIES)}"
    if isinstance(kind, str) and kind.startswith(_RELATIVES):
        raise InputError(f"The SAM in '{folder}' is of the family {kind!r}, which is not supported; {known}.")
    raise InputError(f"The folder '{folder}' is no SAM: its config.json says model_type {kind!r}; {known}.")


def _read_section(content: Mapping[str, Any], name: str, class_name: str) -> Any:
    """Make one part's config of the fields that its own class declares."""
    section = content.get(name, {})
    if not isinstance(section, dict):
        raise ValueError(f"config.json holds no JSON object as {name}")
    kind = getattr(transformers, class_name)
    fields = {field: section[field] for field in inspect.get_annotations(kind) if field in section}
    if "backbone_config" in fields:  # of SAM 2, which knows one kind
        fields["backbone_config"] = _read_section(section, "backbone_config", "Sam2HieraDetConfig")
    for field, value in fields.items():
        _check_size(field, value)
    return kind(**fields)


def _read_video_config(content: Mapping[str, Any]) -> Any:
    """Make the config of a whole video model, whose memory must fit its other parts."""
    kind = transformers.Sam2VideoConfig
    sections = {name: _read_section(content, name, class_name) for name, class_name in _VIDEO_SECTIONS.items()}
    others = set(inspect.get_annotations(kind)) - {*sections, "rope_parameters", "max_cond_frame_num"}  # one prompt
    fields = {field: content[field] for field in others if field in content}
    for field, value in fields.items():
        _check_size(field, value)
    if "image_size" in fields:
        fields["image_size"] = _side_of(fields["image_size"])
    config = kind(**sections, **fields)
    rope = content.get("rope_parameters") or {"rope_theta": content.get("memory_attention_rope_theta", 10_000)}
    if not isinstance(rope, dict) or rope.get("rope_type", "axial") != "axial":
        raise ValueError("config.json has rope_parameters that no SAM 2 has")
    config.rope_parameters["rope_theta"] = _check_theta(float(rope["rope_theta"]))
    _check_memory(config)
    return config


def _side_of(size: Any) -> Any:
    """Take the side of a square that is written as a pair, which transformers allows and then cannot compute with."""
    match size:
        case [height, width] if height == width:
            return height
    return size


def _check_theta(theta: float) -> float:
    if not 1 <= theta <= _MAX_ROPE_THETA:  # nor what is no number
        raise ValueError(
            f"config.json has the rope_theta {theta!r}, but no SAM 2 has one below 1 or above {_MAX_ROPE_THETA:,}"
        )
    return theta


def _check_memory(config: Any) -> None:
    """Refuse a memory that does not fit what it is to remember, which would show in the middle of a clip."""
    vision, prompts = config.vision_config, config.prompt_encoder_config
    side_px, width = prompts.image_size, vision.fpn_hidden_size
    wanted = dict.fromkeys(_MEMORY_WIDTHS, width) | {
        "image_size": side_px,
        "memory_attention_rope_feat_sizes": vision.backbone_feature_sizes[-1],
        "memory_attention_num_layers": max(1, config.memory_attention_num_layers),
        "memory_attention_num_attention_heads": gcd(config.memory_attention_num_attention_heads, width),
        "memory_encoder_output_channels": _MEMORY_CHANNELS,
        "mask_downsampler_padding": config.mask_downsampler_kernel_size // 2,
        "memory_fuser_padding": config.memory_fuser_kernel_size // 2,
    }
    for name, right in wanted.items():
        if (value := getattr(config, name)) != right:
            raise ValueError(f"config.json has the {name} {value!r}, but the other parts of this SAM want {right!r}")
    if config.max_object_pointers_in_encoder == 1:  # their times are counted in shares of one less
        raise ValueError("config.json has the max_object_pointers_in_encoder 1, but it must be 0, or 2 and more")


def _check_size(field: str, value: object) -> None:
    """Refuse numbers that no SAM has, before anything of that size is made."""
    highest = _MAX_LAYERS if field in _LAYERS else _MAX_SIZE
    if isinstance(value, list):
        for item in value:
            _check_size(field, item)
    elif isinstance(value, int) and not 0 <= value <= highest:
        raise ValueError(f"config.json has the {field} {value!r}, but no SAM has one below 0 or above {highest:,}")
    elif isinstance(value, float) and not abs(value) <= _MAX_SIZE:  # nor what is no number
        raise ValueError(f"config.json has the {field} {value!r}, but no SAM has one beyond {_MAX_SIZE:,}")
    elif field == "num_channels" and value != _COLORS:
        raise ValueError(f"config.json has the {field} {value!r}, but images have {_COLORS}")
