"""The glossary of arrays: one name per kind of tensor, with its shape.

The checks run in the tests only, where jaxtyping and beartype watch every call.
Axes: n texts, h and w pixels, gh and gw patches, d the width of CLIP's joint space.
"""

from collections.abc import Sequence
from typing import TypeAlias

from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

RgbImage: TypeAlias = UInt8[ndarray, "h w 3"]  # sRGB, row by row
ResizedImage: TypeAlias = UInt8[ndarray, "H W 3"]  # the same at another size
RgbImages: TypeAlias = Sequence[UInt8[ndarray, "_ _ 3"]]  # each of a size of its own
Pixels: TypeAlias = Float[Tensor, "b 3 H W"]  # normalized and sized as the CLIP at hand wants them
Features: TypeAlias = Float[Tensor, "n d"]  # of length 1
PatchMaps: TypeAlias = Float[Tensor, "n gh gw"]  # one value per patch
SoftMasks: TypeAlias = Float[Tensor, "n h w"]  # in [0, 1], one per text
Mask: TypeAlias = Bool[ndarray, "h w"]
Masks: TypeAlias = Bool[ndarray, "n h w"]
Scores: TypeAlias = Float[ndarray, " n"]  # in [0, 1]
LabelMap: TypeAlias = Int[ndarray, "h w"]  # 0 is background
TextIndices: TypeAlias = Int[ndarray, " k"]  # positions among the queries, ascending
Rows: TypeAlias = Int[ndarray, " k"]  # positions among the active texts of a step, ascending
