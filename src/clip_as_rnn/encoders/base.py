"""What the stages ask of a frozen vision-language encoder, as protocols that any model family can fill.

Axes: b images, n texts or directions, d the width of the joint space of images and texts, P = gh * gw patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clip_as_rnn.encoders.preprocess import PreprocessorConfig
from clip_as_rnn.types import Features, Pixels

Tick: TypeAlias = Callable[[int, int], None]  # told how many pieces are done, of how many; what it raises ends the work


def ignore_tick(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchFeatures:
    """What one pass over an image yields for its patches.

    Attributes:
        grid_hw: gh, gw.
        last_input: (1, tokens, width) input of the last block, class token first.
        activations: (P, width) A, the output of the last block's first layer norm at the patches.
        patches: (P, d) tokens after the last block, projected, of length 1.
        pooled: (d,) z, the mean over patches after the last layer norm, projected, not normalized.
        attention: (P, P) mean over heads and over the last layers; None if none was asked for.
    """

    grid_hw: tuple[int, int]
    last_input: Float[Tensor, "1 tokens width"]
    activations: Float[Tensor, "p width"]
    patches: Float[Tensor, "p d"]
    pooled: Float[Tensor, " d"]
    attention: Float[Tensor, "p p"] | None


@dataclass(frozen=True, slots=True, eq=False)
class PatchKeys:
    """What mask tokens need of an image: its patches' keys and values, from the block on in which masks begin to act.

    Attributes:
        grid_hw: gh, gw.
        first_block: in which a mask token is first bound to its mask; L blocks follow, itself included.
        class_token: (width,) before that block; every mask token begins as a copy of it.
        keys, values: L times (1, heads, R + P, head width), as the plain image has them; R registers, which every mask
            sees, come first.
    """

    grid_hw: tuple[int, int]
    first_block: int
    class_token: Float[Tensor, " width"]
    keys: tuple[Float[Tensor, "1 heads keys head_width"], ...]
    values: tuple[Float[Tensor, "1 heads keys head_width"], ...]


@runtime_checkable
class TextEncoder(Protocol):
    """Turns texts into features; a cache of a model's texts is one too."""

    def __call__(self, texts: Sequence[str], tick: Tick = ignore_tick) -> Features:
        """Encode texts: float32 features (n, d) of length 1; raises InputError for a text that is too long.

        `tick` is called before each batch of texts that are not known yet, with how many of those are done.
        """


@runtime_checkable
class VisionLanguageEncoder(Protocol):
    """An encoder of images and texts into one space, on one device in one precision."""

    preprocessor: PreprocessorConfig
    fingerprint: str
    patch_px: int
    logit_scale: float

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""

    @property
    def embed_dim(self) -> int:
        """Dimensions of the space that images and texts share."""

    @property
    def blocks(self) -> int:
        """Number of transformer blocks of the image tower."""

    def check_lengths(self, texts: Sequence[str], template: str = "{}") -> None:
        """Raise InputError if a text, put into the template, is longer than the encoder reads."""

    def encode_text(self, texts: Sequence[str], tick: Tick = ignore_tick) -> Features:
        """Encode texts: float32 features (n, d) of length 1; `tick` is called before each pass."""

    def encode_image(self, pixels: Pixels, *, skipped_blocks: int = 0, half_positions: bool = False) -> Features:
        """Encode square images: float32 features (b, d) of length 1, after all blocks but the last `skipped_blocks`."""


@runtime_checkable
class PatchEncoder(VisionLanguageEncoder, Protocol):
    """An encoder whose patches can be compared with texts."""

    def encode_patches(
        self, pixels: Pixels, *, attention_layers: int, half_positions: bool = False
    ) -> list[PatchFeatures]:
        """Encode images of one size, of whole patches each; attention is the mean over the last `attention_layers`."""


@runtime_checkable
class GradCamEncoder(PatchEncoder, Protocol):
    """A patch encoder through whose last block gradients can be taken."""

    def pooled_gradient(self, features: PatchFeatures, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        """Compute mean_p d<direction, z> / dA_p for every direction, A the activations and z the pooled feature."""


@runtime_checkable
class MaskTokenEncoder(VisionLanguageEncoder, Protocol):
    """An encoder with a class token, of which every mask can have a copy that sees its own patches only."""

    def encode_keys(
        self, pixels: Pixels, *, first_block: int, skipped_blocks: int = 0, half_positions: bool = False
    ) -> list[PatchKeys]:
        """Encode plain images for any number of masks each, after all blocks but the last `skipped_blocks`."""

    def encode_masks(
        self, images: Sequence[PatchKeys], masks: Sequence[Bool[Tensor, "_ _ _"]]
    ) -> list[Float[Tensor, "_ d"]]:
        """Encode the masks of several images: float32 features of length 1, one row per mask."""
