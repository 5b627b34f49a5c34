"""What the encoders of all families share: two frozen transformers, of images and of texts, read in passes.

A family says how pixels become tokens, how tokens become features, and how token ids become the features of texts; see
`clip.py`, `siglip.py`, `tipsv2.py`. Attention matrices are summed as they appear, never kept.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from clip_as_rnn.encoders.attention import Block, attend_and_average, finish_block, run_block
from clip_as_rnn.encoders.base import PatchFeatures, PatchKeys, Tick, ignore_tick
from clip_as_rnn.encoders.preprocess import PreprocessorConfig
from clip_as_rnn.encoders.pull_back import Pooling, pull_back
from clip_as_rnn.errors import InputError
from clip_as_rnn.prompts.templates import fill
from clip_as_rnn.types import Features, Pixels

Tokenize: TypeAlias = Callable[[Sequence[str]], list[list[int]]]  # ids of each text, special tokens included, unpadded

_TEXTS_PER_PASS = 256
_MASKS_PER_PASS = 512
_MAX_PATCHES = 16_384  # one matrix over them takes 1 GiB, and the attention and its affinity need about five
_SHOWN_LETTERS = 60  # of a text in a message


class TransformerEncoder(ABC):
    """A frozen encoder on one device in one precision. Holds only what was loaded.

    Attributes:
        family: its name, for messages.
        refused: settings that make no sense for the family, each with the reason.
        layers: the blocks of the image tower.
        first_patch: how many tokens come before those of the patches.
    """

    family: ClassVar[str]
    refused: ClassVar[Mapping[str, str]] = {}
    layers: tuple[Block, ...]
    first_patch: int
    patch_px: int
    max_text_tokens: int
    embed_dim: int

    def __init__(
        self,
        model: PreTrainedModel,
        tokenize: Tokenize,
        preprocessor: PreprocessorConfig,
        fingerprint: str,
        logit_scale: float,
    ) -> None:
        """Freeze a model; `logit_scale` is s, which the weights' own precision may round."""
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenize = tokenize
        self.preprocessor = preprocessor
        self.fingerprint = fingerprint
        self.logit_scale = logit_scale
        self.vision: Any = self.model.vision_model
        self.patch_px = self.model.config.vision_config.patch_size
        self.max_text_tokens = self.model.config.text_config.max_position_embeddings
        self.take_apart()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.layers[0].query.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.layers[0].query.weight.dtype

    @property
    def blocks(self) -> int:
        """Number of transformer blocks of the image tower."""
        return len(self.layers)

    # What a family says

    @abstractmethod
    def take_apart(self) -> None:
        """Find in the model what this class declares of it: its blocks and the length of its features."""

    @abstractmethod
    def embed(self, pixels: Pixels, *, half_positions: bool) -> tuple[Float[Tensor, "b tokens width"], tuple[int, int]]:
        """Turn pixels into the tokens of the first block, and say how many rows and columns of patches there are."""

    @abstractmethod
    def summarize(self, tokens: Float[Tensor, "b tokens width"]) -> Float[Tensor, "b d"]:
        """Turn the tokens after a block into the features of whole images, of any length."""

    @abstractmethod
    def read_patches(self, tokens: Float[Tensor, "1 tokens width"]) -> tuple[Float[Tensor, "p d"], Float[Tensor, " d"]]:
        """Turn the tokens after the last block into a feature per patch and into z; float32, of any length."""

    @abstractmethod
    def pooling(self, last_input: Float[Tensor, "1 tokens width"]) -> Pooling:
        """Say how the tokens after the last block become z, given those before it."""

    @abstractmethod
    def encode_keys(
        self, pixels: Pixels, *, first_block: int, skipped_blocks: int = 0, half_positions: bool = False
    ) -> list[PatchKeys]:
        """Pass plain images, and keep what mask tokens need of each; see `MaskTokenEncoder`."""

    @abstractmethod
    def spread_masks(self, masks: Bool[Tensor, "n gh gw"]) -> Bool[Tensor, "n keys"]:
        """Lay masks out over the tokens that have keys."""

    @abstractmethod
    def read_masks(self, rows: Sequence[tuple[PatchKeys, Bool[Tensor, "_ _"]]]) -> Float[Tensor, "n d"]:
        """Turn masks of images, laid out, into features of any length, all images' masks in order."""

    @abstractmethod
    def read_texts(self, ids: Sequence[Sequence[int]]) -> Float[Tensor, "n d"]:
        """Turn token ids into features of texts, of any length."""

    # What all share

    def check_lengths(self, texts: Sequence[str], template: str = "{}") -> None:
        """Refuse texts that the model cannot read whole when a template words them.

        Raises:
            InputError: a text has more tokens than the model has positions.
        """
        all_ids = self.tokenize(fill(template, texts)) if texts else []
        for text, ids in zip(texts, all_ids, strict=True):
            if len(ids) > self.max_text_tokens:
                short = text if len(text) <= _SHOWN_LETTERS else f"{text[: _SHOWN_LETTERS - 3]}..."
                worded = "" if template == "{}" else f" when worded as {template!r}"
                raise InputError(
                    f"The text {short!r} has {len(ids)} tokens{worded}, but {self.family} reads at most "
                    f"{self.max_text_tokens}; shorten it."
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
            read = self.read_texts(self.tokenize([texts[i] for i in rows]))
            features[rows] = functional.normalize(read.float(), dim=1)
        return features

    @torch.inference_mode()
    def encode_image(self, pixels: Pixels, *, skipped_blocks: int = 0, half_positions: bool = False) -> Features:
        """Embed square images; float32 features of length 1.

        `skipped_blocks` leaves out so many of the last blocks: the authors' release reads the last but one.
        """
        self.refuse(classifier_skipped_blocks=skipped_blocks, half_position_embeddings=half_positions)
        tokens, _ = self.embed(pixels, half_positions=half_positions)
        for block in self.layers[: self.blocks - skipped_blocks]:
            tokens = run_block(block, tokens)
        return functional.normalize(self.summarize(tokens).float(), dim=1)

    @torch.inference_mode()
    def encode_patches(
        self, pixels: Pixels, *, attention_layers: int, half_positions: bool = False
    ) -> list[PatchFeatures]:
        """Encode the patches of images of one size, any that is a whole number of patches.

        Raises:
            InputError: an image has more patches than attention can hold.
        """
        self.refuse(half_position_embeddings=half_positions)
        tokens, grid_hw = self.embed(pixels, half_positions=half_positions)
        first_averaged = max(self.blocks - attention_layers, 0)
        total: Tensor | None = None
        for depth, block in enumerate(self.layers):
            last_input = tokens
            if depth < first_averaged:
                tokens = run_block(block, tokens)
                continue
            attended, attention = attend_and_average(block, block.norm1(tokens), self.first_patch)
            tokens = finish_block(block, tokens, attended)
            total = attention if total is None else total.add_(attention)
        means = [None] * len(tokens) if total is None else total / (self.blocks - first_averaged)
        return [
            self._describe_patches(grid_hw, own_input[None].clone(), own_tokens[None].clone(), mean)
            for own_input, own_tokens, mean in zip(last_input, tokens, means, strict=True)
        ]

    def _describe_patches(
        self,
        grid_hw: tuple[int, int],
        last_input: Float[Tensor, "1 tokens width"],
        tokens: Float[Tensor, "1 tokens width"],
        attention: Float[Tensor, "p p"] | None,
    ) -> PatchFeatures:
        """Put together what is kept of one image, given its tokens before and after the last block."""
        patches, pooled = self.read_patches(tokens)
        return PatchFeatures(
            grid_hw=grid_hw,
            last_input=last_input,
            activations=self.layers[-1].norm1(last_input)[0, self.first_patch :].float(),
            patches=functional.normalize(patches, dim=1),
            pooled=pooled,
            attention=attention,
        )

    @torch.inference_mode()
    def encode_masks(
        self, images: Sequence[PatchKeys], masks: Sequence[Bool[Tensor, "_ _ _"]]
    ) -> list[Float[Tensor, "_ d"]]:
        """Embed masks on patches, each by a mask token of its own; float32 features of length 1, one row per mask.

        All images must come from `encode_keys` with the same blocks. Their masks share the passes, at most 512 in each.
        """
        passes = _share_passes(images, [self.spread_masks(inside.to(self.device)) for inside in masks])
        features = [functional.normalize(self.read_masks(rows).float(), dim=1) for rows in passes]
        together = torch.cat([*features, torch.zeros(0, self.embed_dim, dtype=torch.float32, device=self.device)])
        return list(torch.split(together, [len(inside) for inside in masks]))

    def pooled_gradient(self, features: PatchFeatures, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        """Average the gradient of <direction, z> with respect to A over the patches, for many directions at once.

        Exact and linear in the directions, which lie in the space of z; float32. See `pull_back`.
        """
        with torch.inference_mode(False), torch.no_grad():  # copies: inference tensors have no gradients
            last_input = features.last_input.clone()
            directions = directions.to(self.device, self.dtype, copy=True)
            return pull_back(self.layers[-1], last_input, self.first_patch, self.pooling(last_input), directions)

    def refuse(self, **settings: object) -> None:
        """Refuse settings, other than their defaults, that make no sense for the family.

        Raises:
            InputError: one that does not; the message holds the reason.
        """
        for name, value in settings.items():
            if value and name in self.refused:
                raise InputError(
                    f"The setting `{name}` makes no sense for {self.family}: {self.refused[name]}; leave it out."
                )


def check_patches(grid_hw: tuple[int, int], patch_px: int) -> None:
    """Refuse more patches than fit into memory, saying which size limit would do; any preset has that setting.

    Raises:
        InputError: there are too many.
    """
    short, side = min(grid_hw), max(grid_hw)
    if short * side <= _MAX_PATCHES:
        return
    fitting = side
    while fitting * math.ceil(short * fitting / side) > _MAX_PATCHES:
        fitting -= 1
    raise InputError(
        f"The image has {short * side:,} patches, but at most {_MAX_PATCHES:,} fit into memory; shrink it, or give "
        f"--set max_side_px={fitting * patch_px} (in Python, max_side_px={fitting * patch_px})."
    )


def interpolate_positions(
    table: Float[Tensor, "positions width"],
    grid_hw: tuple[int, int],
    mode: Literal["bilinear", "bicubic"] = "bilinear",
    *,
    antialias: bool = False,
) -> Float[Tensor, "patches width"]:
    """Interpolate a square table of patches' position embeddings to another grid; float32 where it changes."""
    side = int(len(table) ** 0.5)
    if grid_hw == (side, side):
        return table
    square = table.float().T.reshape(1, -1, side, side)
    resized = functional.interpolate(square, size=grid_hw, mode=mode, align_corners=False, antialias=antialias)
    return resized.flatten(2)[0].T


def pad(ids: Sequence[Sequence[int]], padding: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Pad token ids on the right, to the longest or to a length; also return which of them count, as 1."""
    length = length or max(map(len, ids))
    tokens = torch.full((len(ids), length), padding)
    counts = torch.zeros(len(ids), length, dtype=torch.long)
    for row, one in enumerate(ids):
        tokens[row, : len(one)] = torch.tensor(one, dtype=torch.long)
        counts[row, : len(one)] = 1
    return tokens, counts


def _share_passes(
    images: Sequence[PatchKeys], masks: Sequence[Bool[Tensor, "_ _"]]
) -> list[list[tuple[PatchKeys, Bool[Tensor, "_ _"]]]]:
    """Deal the masks of all images, in order, out to passes of `_MASKS_PER_PASS`; the last one takes what is left."""
    passes: list[list[tuple[PatchKeys, Tensor]]] = []
    room = 0
    for image, of_image in zip(images, masks, strict=True):
        waiting = of_image
        while len(waiting):
            if not room:
                passes.append([])
                room = _MASKS_PER_PASS
            passes[-1].append((image, waiting[:room]))
            waiting, room = waiting[room:], room - len(passes[-1][-1][1])
    return passes
