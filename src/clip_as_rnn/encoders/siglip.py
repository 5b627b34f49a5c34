"""SigLIP (Zhai et al., ICCV 2023) and SigLIP 2 (Tschannen et al., 2025) of fixed resolution: a pooling head.

The head's probe attends to all patches, and what it gathers goes through a perceptron into the space of the texts. So z
is the image's feature itself; a patch's feature is the head's on that patch alone; a mask's is that of the probe that
sees its patches only. A pair's logit is s cos + b, trained by a sigmoid each; b is the same for all pairs, so that the
softmax over texts, in which stages compare, needs s alone.
"""

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from tokenizers import Regex, normalizers
from tokenizers.models import Unigram
from torch import Tensor
from torch.nn import functional

from clip_as_rnn.encoders.attention import TokenMap, read_blocks, run_block, scale_queries
from clip_as_rnn.encoders.base import PatchKeys
from clip_as_rnn.encoders.checkpoint import load_model, read_logit_scale, read_preprocessor, weight_files
from clip_as_rnn.encoders.fingerprint import fingerprint
from clip_as_rnn.encoders.model_config import ModelFormat, read_config
from clip_as_rnn.encoders.tokenizer_file import find_token, read_tokenizer, tokenize_with
from clip_as_rnn.encoders.transformer import Tokenize, TransformerEncoder, check_patches, interpolate_positions
from clip_as_rnn.types import Pixels

_HALF = (0.5, 0.5, 0.5)  # mean and deviation of its images
_FIELDS = ("hidden_act", "layer_norm_eps", "projection_size", "vision_use_head")
_UNUSED = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}  # transformers would warn of its defaults
SIGLIP_FORMAT = ModelFormat(model_type="siglip", prefix="Siglip", fields=_FIELDS, text_values=_UNUSED)


class PoolingHead:
    """The attention-pooling head, taken apart; its probe's query is the same for every image."""

    def __init__(self, head: Any) -> None:
        attention = head.attention
        self._attention, self._norm, self._mlp = attention, head.layernorm, head.mlp
        self._weights = attention.in_proj_weight.chunk(3)  # of queries, keys and values
        self._biases = attention.in_proj_bias.chunk(3)
        self._query = scale_queries(self._split(functional.linear(head.probe, self._weights[0], self._biases[0])))

    def split(self, normed: Float[Tensor, "b p width"]) -> tuple[Tensor, Tensor]:
        """Project normalized patches to keys and values, (b, heads, p, head width) each."""
        key, value = (
            self._split(functional.linear(normed, weight, bias))
            for weight, bias in zip(self._weights[1:], self._biases[1:], strict=True)
        )
        return key, value

    def compare(self, key: Float[Tensor, "b heads p head_width"]) -> Float[Tensor, "b heads 1 p"]:
        """Compute the logits of the probe's attention."""
        logits: Tensor = self._query @ key.transpose(2, 3)
        return logits

    def finish(self, gathered: Float[Tensor, "b heads n head_width"]) -> Float[Tensor, "b n d"]:
        """Turn what probes have gathered into features."""
        joined = self._attention.out_proj(gathered.transpose(1, 2).flatten(2))
        finished: Tensor = joined + self._mlp(self._norm(joined))
        return finished

    def _split(self, tokens: Tensor) -> Tensor:
        heads: int = self._attention.num_heads
        return tokens.view(*tokens.shape[:2], heads, -1).transpose(1, 2)


