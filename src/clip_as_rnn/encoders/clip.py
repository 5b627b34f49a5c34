"""CLIP (Radford et al., 2021) and what is built like it: towers with a class token, projected into one space.

The image tower of MetaCLIP 2 and of OpenCLIP's standard models is the same; so is the way in which texts are read, by
the token that ends them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clip_as_rnn.encoders.attention import read_blocks
from clip_as_rnn.encoders.base import PatchFeatures
from clip_as_rnn.encoders.checkpoint import load_model, read_logit_scale, read_preprocessor, weight_files
from clip_as_rnn.encoders.class_token import ClassTokenEncoder
from clip_as_rnn.encoders.fingerprint import fingerprint
from clip_as_rnn.encoders.model_config import ModelFormat, read_config
from clip_as_rnn.encoders.pooled_gradient import PooledGradient
from clip_as_rnn.encoders.preprocess import PreprocessorConfig
from clip_as_rnn.encoders.pull_back import choose_sizes
from clip_as_rnn.encoders.tokenizer import load_tokenizer
from clip_as_rnn.encoders.transformer import Tokenize, check_patches, interpolate_positions, pad
from clip_as_rnn.types import Pixels

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's images
STD = (0.26862954, 0.26130258, 0.27577711)
_PROJECTION = ("projection_dim",)
_FIELDS = ("hidden_act", "layer_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id", *_PROJECTION)
CLIP_FORMAT = ModelFormat(model_type="clip", prefix="CLIP", fields=_FIELDS, shared=_PROJECTION)


class ClipEncoder(ClassTokenEncoder):
    """A frozen CLIP on one device in one precision. Holds only what was loaded."""

    family = "CLIP"
    first_patch = 1

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | Tokenize,
        preprocessor: PreprocessorConfig,
        fingerprint: str,
        logit_scale: float | None = None,
    ) -> None:
        """Freeze a model; `logit_scale` is s where the weights' own precision would round it."""
        scale = float(model.logit_scale.detach().float().exp()) if logit_scale is None else logit_scale
        tokenize = _ids_of(tokenizer) if isinstance(tokenizer, PreTrainedTokenizerBase) else tokenizer
        super().__init__(model, tokenize, preprocessor, fingerprint, scale)
        self.tokenizer = tokenizer

    def take_apart(self) -> None:
        """Find the blocks; features are as long as the projections make them."""
        self.layers = read_blocks(self.vision.encoder.layers)
        self.embed_dim = int(self.model.config.projection_dim)

    def embed(self, pixels: Pixels, *, half_positions: bool) -> tuple[Float[Tensor, "b tokens width"], tuple[int, int]]:
        """Turn pixels into tokens, CLS first, with position embeddings interpolated bilinearly to the grid."""
        embeddings = self.vision.embeddings
        patches = embeddings.patch_embedding(pixels.to(self.device, self.dtype))  # b width gh gw
        grid_hw = (patches.shape[2], patches.shape[3])
        check_patches(grid_hw, self.patch_px)
        table = embeddings.position_embedding.weight
        positions = torch.cat([table[:1], interpolate_positions(table[1:], grid_hw)])  # CLS keeps its own
        if half_positions:
            positions = positions.half()
        cls = embeddings.class_embedding.expand(len(pixels), 1, -1)
        tokens = torch.cat([cls, patches.flatten(2).transpose(1, 2)], dim=1) + positions.to(self.dtype)
        return self.vision.pre_layrnorm(tokens), grid_hw

    def project(self, tokens: Float[Tensor, "*n width"]) -> Float[Tensor, "*n d"]:
        """Normalize tokens and project them into the space of the texts."""
        return functional.linear(self.vision.post_layernorm(tokens), self.model.visual_projection.weight)

    def read_patches(self, tokens: Float[Tensor, "1 tokens width"]) -> tuple[Float[Tensor, "p d"], Float[Tensor, " d"]]:
        """Project every patch; z is their mean. In float32 from the last layer norm on."""
        normed = self.vision.post_layernorm(tokens[0, 1:]).float()
        projection = self.model.visual_projection.weight.float()
        return normed @ projection.T, projection @ normed.mean(0)

    def pooled_gradient(self, features: PatchFeatures, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        """Average gradients over the patches, in closed form."""
        rows, _ = choose_sizes(self.layers[-1], len(features.activations))
        gradient = PooledGradient(
            self.vision.encoder.layers[-1], self.vision.post_layernorm, self.model.visual_projection.weight
        )
        return gradient.differentiate(features.last_input, directions.to(self.device, torch.float32), rows)

    def read_texts(self, ids: Sequence[Sequence[int]]) -> Float[Tensor, "n d"]:
        """Read texts by their last token, the end of the text; padding comes after it and is never seen."""
        tokens, counts = (one.to(self.device) for one in pad(ids, ids[0][-1]))
        hidden = self.model.text_model(tokens, counts).last_hidden_state
        pooled = hidden[torch.arange(len(ids), device=self.device), counts.sum(1) - 1]
        features: Tensor = self.model.text_projection(pooled)
        return features


def read_clip(folder: Path, device: torch.device, dtype: torch.dtype) -> ClipEncoder:
    """Read a CLIPModel folder; see `families.read_encoder` for what is raised."""
    config, files = read_config(CLIP_FORMAT, folder), weight_files(folder)
    tokenizer = load_tokenizer(folder, config.text_config.vocab_size, config.text_config.eos_token_id)
    preprocessor = read_preprocessor(folder, config.vision_config.image_size, mean=MEAN, std=STD)
    model = load_model(CLIP_FORMAT, config, files, device, dtype)
    return ClipEncoder(model, tokenizer, preprocessor, fingerprint(folder), read_logit_scale(files))


def _ids_of(tokenizer: PreTrainedTokenizerBase) -> Tokenize:
    """Ask a tokenizer for ids alone; not verbose, for it would warn of long texts in its own words."""

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
        return ids

    return tokenize
