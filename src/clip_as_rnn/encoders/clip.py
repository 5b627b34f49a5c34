"""The frozen CLIP: what CaR reads off it, and nothing of what CaR does with it.

One pass over an image yields all that the proposals need: the input of the last block, patch features and the mean
attention of the last layers. Attention matrices are summed as they appear and never kept. Nothing has side effects.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerBase
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer

from clip_as_rnn.encoders.preprocess import PreprocessorConfig
from clip_as_rnn.errors import InputError
from clip_as_rnn.prompts.templates import fill
from clip_as_rnn.types import Features, Pixels

_TEXTS_PER_PASS = 256
_PULL_BACK_BYTES = 512 * 2**20  # what the batched backward pass may take at once
_MAX_PATCHES = 16_384  # one matrix over them takes 1 GiB, and the attention and its affinity need about five
_SHOWN_LETTERS = 60  # of a text in a message


@dataclass(frozen=True, slots=True, eq=False)
class PatchView:
    """One image as the proposal CLIP sees it, with P = gh * gw patches.

    Attributes:
        grid_hw: gh, gw.
        last_input: (1, P + 1, width) input of the last block, CLS first.
        activations: (P, width) A, the output of the last block's first layer norm, without CLS.
        patches: (P, d) tokens after the last block, projected, of length 1.
        pooled: (d,) z, the mean over patches after the last layer norm, projected, not normalised.
        attention: (P, P) mean over heads and over the last layers, CLS cut out; None if none was asked for.
    """

    grid_hw: tuple[int, int]
    last_input: Float[Tensor, "1 tokens width"]
    activations: Float[Tensor, "p width"]
    patches: Float[Tensor, "p d"]
    pooled: Float[Tensor, " d"]
    attention: Float[Tensor, "p p"] | None


class Clip:
    """A frozen CLIP on one device in one precision. Holds only what was loaded."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        preparation: PreprocessorConfig,
        fingerprint: str,
        logit_scale: float | None = None,
    ) -> None:
        """Freeze a model; `logit_scale` is s where the weights' own precision would round it."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preparation = preparation
        self.fingerprint = fingerprint
        self.vision = model.vision_model
        self.patch_px: int = model.config.vision_config.patch_size
        self.max_tokens: int = model.config.text_config.max_position_embeddings
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
    def width(self) -> int:
        """Dimensions of the space that images and texts share."""
        return int(self.model.config.projection_dim)

    def check_lengths(self, texts: Sequence[str], template: str = "{}") -> None:
        """Refuse texts that CLIP cannot read whole when a template words them.

        Raises:
            InputError: a text has more tokens than the model has positions.
        """
        # not verbose: the tokenizer would warn of the same in its own words
        all_ids = self.tokenizer(fill(template, texts), verbose=False)["input_ids"] if texts else []
        for text, ids in zip(texts, all_ids, strict=True):
            if len(ids) > self.max_tokens:
                short = text if len(text) <= _SHOWN_LETTERS else f"{text[: _SHOWN_LETTERS - 3]}..."
                worded = "" if template == "{}" else f" when worded as {template!r}"
                raise InputError(
                    f"The text {short!r} has {len(ids)} tokens{worded}, but CLIP reads at most {self.max_tokens}; "
                    "shorten it."
                )

    def check_skipped(self, blocks: int) -> None:
        """Refuse to leave out more of the last blocks than there are.

        Raises:
            InputError: there are fewer.
        """
        if blocks > len(self.vision.encoder.layers):
            raise InputError(
                f"Expected setting `classifier_skipped_blocks` to be at most {len(self.vision.encoder.layers)}, "
                f"as many as the classifier has, but got {blocks}."
            )

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Features:
        """Embed texts; float32 features of length 1, one row per text.

        Raises:
            InputError: a text is too long.
        """
        self.check_lengths(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths together: less padding
        features = torch.empty(len(texts), self.width, dtype=torch.float32, device=self.device)
        for start in range(0, len(order), _TEXTS_PER_PASS):
            rows = order[start : start + _TEXTS_PER_PASS]
            batch = self.tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt").to(self.device)
            hidden = self.model.text_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
            end = batch["attention_mask"].sum(1) - 1  # the end-of-text token is the last one that counts
            pooled = hidden[torch.arange(len(rows), device=self.device), end]
            features[rows] = functional.normalize(self.model.text_projection(pooled).float(), dim=1)
        return features

    @torch.inference_mode()
    def encode_images(self, pixels: Pixels, *, skipped_blocks: int = 0, half_positions: bool = False) -> Features:
        """Embed square images by their CLS token; float32 features of length 1.

        `skipped_blocks` leaves out so many of the last blocks: the authors' release reads the last but one.

        Raises:
            InputError: there are fewer blocks than that.
        """
        self.check_skipped(skipped_blocks)
        tokens, _ = self._embed(pixels, half_positions=half_positions)
        layers = self.vision.encoder.layers
        for layer in layers[: len(layers) - skipped_blocks]:
            tokens = _run_block(layer, tokens)
        features = self.model.visual_projection(self.vision.post_layernorm(tokens[:, 0]))
        return functional.normalize(features.float(), dim=1)

    @torch.inference_mode()
    def view_patches(self, pixels: Pixels, *, affinity_layers: int, half_positions: bool = False) -> PatchView:
        """Look at one image of any size that is a whole number of patches.

        Raises:
            InputError: the image has more patches than attention can hold.
        """
        tokens, grid_hw = self._embed(pixels, half_positions=half_positions)
        layers = self.vision.encoder.layers
        first_summed = max(len(layers) - affinity_layers, 0)
        total: Tensor | None = None
        for depth, layer in enumerate(layers):
            last_input = tokens
            if depth < first_summed:
                tokens = _run_block(layer, tokens)
                continue
            attended, attention = _attend_and_sum(layer.self_attn, layer.layer_norm1(tokens))
            tokens = _finish_block(layer, tokens, attended)
            total = attention if total is None else total.add_(attention)
        patch_tokens = self.vision.post_layernorm(tokens[0, 1:]).float()
        projection = self.model.visual_projection.weight.float()
        return PatchView(
            grid_hw=grid_hw,
            last_input=last_input,
            activations=layers[-1].layer_norm1(last_input)[0, 1:].float(),
            patches=functional.normalize(patch_tokens @ projection.T, dim=1),
            pooled=projection @ patch_tokens.mean(0),
            attention=None if total is None else total / (len(layers) - first_summed),
        )

    def pull_back(self, view: PatchView, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        """Average the gradient of <direction, z> with respect to A over the patches, for many directions at once.

        That average is the derivative of z along one shift shared by all patches. Behind the linear projections it is
        one shift each of queries, keys and values, so three vectors are differentiated instead of P. As z is a mean
        over patches, it is done in blocks of them where memory asks for it. Exact and linear in the directions, which
        lie in the projected space of z; float32.
        """
        layer, patches = self.vision.encoder.layers[-1], len(view.activations)
        rows, at_once = self._pull_back_block(patches)
        with torch.inference_mode(False), torch.no_grad():  # copies, as what inference mode made cannot be pulled back
            directions = directions.to(self.device, self.dtype, copy=True)
            last_input = view.last_input.clone()
            heads = _split_heads(layer.self_attn, layer.layer_norm1(last_input))
            total = torch.zeros(len(directions), 3, *heads[0].shape[1::2], device=self.device)
            for start in range(0, patches, rows):
                block = slice(1 + start, 1 + min(start + rows, patches))  # 0 is CLS
                with torch.enable_grad():
                    shifts = torch.zeros(total.shape[1:], device=self.device, requires_grad=True)
                    pooled = self._pool_shifted(last_input, heads, shifts, block)
                for i in range(0, len(directions), at_once):
                    (gradients,) = torch.autograd.grad(
                        pooled, shifts, directions[i : i + at_once], is_grads_batched=True, retain_graph=True
                    )
                    total[i : i + at_once] += gradients * ((block.stop - block.start) / patches)
            attention = layer.self_attn
            weights = torch.cat([one.weight.float() for one in (attention.q_proj, attention.k_proj, attention.v_proj)])
            return total.flatten(1) @ weights / patches

    def _pool_shifted(
        self,
        last_input: Tensor,
        heads: tuple[Tensor, Tensor, Tensor],
        shifts: Float[Tensor, "3 heads head_width"],
        block: slice,
    ) -> Float[Tensor, " d"]:
        """Run the last block with `shifts` added to every patch's query, key and value; pool a block as z is pooled."""
        layer = self.vision.encoder.layers[-1]
        on_patches = torch.ones(last_input.shape[1], 1, device=self.device)
        on_patches[0] = 0
        query, key, value = (
            tokens + (on_patches * shift[:, None]).to(tokens.dtype)  # heads tokens head_width
            for tokens, shift in zip(heads, shifts, strict=True)
        )
        attended = _attend(layer.self_attn, query[:, :, block], key, value)
        tokens = _finish_block(layer, last_input[:, block], attended)
        pooled = self.vision.post_layernorm(tokens[0]).mean(0)
        return functional.linear(pooled, self.model.visual_projection.weight)

    def _pull_back_block(self, patches: int) -> tuple[int, int]:
        """Choose how many patches and how many directions go through one backward pass.

        For each, three rows of attention per head and about eight rows of tokens are alive.
        """
        config = self.model.config.vision_config
        row_bytes: int = 4 * (3 * config.num_attention_heads * patches + 8 * config.intermediate_size)
        rows = max(1, min(patches, _PULL_BACK_BYTES // row_bytes))
        return rows, max(1, _PULL_BACK_BYTES // (row_bytes * rows))

    def _embed(
        self, pixels: Pixels, *, half_positions: bool
    ) -> tuple[Float[Tensor, "b tokens width"], tuple[int, int]]:
        """Turn pixels into tokens, CLS first, with position embeddings interpolated bilinearly to the grid."""
        embeddings = self.vision.embeddings
        patches = embeddings.patch_embedding(pixels.to(self.device, self.dtype))  # b width gh gw
        grid_hw = (patches.shape[2], patches.shape[3])
        if grid_hw[0] * grid_hw[1] > _MAX_PATCHES:
            raise _too_many_patches(grid_hw, self.patch_px)
        positions = _grow_positions(embeddings.position_embedding.weight, grid_hw)
        if half_positions:
            positions = positions.half()
        cls = embeddings.class_embedding.expand(len(pixels), 1, -1)
        tokens = torch.cat([cls, patches.flatten(2).transpose(1, 2)], dim=1) + positions.to(self.dtype)
        return self.vision.pre_layrnorm(tokens), grid_hw


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


def _grow_positions(table: Float[Tensor, "positions width"], grid_hw: tuple[int, int]) -> Float[Tensor, "tokens width"]:
    """Interpolate the square table of position embeddings to another grid; CLS keeps its own."""
    side = int((len(table) - 1) ** 0.5)
    if grid_hw == (side, side):
        return table
    square = table[1:].float().T.reshape(1, -1, side, side)
    grown = functional.interpolate(square, size=grid_hw, mode="bilinear", align_corners=False)
    return torch.cat([table[:1].float(), grown.flatten(2)[0].T])


def _split_heads(attention: CLIPAttention, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project tokens to queries, keys and values, (b, heads, tokens, head width) each."""
    shape = (*tokens.shape[:2], attention.num_heads, attention.head_dim)
    query, key, value = (
        projection(tokens).view(shape).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return query, key, value


def _join_heads(attention: CLIPAttention, values: Tensor) -> Tensor:
    """Put the heads side by side and project them back."""
    joined: Tensor = attention.out_proj(values.transpose(1, 2).flatten(2))
    return joined


def _attend(attention: CLIPAttention, query: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "b tokens width"]:
    """Attend in plain operations, of which every derivative is known."""
    probabilities = torch.softmax((query * attention.scale) @ key.transpose(2, 3), dim=-1)
    return _join_heads(attention, probabilities @ value)


def _attend_and_sum(attention: CLIPAttention, tokens: Tensor) -> tuple[Tensor, Float[Tensor, "p p"]]:
    """Attend for one image, a head at a time, keeping only the mean over heads of the patches' attention, float32."""
    query, key, value = _split_heads(attention, tokens)
    patches = tokens.shape[1] - 1
    mean = torch.zeros(patches, patches, device=tokens.device)
    values = torch.empty_like(value)
    for head in range(attention.num_heads):
        probabilities = torch.softmax((query[:, head] * attention.scale) @ key[:, head].transpose(1, 2), dim=-1)
        values[:, head] = probabilities @ value[:, head]
        mean += probabilities[0, 1:, 1:]
    return _join_heads(attention, values), mean.div_(attention.num_heads)


def _run_block(layer: CLIPEncoderLayer, tokens: Tensor) -> Tensor:
    """Run one transformer block whose attention matrix nobody needs."""
    query, key, value = _split_heads(layer.self_attn, layer.layer_norm1(tokens))
    values = functional.scaled_dot_product_attention(query, key, value)
    return _finish_block(layer, tokens, _join_heads(layer.self_attn, values))


def _finish_block(layer: CLIPEncoderLayer, tokens: Tensor, attended: Tensor) -> Tensor:
    """Add the attention's output and the multi-layer perceptron to the residual stream."""
    tokens = tokens + attended
    finished: Tensor = tokens + layer.mlp(layer.layer_norm2(tokens))
    return finished
