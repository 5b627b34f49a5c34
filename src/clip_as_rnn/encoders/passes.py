"""Which images go through an image tower together: those of one size, as many as a pass takes well.

On processors only where it changes no bit. Kernels choose by the shape of what they are given in which order they add
up, and never by its content: so the first images of a shape are encoded together and alone, and what came out decides.
On accelerators images of one size always share a pass, and results may differ by the rounding of batched products.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from clip_as_rnn.types import Pixels

EncodeAlike: TypeAlias = Callable[[Pixels], Sequence[Any]]  # (b, 3, h, w) to b items, one for each image

_PATCHES_ON_PROCESSORS = 512  # in a pass; with more, an image takes as long or longer than alone (docs/scale.md)
_PATCHES_ELSEWHERE = 16_384  # as many as one image may have


class SharedPasses:
    """The passes of one stage through its image tower. Keeps nothing of images but which shapes may share a pass."""

    def __init__(self, patch_px: int, device: torch.device, encode: EncodeAlike) -> None:
        self._patch_px = patch_px
        self._on_processors = device.type == "cpu"
        self._encode = encode
        self._is_exact: dict[tuple[int, ...], bool] = {}  # by the shape of a pass and the threads that compute it

    def encode(self, images: Sequence[Float[Tensor, "1 3 _ _"]]) -> list[Any]:
        """Encode images, those of one size together; return what becomes of each, in the order of the images."""
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            alike[tuple(image.shape)].append(i)
        encoded: dict[int, Any] = {}
        for (*_, height, width), places in alike.items():
            patches = (height // self._patch_px) * (width // self._patch_px)
            room = _PATCHES_ON_PROCESSORS if self._on_processors else _PATCHES_ELSEWHERE
            most = max(1, room // max(1, patches))
            for start in range(0, len(places), most):
                some = places[start : start + most]
                encoded.update(zip(some, self._encode_alike([images[i] for i in some]), strict=True))
        return [encoded[i] for i in range(len(images))]

    def _encode_alike(self, images: Sequence[Float[Tensor, "1 3 h w"]]) -> list[Any]:
        """Encode images of one size in one pass, or one by one where that is not the same to the last bit."""
        shape = (len(images), *images[0].shape[2:], torch.get_num_threads())
        if len(images) == 1 or (self._on_processors and self._is_exact.get(shape) is False):
            return [one for image in images for one in self._encode(image)]
        together = self._encode(torch.cat(list(images)))
        if not self._on_processors or shape in self._is_exact:
            return list(together)
        alone = [one for image in images for one in self._encode(image)]
        self._is_exact[shape] = _same(together, alone)
        return alone


def _same(one: Any, other: Any) -> bool:
    """Compare, to the last bit, what was made of images: tensors, and whatever holds them."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if is_dataclass(one):
        return all(_same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
