"""CLIP, frozen: text features, image features, patch features with attention, and gradients through the last block.

One pass over an image yields all that gradient CAMs need. Attention matrices are summed as they appear, never kept.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerBase

from clip_as_rnn.encoders.attention import (
    attend,
    attend_and_average,
    attend_inside,
    finish_block,
    join_heads,
    run_attended_block,
    run_block,
    split_heads,
)
from clip_as_rnn.encoders.base import PatchFeatures, PatchKeys, Tick, ignore_tick
from clip_as_rnn.encoders.pooled_jacobian import PooledJacobian
from clip_as_rnn.encoders.preprocess import PreprocessorConfig
from clip_as_rnn.errors import InputError
from clip_as_rnn.prompts.templates import fill
from clip_as_rnn.types import Features, Pixels

_TEXTS_PER_PASS = 256
_MASKS_PER_PASS = 512
_GRADIENT_BYTES = 512 * 2**20  # what the batched backward pass, or a block of patches' Jacobian, may take at once
_BACKWARD_PASSES = 8  # through the last block; more take longer than the Jacobian in closed form
_MAX_PATCHES = 16_384  # one matrix over them takes 1 GiB, and the attention and its affinity need about five
_SHOWN_LETTERS = 60  # of a text in a message


class ClipEncoder:
    """A frozen CLIP on one device in one precision. Holds only what was loaded."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        preprocessor: PreprocessorConfig,
        fingerprint: str,
        logit_scale: float | None = None,
    ) -> None:
        """Freeze a model; `logit_scale` is s where the weights' own precision would round it."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocessor = preprocessor
        self.fingerprint = fingerprint
        self.vision = model.vision_model
        self.patch_px: int = model.config.vision_config.patch_size
        self.max_text_tokens: int = model.config.text_config.max_position_embeddings
        self.logit_scale = float(model.logit_scale.float().exp()) if logit_scale is None else logit_scale

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.logit_scale.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        dtype: torch.dtype = self.model.visual_projection.weight.dtype
        return dtype

    @property
    def embed_dim(self) -> int:
        """Dimensions of the space that images and texts share."""
        return int(self.model.config.projection_dim)

    @property
    def blocks(self) -> int:
        """Number of transformer blocks of the image tower."""
        return len(self.vision.encoder.layers)

    def check_lengths(self, texts: Sequence[str], template: str = "{}") -> None:
        """Refuse texts that CLIP cannot read whole when a template words them.

        Raises:
            InputError: a text has more tokens than the model has positions.
        """
        # not verbose: the tokenizer would warn of the same in its own words
        all_ids = self.tokenizer(fill(template, texts), verbose=False)["input_ids"] if texts else []
        for text, ids in zip(texts, all_ids, strict=True):
            if len(ids) > self.max_text_tokens:
                short = text if len(text) <= _SHOWN_LETTERS else f"{text[: _SHOWN_LETTERS - 3]}..."
                worded = "" if template == "{}" else f" when worded as {template!r}"
                raise InputError(
                    f"The text {short!r} has {len(ids)} tokens{worded}, but CLIP reads at most {self.max_text_tokens}; "
                    "shorten it."
                )

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], tick: Tick = ignore_tick) -> Features:
        """Embed texts; float32 features of length 1, one row per text. `tick` is called before each pass.

        Raises:
            InputError: a text is too long.
        """
        self.check_lengths(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths together: less padding
        features = torch.empty(len(texts), self.embed_dim, dtype=torch.float32, device=self.device)
        for start in range(0, len(order), _TEXTS_PER_PASS):
            tick(start, len(order))
            rows = order[start : start + _TEXTS_PER_PASS]
            batch = self.tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt").to(self.device)
            hidden = self.model.text_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
            end = batch["attention_mask"].sum(1) - 1  # the end-of-text token is the last one that counts
            pooled = hidden[torch.arange(len(rows), device=self.device), end]
            features[rows] = functional.normalize(self.model.text_projection(pooled).float(), dim=1)
        return features

    @torch.inference_mode()
    def encode_image(self, pixels: Pixels, *, skipped_blocks: int = 0, half_positions: bool = False) -> Features:
        """Embed square images by their class token; float32 features of length 1.

        `skipped_blocks` leaves out so many of the last blocks: the authors' release reads the last but one.
        """
        tokens, _ = self._embed(pixels, half_positions=half_positions)
        layers = self.vision.encoder.layers
        for layer in layers[: self.blocks - skipped_blocks]:
            tokens = run_block(layer, tokens)
        return self._project(tokens[:, 0])

    @torch.inference_mode()
    def encode_keys(
        self, pixels: Pixels, *, first_block: int, skipped_blocks: int = 0, half_positions: bool = False
    ) -> PatchKeys:
        """Pass one plain image, and keep its patches' keys and values from block `first_block` on, for mask tokens.

        What comes after the keys of the last block is no patch's business, and is not computed.
        """
        tokens, grid_hw = self._embed(pixels, half_positions=half_positions)
        layers = self.vision.encoder.layers[: self.blocks - skipped_blocks]
        kept = []
        for depth, layer in enumerate(layers):
            heads = split_heads(layer.self_attn, layer.layer_norm1(tokens))
            if depth == first_block:
                class_token = tokens[0, 0]
            if depth >= first_block:
                kept.append([one[:, :, 1:].contiguous() for one in heads[1:]])  # 0 is CLS
            if depth < len(layers) - 1:
                tokens = run_attended_block(layer, tokens, heads)
        keys, values = zip(*kept, strict=True)
        return PatchKeys(grid_hw, first_block, class_token, keys, values)

    @torch.inference_mode()
    def encode_masks(
        self, images: Sequence[PatchKeys], masks: Sequence[Bool[Tensor, "_ _ _"]]
    ) -> list[Float[Tensor, "_ d"]]:
        """Embed masks on patches, each by a mask token of its own; float32 features of length 1, one row per mask.

        A mask token is a copy of the class token that attends to itself and to the patches inside its mask, while
        patches and class token never see one (MasQCLIP, ICCV 2023; ODISE, CVPR 2023: mask class tokens). A full mask
        has the feature of the plain image; of a mask without a patch nothing but the class token is left. All images
        must come from `encode_keys` with the same blocks. Their masks share the passes, at most 512 in each.
        """
        passes = _share_passes(images, [inside.to(self.device) for inside in masks])
        features = [self._encode_mask_rows(rows) for rows in passes]
        together = torch.cat([*features, torch.zeros(0, self.embed_dim, dtype=torch.float32, device=self.device)])
        return list(torch.split(together, [len(inside) for inside in masks]))

    def _encode_mask_rows(self, rows: Sequence[tuple[PatchKeys, Bool[Tensor, "_ _"]]]) -> Float[Tensor, "n d"]:
        """Run mask tokens through the blocks side by side; only their attention is each image's own."""
        counts = [len(inside) for _, inside in rows]
        tokens = torch.cat([image.class_token.expand(1, len(inside), -1) for image, inside in rows], dim=1)
        first = rows[0][0].first_block
        for i, layer in enumerate(self.vision.encoder.layers[first : first + len(rows[0][0].keys)]):
            heads = split_heads(layer.self_attn, layer.layer_norm1(tokens))
            by_image = zip(*(torch.split(one, counts, dim=2) for one in heads), rows, strict=True)
            attended = [
                attend_inside((query, key, value), image.keys[i], image.values[i], inside)
                for query, key, value, (image, inside) in by_image
            ]
            tokens = finish_block(layer, tokens, join_heads(layer.self_attn, torch.cat(attended, dim=2)))
        return self._project(tokens[0])

    @torch.inference_mode()
    def encode_patches(self, pixels: Pixels, *, attention_layers: int, half_positions: bool = False) -> PatchFeatures:
        """Encode the patches of one image of any size that is a whole number of patches.

        Raises:
            InputError: the image has more patches than attention can hold.
        """
        tokens, grid_hw = self._embed(pixels, half_positions=half_positions)
        layers = self.vision.encoder.layers
        first_averaged = max(self.blocks - attention_layers, 0)
        total: Tensor | None = None
        for depth, layer in enumerate(layers):
            last_input = tokens
            if depth < first_averaged:
                tokens = run_block(layer, tokens)
                continue
            attended, attention = attend_and_average(layer.self_attn, layer.layer_norm1(tokens))
            tokens = finish_block(layer, tokens, attended)
            total = attention if total is None else total.add_(attention)
        patch_tokens = self.vision.post_layernorm(tokens[0, 1:]).float()
        projection = self.model.visual_projection.weight.float()
        return PatchFeatures(
            grid_hw=grid_hw,
            last_input=last_input,
            activations=layers[-1].layer_norm1(last_input)[0, 1:].float(),
            patches=functional.normalize(patch_tokens @ projection.T, dim=1),
            pooled=projection @ patch_tokens.mean(0),
            attention=None if total is None else total / (self.blocks - first_averaged),
        )

    def _project(self, tokens: Float[Tensor, "n width"]) -> Features:
        """Turn class tokens into features of length 1, in float32."""
        return functional.normalize(self.model.visual_projection(self.vision.post_layernorm(tokens)).float(), dim=1)

    def pooled_gradient(self, features: PatchFeatures, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        """Average the gradient of <direction, z> with respect to A over the patches, for many directions at once.

            g = 1/P sum_p d<direction, z> / dA_p,   one row per direction

        That average is the derivative of z along one shift shared by all patches. Behind the linear projections it is
        one shift each of queries, keys and values, so three vectors are differentiated instead of P. As z is a mean
        over patches, it is done in blocks of them where memory asks for it; for many directions in closed form, which
        takes the same time for any number. Exact and linear in the directions, which lie in the projected space of z;
        float32.
        """
        if len(directions) > _BACKWARD_PASSES:
            return directions.to(self.device, torch.float32) @ self._pooled_jacobian(features)
        layer, patches = self.vision.encoder.layers[-1], len(features.activations)
        rows, at_once = self._gradient_block(patches)
        with torch.inference_mode(False), torch.no_grad():  # copies: inference tensors have no gradients
            directions = directions.to(self.device, self.dtype, copy=True)
            last_input = features.last_input.clone()
            heads = split_heads(layer.self_attn, layer.layer_norm1(last_input))
            total = torch.zeros(len(directions), 3, *heads[0].shape[1::2], dtype=torch.float32, device=self.device)
            for start in range(0, patches, rows):
                block = slice(1 + start, 1 + min(start + rows, patches))  # 0 is CLS
                with torch.enable_grad():
                    shifts = torch.zeros(total.shape[1:], dtype=total.dtype, device=total.device, requires_grad=True)
                    pooled = self._pool_block(last_input, heads, shifts, block)
                for i in range(0, len(directions), at_once):
                    (gradients,) = torch.autograd.grad(
                        pooled, shifts, directions[i : i + at_once], is_grads_batched=True, retain_graph=True
                    )
                    total[i : i + at_once] += gradients * ((block.stop - block.start) / patches)
            attention = layer.self_attn
            weights = torch.cat([one.weight.float() for one in (attention.q_proj, attention.k_proj, attention.v_proj)])
            return total.flatten(1) @ weights / patches

    def _pooled_jacobian(self, features: PatchFeatures) -> Float[Tensor, "d width"]:
        """Compute the mean over patches of dz/dA_p, in blocks of patches that fit into memory."""
        rows, _ = self._gradient_block(len(features.activations))
        jacobian = PooledJacobian(
            self.vision.encoder.layers[-1], self.vision.post_layernorm, self.model.visual_projection.weight
        )
        return jacobian.differentiate(features.last_input, rows)

    def _pool_block(
        self,
        last_input: Tensor,
        heads: tuple[Tensor, Tensor, Tensor],
        shifts: Float[Tensor, "3 heads head_width"],
        block: slice,
    ) -> Float[Tensor, " d"]:
        """Run the last block with `shifts` added to every patch's query, key and value; pool a block as z is pooled."""
        layer = self.vision.encoder.layers[-1]
        on_patches = torch.ones(last_input.shape[1], 1, dtype=torch.float32, device=self.device)
        on_patches[0] = 0
        query, key, value = (
            tokens + (on_patches * shift[:, None]).to(tokens.dtype)  # heads tokens head_width
            for tokens, shift in zip(heads, shifts, strict=True)
        )
        attended = attend(layer.self_attn, query[:, :, block], key, value)
        tokens = finish_block(layer, last_input[:, block], attended)
        pooled = self.vision.post_layernorm(tokens[0]).mean(0)
        return functional.linear(pooled, self.model.visual_projection.weight)

    def _gradient_block(self, patches: int) -> tuple[int, int]:
        """Choose how many patches and how many directions go through one backward pass.

        For each, three rows of attention per head and about eight rows of tokens are alive.
        """
        config = self.model.config.vision_config
        row_bytes: int = 4 * (3 * config.num_attention_heads * patches + 8 * config.intermediate_size)
        rows = max(1, min(patches, _GRADIENT_BYTES // row_bytes))
        return rows, max(1, _GRADIENT_BYTES // (row_bytes * rows))

    def _embed(
        self, pixels: Pixels, *, half_positions: bool
    ) -> tuple[Float[Tensor, "b tokens width"], tuple[int, int]]:
        """Turn pixels into tokens, CLS first, with position embeddings interpolated bilinearly to the grid."""
        embeddings = self.vision.embeddings
        patches = embeddings.patch_embedding(pixels.to(self.device, self.dtype))  # b width gh gw
        grid_hw = (patches.shape[2], patches.shape[3])
        if grid_hw[0] * grid_hw[1] > _MAX_PATCHES:
            raise _too_many_patches(grid_hw, self.patch_px)
        positions = _interpolate_positions(embeddings.position_embedding.weight, grid_hw)
        if half_positions:
            positions = positions.half()
        cls = embeddings.class_embedding.expand(len(pixels), 1, -1)
        tokens = torch.cat([cls, patches.flatten(2).transpose(1, 2)], dim=1) + positions.to(self.dtype)
        return self.vision.pre_layrnorm(tokens), grid_hw


def _share_passes(
    images: Sequence[PatchKeys], masks: Sequence[Bool[Tensor, "_ _ _"]]
) -> list[list[tuple[PatchKeys, Bool[Tensor, "_ _"]]]]:
    """Deal the masks of all images, in order, out to passes of `_MASKS_PER_PASS`; the last one takes what is left."""
    passes: list[list[tuple[PatchKeys, Tensor]]] = []
    room = 0
    for image, of_image in zip(images, masks, strict=True):
        waiting = of_image.flatten(1)
        while len(waiting):
            if not room:
                passes.append([])
                room = _MASKS_PER_PASS
            passes[-1].append((image, waiting[:room]))
            waiting, room = waiting[room:], room - len(passes[-1][-1][1])
    return passes


def _too_many_patches(grid_hw: tuple[int, int], patch_px: int) -> InputError:
    """Say which size limit would do, for any preset has that setting, whether it limits the size or not."""
    short, side = min(grid_hw), max(grid_hw)
    fitting = side
    while fitting * math.ceil(short * fitting / side) > _MAX_PATCHES:
        fitting -= 1
    return InputError(
        f"The image has {short * side:,} patches, but at most {_MAX_PATCHES:,} fit into memory; shrink it, or give "
        f"--set max_side_px={fitting * patch_px} (in Python, max_side_px={fitting * patch_px})."
    )


def _interpolate_positions(
    table: Float[Tensor, "positions width"], grid_hw: tuple[int, int]
) -> Float[Tensor, "tokens width"]:
    """Interpolate the square table of position embeddings to another grid; CLS keeps its own."""
    side = int((len(table) - 1) ** 0.5)
    if grid_hw == (side, side):
        return table
    square = table[1:].float().T.reshape(1, -1, side, side)
    upsampled = functional.interpolate(square, size=grid_hw, mode="bilinear", align_corners=False)
    return torch.cat([table[:1].float(), upsampled.flatten(2)[0].T])
