"""OpenCLIP's own format (open_clip_config.json, open_clip_model.safetensors), read without open_clip.

Its standard models, a vision transformer and a causal text transformer, are CLIP with other names for the weights: the
three projections of attention are one matrix, and projections into the joint space are kept transposed. Everything a
config can ask for beyond that is refused. GELU is exact unless the config says `quick_gelu`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clip_as_rnn.encoders.checkpoint import OPEN_CLIP_CONFIG, load_model, read_logit_scale, three_numbers, weight_files
from clip_as_rnn.encoders.clip import CLIP_FORMAT, MEAN, STD, ClipEncoder
from clip_as_rnn.encoders.fingerprint import fingerprint
from clip_as_rnn.encoders.json_files import read_json
from clip_as_rnn.encoders.model_config import ModelFormat, StoredPart, check_images, check_sizes
from clip_as_rnn.encoders.preprocess import PreprocessorConfig
from clip_as_rnn.encoders.tokenizer import load_tokenizer

_SECTIONS: Mapping[str, Mapping[str, Any]] = {  # what counts, with OpenCLIP's defaults
    "vision_cfg": {"layers": 12, "width": 768, "head_width": 64, "patch_size": 16, "image_size": 224},
    "text_cfg": {"layers": 12, "width": 512, "heads": 8, "vocab_size": 49408, "context_length": 77},
}
_MLP_RATIO = 4.0
_HARMLESS: Mapping[str, tuple[Any, ...]] = {  # values of all other fields that mean the standard model
    "pool_type": ("tok", "argmax"),
    "pos_embed_type": ("learnable",),
    "proj_type": ("linear",),
    "patch_dropout": (0.0,),
    "hf_proj_type": ("mlp",),
    "hf_pooler_type": ("mean_pooler",),
    "hf_model_pretrained": (True,),
    "timm_model_pretrained": (False,),
    "timm_pool": ("avg",),
    "timm_proj": ("linear",),
}
_LAYER_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # in the order of OpenCLIP's one matrix


def read_open_clip(folder: Path, device: torch.device, dtype: torch.dtype) -> ClipEncoder:
    """Read a folder in OpenCLIP's format; see `families.read_encoder` for what is raised."""
    content, files = read_json(folder / OPEN_CLIP_CONFIG), weight_files(folder)
    described = _section(content, "model_cfg")
    form = _make_format(described)
    config = _make_config(form, described)
    tokenizer = load_tokenizer(folder, config.text_config.vocab_size)
    preprocessor = _read_preprocessor(content, config.vision_config.image_size)
    model = load_model(form, config, files, device, dtype)
    return ClipEncoder(model, tokenizer, preprocessor, fingerprint(folder), read_logit_scale(files))


def _make_format(described: Mapping[str, Any]) -> ModelFormat:
    text = "text." if described.get("custom_text") else ""
    layers = {
        "text": rf"{text.replace('.', '[.]')}transformer\.resblocks\.(\d+)\.",
        "vision": r"visual\.transformer\.resblocks\.(\d+)\.",
    }
    return replace(
        CLIP_FORMAT, layers=layers, prefixes=("",), find=partial(find_part, text=text), config_file=OPEN_CLIP_CONFIG
    )


