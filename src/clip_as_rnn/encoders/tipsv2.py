"""TIPSv2 (CVPR 2026): patches trained against texts, in one space without projections; natural for `dense`.

Its image tower is DINOv2's with registers: class token, one register that was trained as a second class token, patches;
what attention and perceptron add is scaled (LayerScale). Images are in [0, 1], neither shifted nor scaled. Texts have
small letters and are read by the mean over their tokens. A temperature stands for 1 / s; published files lack it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from tokenizers import normalizers
from torch import Tensor, nn

from clip_as_rnn.encoders.attention import Block
from clip_as_rnn.encoders.checkpoint import (
    check_scale,
    load_model,
    read_number,
    read_preprocessor,
    weight_files,
    weight_names,
)
from clip_as_rnn.encoders.class_token import ClassTokenEncoder
from clip_as_rnn.encoders.fingerprint import fingerprint
from clip_as_rnn.encoders.model_config import ModelFormat, StoredPart, read_config
from clip_as_rnn.encoders.sentence_pieces import read_sentence_pieces
from clip_as_rnn.encoders.tokenizer_file import TOKENIZER_FILE, read_tokenizer, tokenize_with
from clip_as_rnn.encoders.transformer import Tokenize, check_patches, interpolate_positions, pad
from clip_as_rnn.types import Pixels

_WIDTHS = ("hidden_size", "num_hidden_layers", "num_attention_heads")
TIPSV2_FORMAT = ModelFormat(
    model_type="tipsv2",
    prefix="Tipsv2",
    vision_sizes=(*_WIDTHS, "image_size", "patch_size", "num_channels", "num_register_tokens"),
    fields=(
        *("hidden_act", "layer_norm_eps", "mlp_ratio", "use_swiglu_ffn", "qkv_bias"),
        *("scale_sqrt_depth", "pooling_epsilon"),
    ),
    shared=("temperature_init_value",),
    text_values={"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0},
    layers={"text": r"text_model\.encoder\.layers\.(\d+)\.", "vision": r"vision_model\.encoder\.layer\.(\d+)\."},
    optional=("temperature",),
    may_name_code=True,  # repositories are older than the class in transformers, and name code of their own beside it
)
_TEXT_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_VISION_PARTS = {
    "attention.o_proj": "attn.proj",
    "layer_scale1": "ls1",
    "layer_scale2": "ls2",
    "mlp.down_proj": "mlp.w3",
}
_OUTSIDE = {
    "text_model.embeddings.token_embedding": "text_encoder.token_embedding",
    "text_model.final_layer_norm": "text_encoder.ln_final",
    "vision_model.embeddings.patch_embeddings.projection": "vision_encoder.patch_embed.proj",
    "vision_model.embeddings.position_embeddings": "vision_encoder.pos_embed",
    "vision_model.layernorm": "vision_encoder.norm",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # in the order of the one matrix that holds them
_GATES = ("gate_proj", "up_proj")  # likewise


class Tipsv2Encoder(ClassTokenEncoder):
    """A frozen TIPSv2 on one device in one precision. Holds only what was loaded."""

    family = "TIPSv2"
    refused: ClassVar[Mapping[str, str]] = {
        "half_position_embeddings": "it is for what the authors' release does with OpenAI's CLIP",
        "classifier_skipped_blocks": "it is for what the authors' release does with OpenAI's CLIP",
    }

    def take_apart(self) -> None:
        """Find the blocks behind the class token and the registers."""
        self.layers = tuple(map(_read_block, self.vision.encoder.layer))
        self.first_patch = 1 + self.model.config.vision_config.num_register_tokens
        self.embed_dim = self.model.config.vision_config.hidden_size

    def embed(self, pixels: Pixels, *, half_positions: bool) -> tuple[Float[Tensor, "b tokens width"], tuple[int, int]]:
        """Turn pixels into tokens: class token, registers, which have no position, and patches.

        Position embeddings are interpolated bilinearly, with antialiasing, as in training.
        """
        embeddings, count = self.vision.embeddings, len(pixels)
        patches = embeddings.patch_embeddings.projection(pixels.to(self.device, self.dtype))  # b width gh gw
        grid_hw = (patches.shape[2], patches.shape[3])
        check_patches(grid_hw, self.patch_px)
        table = embeddings.position_embeddings[0]
        positions = interpolate_positions(table[1:], grid_hw, antialias=True).to(self.dtype)
        tokens = (
            (embeddings.cls_token + table[:1]).expand(count, -1, -1),
            embeddings.register_tokens.expand(count, -1, -1),
            patches.flatten(2).transpose(1, 2) + positions,
        )
        return torch.cat(tokens, dim=1), grid_hw

    def project(self, tokens: Float[Tensor, "*n width"]) -> Float[Tensor, "*n d"]:
        """Normalize tokens; images and texts share the towers' width."""
        normed: Tensor = self.vision.layernorm(tokens)
        return normed

    def read_patches(self, tokens: Float[Tensor, "1 tokens width"]) -> tuple[Float[Tensor, "p d"], Float[Tensor, " d"]]:
        """Take every patch as it is; z is their mean."""
        patches = self.project(tokens[0, self.first_patch :]).float()
        return patches, patches.mean(0)

    def read_texts(self, ids: Sequence[Sequence[int]]) -> Float[Tensor, "n d"]:
        """Read texts by the mean over their tokens; padding is neither seen nor counted."""
        tokens, counts = (one.to(self.device) for one in pad(ids, 0))
        features: Tensor = self.model.text_model(tokens, counts).pooler_output
        return features


