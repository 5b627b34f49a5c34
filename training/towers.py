"""The two towers of a CLIP, written lean for training: the same arithmetic as transformers' `CLIPModel`.

Queries, keys and values are one matrix here and three in the exported model; `export` splits them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_WIDTH = 64
TEXT_POSITIONS = 77


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSize:
    """The sizes of a CLIP; both towers share one width."""

    width: int = 192
    vision_layers: int = 6
    text_layers: int = 4
    patch_px: int = 12
    image_px: int = 192
    vocabulary: int = 1024

    @property
    def grid(self) -> int:
        """Return how many patches there are along each side of a square image."""
        return self.image_px // self.patch_px


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What the losses need of a batch of images: unit vectors of the joint space, but for the last."""

    patches: Tensor  # (b, grid_h * grid_w, d)
    mean: Tensor  # (b, d), of the mean over the patch tokens
    cls: Tensor  # (b, d)
    early_cls: Tensor  # (b, d), as if the last block were missing
    last_input: Tensor  # (b, 1 + patches, width), what enters the last block; the only part of another space
    masks: Tensor | None = None  # (b, m, d), what mask tokens say of their masks


class Block(nn.Module):
    """One transformer block, pre-norm, with quick-GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(
        self, x: Tensor, bias: Tensor | None = None, shift: Tensor | None = None, inside: Tensor | None = None
    ) -> Tensor:
        """Map tokens (b, t, width); `bias` (t, t) is added to the attention's logits, `shift` to what it looks at.

        `inside` (b, m, patches) bool: the last m tokens are mask tokens, and see themselves and these patches.
        """
        seen = self.norm1(x) if shift is None else self.norm1(x) + shift
        qkv = self.qkv(seen)
        if inside is None:
            attended = _attend(qkv, bias)
        else:
            attended = torch.cat([_attend(qkv[:, : -inside.shape[1]], bias), _attend_inside(qkv, inside)], 1)
        x = x + self.out(attended)
        hidden = self.up(self.norm2(x))
        return x + self.down(hidden * torch.sigmoid(1.702 * hidden))


def _heads(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, t, three_width = qkv.shape
    q, k, v = qkv.view(b, t, 3, three_width // (3 * HEAD_WIDTH), HEAD_WIDTH).permute(2, 0, 3, 1, 4)  # each b h t 64
    return q * HEAD_WIDTH**-0.5, k, v


def _attend_inside(qkv: Tensor, inside: Tensor) -> Tensor:
    """Let each of the last m tokens see itself and the patches inside its mask, as the package's mask tokens do."""
    m = inside.shape[1]
    q, k, v = _heads(qkv)
    q, own_k, own_v, patches = q[:, :, -m:], k[:, :, -m:], v[:, :, -m:], slice(1, -m)
    to_patches = (q @ k[:, :, patches].transpose(-1, -2)).masked_fill(~inside[:, None], -1e4)  # b h m p
    shares = torch.cat([(q * own_k).sum(-1, keepdim=True), to_patches], -1).softmax(-1)
    attended = shares[..., :1] * own_v + shares[..., 1:] @ v[:, :, patches]
    return attended.transpose(1, 2).flatten(2)


def _attend(qkv: Tensor, bias: Tensor | None) -> Tensor:
    # Explicit products: in bfloat16 on a CPU the fused kernel makes a training step twice as slow.
    q, k, v = _heads(qkv)
    logits = q @ k.transpose(-1, -2)  # b h t t
    if bias is not None:
        logits = logits + bias
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


class VisionTower(nn.Module):
    """Image to patch and class tokens; any size whose sides are multiples of the patch."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.patch_px = size.patch_px
        self.grid = size.grid
        width = size.width
        self.patch = nn.Linear(3 * size.patch_px**2, width, bias=False)
        self.cls = nn.Parameter(torch.randn(width) * width**-0.5)
        self.position = nn.Parameter(torch.randn(1 + size.grid**2, width) * 0.02)
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(size.vision_layers))
        self.norm_post = nn.LayerNorm(width)
        self.project = nn.Linear(width, width, bias=False)

    def forward(self, images: Tensor, inside: Tensor | None = None) -> ImageFeatures:
        """Encode normalized images (b, 3, h, w), and masks of patches (b, m, patches) bool, if there are any."""
        p = self.patch_px
        b, _, h, w = images.shape
        grid_hw = (h // p, w // p)
        cut = images.view(b, 3, grid_hw[0], p, grid_hw[1], p).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, 3 * p * p)
        tokens = self.patch(cut)  # b gh*gw width
        x = torch.cat([self.cls.to(tokens.dtype).expand(b, 1, -1), tokens], 1) + self.positions(grid_hw).to(
            tokens.dtype
        )
        x = self.norm_pre(x)
        if inside is not None:
            x = torch.cat([x, x[:, :1].expand(-1, inside.shape[1], -1)], 1)
        for block in self.blocks[:-1]:
            x = block(x, inside=inside)
        ordinary = 1 + tokens.shape[1]
        last_input = x[:, :ordinary]
        x = self.norm_post(self.blocks[-1](x, inside=inside))
        patches = x[:, 1:ordinary]
        return ImageFeatures(
            patches=self._embed(patches),
            mean=self._embed(patches.mean(1)),
            cls=self._embed(x[:, 0]),
            early_cls=self._embed(self.norm_post(last_input[:, 0])),
            last_input=last_input,
            masks=None if inside is None else self._embed(x[:, ordinary:]),
        )

    def positions(self, grid_hw: tuple[int, int]) -> Tensor:
        """Interpolate the position embeddings bilinearly to another grid: (1 + gh*gw, width)."""
        if grid_hw == (self.grid, self.grid):
            return self.position
        square = self.position[1:].T.view(1, -1, self.grid, self.grid)
        resized = functional.interpolate(square, size=grid_hw, mode="bilinear", align_corners=False)
        return torch.cat([self.position[:1], resized[0].flatten(1).T])

    def _embed(self, tokens: Tensor) -> Tensor:
        return functional.normalize(self.project(tokens).float(), dim=-1)


class TextTower(nn.Module):
    """Token numbers to one vector: the token at the first end-of-text mark, causal attention."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.token = nn.Embedding(size.vocabulary, size.width)
        self.position = nn.Parameter(torch.randn(TEXT_POSITIONS, size.width) * 0.01)
        self.blocks = nn.ModuleList(Block(size.width) for _ in range(size.text_layers))
        self.norm_post = nn.LayerNorm(size.width)
        self.project = nn.Linear(size.width, size.width, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode (n, t) token numbers, padded with the end-of-text mark, to unit vectors (n, d)."""
        t = tokens.shape[1]
        x = self.token(tokens) + self.position[:t]
        causal = torch.full((t, t), -1e4, device=tokens.device, dtype=x.dtype).triu(1)
        for block in self.blocks:
            x = block(x, causal)
        end = (tokens == self.token.num_embeddings - 1).int().argmax(1)
        x = self.norm_post(x[torch.arange(len(x), device=x.device), end])
        return functional.normalize(self.project(x).float(), dim=-1)


class Clip(nn.Module):
    """Both towers and the logit scale."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.size = size
        self.vision = VisionTower(size)
        self.text = TextTower(size)
        self.log_scale = nn.Parameter(torch.tensor(2.6592))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02 if module.in_features < 700 else 0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for tower in (self.vision, self.text):
            nn.init.normal_(tower.project.weight, std=size.width**-0.5)

    @property
    def scale(self) -> Tensor:
        """Return the factor on cosines, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)