class HeadPooling:
    """z as the head computes it, to first order a sum over patches.

    With w_p the probe's attention to patch p, l_p its logit and v_p the value, u = sum_p w_p v_p changes as

        du = sum_p w_p dv_p + w_p (v_p - u) dl_p,        because dw_p = w_p (dl_p - sum_q w_q dl_q),

    so `pool` adds up w_p v_p + w_p (v_p - u) l_p with w, v_p - u held fixed, and `pull` differentiates z by u.
    """

    def __init__(self, head: PoolingHead, norm: TokenMap, tokens: Float[Tensor, "1 p width"]) -> None:
        self._head, self._norm = head, norm
        key, value = head.split(norm(tokens))
        self._shares = torch.softmax(head.compare(key), dim=-1)  # 1 heads 1 p
        self._gathered = self._shares @ value  # 1 heads 1 head_width
        self._differences = value - self._gathered

    def pull(self, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Turn derivatives with respect to z into those with respect to u."""
        if not len(directions):
            return directions.new_zeros(0, self._gathered.numel())
        with torch.enable_grad():
            gathered = self._gathered.clone().requires_grad_()
            pooled = self._head.finish(gathered)[0, 0]
        (pulled,) = torch.autograd.grad(pooled, gathered, directions, is_grads_batched=True)
        return pulled.flatten(1)

    def pool(self, tokens: Float[Tensor, "b width"], block: slice) -> Float[Tensor, " m"]:
        """Add up the terms of some patches."""
        key, value = self._head.split(self._norm(tokens[None]))
        shares = self._shares[..., block]
        terms = shares @ value + (shares * self._head.compare(key)) @ self._differences[:, :, block]
        return terms.flatten()


class SiglipEncoder(TransformerEncoder):
    """A frozen SigLIP on one device in one precision. Holds only what was loaded; `tokenize` pads."""

    family = "SigLIP"
    refused: ClassVar[Mapping[str, str]] = {
        "half_position_embeddings": "it is for what the authors' release does with OpenAI's CLIP",
        "classifier_skipped_blocks": "its pooling head reads nothing but the tokens of the last block",
        "mask_token_block": "it has no class token, and masks act in its pooling head, after all blocks",
    }
    first_patch = 0

    def take_apart(self) -> None:
        """Find the blocks and the head."""
        self.head = PoolingHead(self.vision.head)
        self.layers = read_blocks(self.vision.encoder.layers)
        self.embed_dim = self.model.config.vision_config.hidden_size

    def embed(self, pixels: Pixels, *, half_positions: bool) -> tuple[Float[Tensor, "b tokens width"], tuple[int, int]]:
        """Turn pixels into the patches' tokens, with position embeddings interpolated bicubically to the grid."""
        embeddings = self.vision.embeddings
        patches = embeddings.patch_embedding(pixels.to(self.device, self.dtype))  # b width gh gw
        grid_hw = (patches.shape[2], patches.shape[3])
        check_patches(grid_hw, self.patch_px)
        positions = interpolate_positions(embeddings.position_embedding.weight, grid_hw, "bicubic")
        return patches.flatten(2).transpose(1, 2) + positions.to(self.dtype), grid_hw

    def summarize(self, tokens: Float[Tensor, "b tokens width"]) -> Float[Tensor, "b d"]:
        """Let the probe gather from all patches."""
        key, value = self.head.split(self.vision.post_layernorm(tokens))
        return self.head.finish(torch.softmax(self.head.compare(key), dim=-1) @ value)[:, 0]

    def read_patches(self, tokens: Float[Tensor, "1 tokens width"]) -> tuple[Float[Tensor, "p d"], Float[Tensor, " d"]]:
        """Let the probe gather from each patch alone, and for z from all of them."""
        _, value = self.head.split(self.vision.post_layernorm(tokens))
        return self.head.finish(value)[0].float(), self.summarize(tokens)[0].float()

    def pooling(self, last_input: Float[Tensor, "1 tokens width"]) -> HeadPooling:
        """Pool patches by the head, as it sees this image."""
        return HeadPooling(self.head, self.vision.post_layernorm, run_block(self.layers[-1], last_input))

    @torch.inference_mode()
    def encode_keys(
        self, pixels: Pixels, *, first_block: int = 0, skipped_blocks: int = 0, half_positions: bool = False
    ) -> list[PatchKeys]:
        """Pass plain images, and keep their patches' keys and values in the head."""
        self.refuse(
            mask_token_block=first_block,
            classifier_skipped_blocks=skipped_blocks,
            half_position_embeddings=half_positions,
        )
        tokens, grid_hw = self.embed(pixels, half_positions=half_positions)
        for block in self.layers:
            tokens = run_block(block, tokens)
        key, value = self.head.split(self.vision.post_layernorm(tokens))
        probe = self.vision.head.probe[0, 0]
        return [
            PatchKeys(grid_hw, self.blocks, probe, (own_key[None].clone(),), (own_value[None].clone(),))
            for own_key, own_value in zip(key, value, strict=True)
        ]

    def spread_masks(self, masks: Bool[Tensor, "n gh gw"]) -> Bool[Tensor, "n keys"]:
        """Lay masks out over the patches."""
        return masks.flatten(1)

    def read_masks(self, rows: Sequence[tuple[PatchKeys, Bool[Tensor, "_ _"]]]) -> Float[Tensor, "n d"]:
        """Let a probe for each mask gather from the patches inside it; without a patch it has gathered nothing."""
        gathered = []
        for image, inside in rows:
            logits = self.head.compare(image.keys[0]).masked_fill(~inside, -torch.inf)  # 1 heads n p
            shares = torch.softmax(logits, dim=-1).where(inside.any(1, keepdim=True), 0)
            gathered.append(shares @ image.values[0])
        return self.head.finish(torch.cat(gathered, dim=2))[0]

    def read_texts(self, ids: Sequence[Sequence[int]]) -> Float[Tensor, "n d"]:
        """Read texts, padded as in training, by the last position; padding is seen like any token."""
        features: Tensor = self.model.text_model(torch.tensor(ids, device=self.device)).pooler_output
        return features


def read_siglip(folder: Path, device: torch.device, dtype: torch.dtype) -> SiglipEncoder:
    """Read a SiglipModel folder; see `families.read_encoder` for what is raised."""
    config, files = read_config(SIGLIP_FORMAT, folder), weight_files(folder)
    text, vision = config.text_config, config.vision_config
    if not getattr(vision, "vision_use_head", True) or text.projection_size != vision.hidden_size:
        raise ValueError("config.json describes a SiglipModel without a head into the space of its texts")
    tokenize = _read_padding_tokenizer(folder, text.vocab_size, text.max_position_embeddings)
    preprocessor = read_preprocessor(folder, vision.image_size, mean=_HALF, std=_HALF)
    model = load_model(SIGLIP_FORMAT, config, files, device, dtype)
    return SiglipEncoder(model, tokenize, preprocessor, fingerprint(folder), read_logit_scale(files))


def _read_padding_tokenizer(folder: Path, vocab_size: int, length: int) -> Tokenize:
    """Read the tokenizer, and word and pad texts as in training.

    SigLIP's is a unigram model; its texts lost capitals, punctuation and double spaces, and are padded with "</s>".
    SigLIP 2's is that of Gemma; its texts lost capitals alone, and are padded with "<pad>". Both on the right.
    """
    tokenizer = read_tokenizer(folder, vocab_size)
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()]
    is_first = isinstance(tokenizer.model, Unigram)
    if is_first:
        steps.append(normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""))
        steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if tokenizer.normalizer is not None:
        steps.append(tokenizer.normalizer)
    tokenizer.normalizer = normalizers.Sequence(steps)
    padding = find_token(tokenizer, "</s>" if is_first else "<pad>")
    tokenize = tokenize_with(tokenizer)

    def tokenize_and_pad(texts: Sequence[str]) -> list[list[int]]:
        return [[*ids, *[padding] * (length - len(ids))] for ids in tokenize(texts)]

    return tokenize_and_pad