def _read_block(layer: Any) -> Block:
    """Read one layer, with LayerScale as the last thing that attention and perceptron do."""
    attention, mlp = layer.attention, layer.mlp
    return Block(
        norm1=layer.norm1,
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        output=nn.Sequential(attention.o_proj, layer.layer_scale1),
        norm2=layer.norm2,
        mlp=nn.Sequential(mlp, layer.layer_scale2),
        heads=attention.num_attention_heads,
        mlp_width=(mlp.gate_proj if hasattr(mlp, "gate_proj") else mlp.fc1).out_features,
    )


def read_tipsv2(folder: Path, device: torch.device, dtype: torch.dtype) -> Tipsv2Encoder:
    """Read a Tipsv2Model folder, with weights named as published or as transformers saves them; see `families`."""
    config, files = read_config(TIPSV2_FORMAT, folder), weight_files(folder)
    tokenize = _read_tokenizer(folder, config.text_config.vocab_size)
    preprocessor = read_preprocessor(folder, config.vision_config.image_size, mean=(0.0,) * 3, std=(1.0,) * 3)
    names = weight_names(files)
    model = load_model(_find_format(names), config, files, device, dtype)
    text = model.text_model.embeddings.position_embedding  # not among the weights
    text.weights = text.get_embedding(config.text_config.max_position_embeddings, config.text_config.hidden_size)
    text.weights = text.weights.to(device, dtype)
    temperature = read_number(files, "temperature") if "temperature" in names else config.temperature_init_value
    scale = check_scale(1 / temperature if temperature else 0.0, "temperature")
    return Tipsv2Encoder(model, tokenize, preprocessor, fingerprint(folder), scale)


def _find_format(names: Collection[str]) -> ModelFormat:
    """Tell by the names of the weights whether they are as published or as transformers saves them."""
    if not any(name.startswith("vision_encoder.") for name in names):
        return TIPSV2_FORMAT
    layers = {
        "text": r"text_encoder\.transformer\.resblocks\.(\d+)\.",
        "vision": r"vision_encoder\.blocks\.(\d+)\.",
    }
    prefixes = ("text_encoder.", "vision_encoder.")
    return replace(TIPSV2_FORMAT, layers=layers, prefixes=prefixes, find=partial(find_part, names=frozenset(names)))


def find_part(name: str, names: frozenset[str] = frozenset()) -> StoredPart:
    """Say where published files keep a weight of Tipsv2Model; `names` are all that they hold."""
    part, _, kind = name.rpartition(".")
    if ".encoder." in name:
        tower, _, _, number, within = part.split(".", 4)
        find = _find_in_text_block if tower == "text_model" else _find_in_image_block
        return find(number, within, kind, names)
    if part == "vision_model.embeddings" and name not in _OUTSIDE:
        return StoredPart(f"vision_encoder.{kind}")
    return StoredPart(_OUTSIDE.get(name) or f"{_OUTSIDE.get(part, part)}.{kind}".lstrip("."))


def _find_in_text_block(number: str, within: str, kind: str, _: frozenset[str]) -> StoredPart:
    block, inner = f"text_encoder.transformer.resblocks.{number}", within.split(".")[-1]
    if inner in _PROJECTIONS:
        return StoredPart(f"{block}.attn.in_proj_{kind}", piece=_PROJECTIONS.index(inner))
    return StoredPart(f"{block}.{_TEXT_PARTS[within]}.{kind}")


def _find_in_image_block(number: str, within: str, kind: str, names: frozenset[str]) -> StoredPart:
    block, inner = f"vision_encoder.blocks.{number}", within.split(".")[-1]
    if inner in _PROJECTIONS:
        return StoredPart(f"{block}.attn.qkv.{kind}", piece=_PROJECTIONS.index(inner))
    if inner in _GATES:
        return StoredPart(f"{block}.mlp.w12.{kind}", piece=_GATES.index(inner), pieces=len(_GATES))
    if within in _TEXT_PARTS and (other := f"{block}.{_TEXT_PARTS[within]}.{kind}") in names:
        return StoredPart(other)  # perceptrons go by either name
    return StoredPart(f"{block}.{_VISION_PARTS.get(within, within)}.{'gamma' if kind == 'lambda1' else kind}")


def _read_tokenizer(folder: Path, vocab_size: int) -> Tokenize:
    """Read the tokenizer of either kind; letters become small before anything else."""
    if not (folder / TOKENIZER_FILE).is_file():
        return read_sentence_pieces(folder, vocab_size)
    tokenizer = read_tokenizer(folder, vocab_size)
    steps = [normalizers.Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer is not None else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenize_with(tokenizer)