def find_part(name: str, text: str = "") -> StoredPart:
    """Say where OpenCLIP keeps a weight of CLIPModel; its text tower's names begin with `text`."""
    fixed = {
        "text_model.embeddings.token_embedding.weight": f"{text}token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": f"{text}positional_embedding",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "logit_scale": "logit_scale",
    }
    if name in fixed:
        return StoredPart(fixed[name])
    if name in ("text_projection.weight", "visual_projection.weight"):
        return StoredPart("visual.proj" if name.startswith("visual") else f"{text}text_projection", transposed=True)
    tower = "visual." if name.startswith("vision") else text
    part, kind = name.rsplit(".", 1)
    norms = {"final_layer_norm": "ln_final", "pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}
    if (norm := part.split(".")[1]) in norms:
        return StoredPart(f"{tower}{norms[norm]}.{kind}")
    _, _, _, number, within = part.split(".", 4)
    block = f"{tower}transformer.resblocks.{number}"
    if within in _LAYER_PARTS:
        return StoredPart(f"{block}.{_LAYER_PARTS[within]}.{kind}")
    return StoredPart(f"{block}.attn.in_proj_{kind}", piece=_PROJECTIONS.index(within.split(".")[1]))


def _make_config(form: ModelFormat, described: Mapping[str, Any]) -> Any:
    """Say in the words of CLIPModel what an OpenCLIP config describes."""
    vision, text = (_read_section(described, name) for name in _SECTIONS)
    check_sizes(described, ("embed_dim",), (OPEN_CLIP_CONFIG, "model_cfg"))
    act = {"hidden_act": "quick_gelu" if described.get("quick_gelu") else "gelu"}
    towers = {
        "vision_config": {
            **_tower(vision, vision["width"] // vision["head_width"]),
            **{"patch_size": vision["patch_size"], "image_size": vision["image_size"], **act},
        },
        "text_config": {
            **_tower(text, text["heads"]),
            **{"vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"], **act},
            **{"bos_token_id": text["vocab_size"] - 2, "eos_token_id": text["vocab_size"] - 1, "pad_token_id": 0},
        },
    }
    config = form.make_config(**towers, projection_dim=described.get("embed_dim"))
    check_images(config.vision_config, f"{OPEN_CLIP_CONFIG} describes patches of {{}}, which is no CLIP")
    return config


def _tower(section: Mapping[str, Any], heads: int) -> dict[str, Any]:
    width = section["width"]
    if not heads or width % heads:
        raise ValueError(f"{OPEN_CLIP_CONFIG} describes {heads} heads, which do not divide a width of {width}")
    hidden = int(width * section["mlp_ratio"])
    layers = section["layers"]
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _read_section(described: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read one tower's section, and refuse whatever makes it another than the standard model."""
    section, sizes = _section(described, name), _SECTIONS[name]
    for key, value in section.items():
        if key not in (*sizes, "mlp_ratio") and value and value not in _HARMLESS.get(key, ()):
            raise ValueError(
                f"{OPEN_CLIP_CONFIG} asks for {key} = {value!r} in {name}; of OpenCLIP's models only the "
                "standard vision transformers are supported"
            )
    check_sizes(section, tuple(sizes), (OPEN_CLIP_CONFIG, name))
    ratio = section.get("mlp_ratio", _MLP_RATIO)
    if not isinstance(ratio, int | float) or not 0 < ratio < 100:  # noqa: PLR2004
        raise ValueError(f"{OPEN_CLIP_CONFIG} has the mlp_ratio {ratio!r} in {name}, but it must be a number above 0")
    return {**sizes, "mlp_ratio": ratio, **{key: section[key] for key in sizes if key in section}}


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name)
    if not isinstance(section, dict):
        raise ValueError(f"{OPEN_CLIP_CONFIG} holds no JSON object as {name}")
    return section


def _read_preprocessor(content: Mapping[str, Any], image_size: int) -> PreprocessorConfig:
    """Take mean and deviation from preprocess_cfg; CLIP's where there is none."""
    colors = content.get("preprocess_cfg") or {}
    if not isinstance(colors, dict):
        raise ValueError(f"{OPEN_CLIP_CONFIG} holds no JSON object as preprocess_cfg")
    mean, std = (three_numbers(colors, *one, OPEN_CLIP_CONFIG) for one in (("mean", MEAN), ("std", STD)))
    if min(std) <= 0:
        raise ValueError(f"{OPEN_CLIP_CONFIG} has the std {list(std)}, but each must be above 0")
    return PreprocessorConfig(image_size, mean, std)
