"""Image towers with a class token: it stands for the image, and every mask can have a copy that sees its patches only.

Registers, further tokens that belong to no patch, stand between the class token and the patches where a family has any.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from clip_as_rnn.encoders.attention import (
    TokenMap,
    attend_inside,
    finish_block,
    join_heads,
    run_attended_block,
    split_heads,
)
from clip_as_rnn.encoders.base import PatchKeys
from clip_as_rnn.encoders.transformer import TransformerEncoder
from clip_as_rnn.types import Pixels


@dataclass(frozen=True, slots=True, eq=False)
class MeanPooling:
    """z as the mean over patches of what each token is projected to."""

    project: TokenMap
    patches: int

    def pull(self, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Leave derivatives as they are: z is itself the sum."""
        return directions

    def pool(self, tokens: Float[Tensor, "b width"], block: slice) -> Float[Tensor, " d"]:
        """Project some patches and add up their shares of the mean."""
        share: Tensor = self.project(tokens).mean(0) * ((block.stop - block.start) / self.patches)
        return share


class ClassTokenEncoder(TransformerEncoder):
    """An encoder whose image tower has a class token, first among the tokens."""

    @abstractmethod
    def project(self, tokens: Float[Tensor, "*n width"]) -> Float[Tensor, "*n d"]:
        """Turn tokens after a block into features, each by itself: the last layer norm, and a projection if any."""

    def summarize(self, tokens: Float[Tensor, "b tokens width"]) -> Float[Tensor, "b d"]:
        """Take the class token's feature."""
        return self.project(tokens[:, 0])

    def pooling(self, last_input: Float[Tensor, "1 tokens width"]) -> MeanPooling:
        """Pool patches by their mean."""
        return MeanPooling(self.project, last_input.shape[1] - self.first_patch)

    @torch.inference_mode()
    def encode_keys(
        self, pixels: Pixels, *, first_block: int, skipped_blocks: int = 0, half_positions: bool = False
    ) -> list[PatchKeys]:
        """Pass plain images, and keep their patches' keys and values from block `first_block` on, for mask tokens.

        What comes after the keys of the last block is no patch's business, and is not computed.
        """
        self.refuse(classifier_skipped_blocks=skipped_blocks, half_position_embeddings=half_positions)
        tokens, grid_hw = self.embed(pixels, half_positions=half_positions)
        blocks = self.layers[: self.blocks - skipped_blocks]
        kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in tokens]
        for depth, block in enumerate(blocks):
            heads = split_heads(block, block.norm1(tokens))
            if depth == first_block:
                class_tokens = tokens[:, 0].clone()  # a view would keep all tokens
            if depth >= first_block:
                for i, of_image in enumerate(kept):
                    key, value = (one[i : i + 1, :, 1:].clone() for one in heads[1:])  # 0 is the class token
                    of_image.append((key, value))
            if depth < len(blocks) - 1:
                tokens = run_attended_block(block, tokens, heads)
        return [
            PatchKeys(grid_hw, first_block, class_token, *zip(*of_image, strict=True))
            for class_token, of_image in zip(class_tokens, kept, strict=True)
        ]

    def spread_masks(self, masks: Bool[Tensor, "n gh gw"]) -> Bool[Tensor, "n keys"]:
        """Lay masks out over the tokens that have keys: every mask sees the registers."""
        return functional.pad(masks.flatten(1), (self.first_patch - 1, 0), value=True)

    def read_masks(self, rows: Sequence[tuple[PatchKeys, Bool[Tensor, "_ _"]]]) -> Float[Tensor, "n d"]:
        """Run mask tokens through the blocks side by side; only their attention is each image's own.

        A mask token is a copy of the class token that attends to itself, to registers and to the patches inside its
        mask, while patches and class token never see one (MasQCLIP, ICCV 2023; ODISE, CVPR 2023: mask class tokens). A
        full mask has the feature of the plain image; of a mask without a patch nothing but the class token, and the
        registers, is left.
        """
        counts = [len(inside) for _, inside in rows]
        tokens = torch.cat([image.class_token.expand(1, len(inside), -1) for image, inside in rows], dim=1)
        first = rows[0][0].first_block
        for i, block in enumerate(self.layers[first : first + len(rows[0][0].keys)]):
            heads = split_heads(block, block.norm1(tokens))
            by_image = zip(*(torch.split(one, counts, dim=2) for one in heads), rows, strict=True)
            attended = [
                attend_inside((query, key, value), image.keys[i], image.values[i], inside)
                for query, key, value, (image, inside) in by_image
            ]
            tokens = finish_block(block, tokens, join_heads(block, torch.cat(attended, dim=2)))
        return self.project(tokens[0])
