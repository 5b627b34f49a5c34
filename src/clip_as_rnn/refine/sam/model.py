"""A loaded SAM, HQ-SAM or SAM 2 behind one interface: encode an image once, decode any prompts on it.

The image encoder and the mask decoder run in the precision they were loaded in; prompts are embedded in float32, for
half precision would move points and boxes by pixels. No call leaves a trace in the model.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.errors import InputError
from clip_as_rnn.refine.sam.frame import Frame, Preprocessing, place, prepare_pixels
from clip_as_rnn.types import Pixels, RgbImage

Family = Literal["sam", "sam_hq", "sam2"]
_NO_MEMORY = ("allocate memory", "out of memory", "not enough memory")  # on the CPU, on MPS, on Windows' CPU


@dataclass(frozen=True, slots=True, eq=False)
class SamImage:
    """One image as the encoder leaves it.

    Attributes:
        frame: its place in SAM's squares.
        features: what the decoder looks at, (1, d, s, s).
        details: finer features, for HQ-SAM and SAM 2 only.
        unmarked: for a SAM 2 with a memory, its features without the mark that there are no frames before this one.
    """

    frame: Frame
    features: Tensor
    details: tuple[Tensor, ...] = ()
    unmarked: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SamMasks:
    """What SAM answers to n prompts: k masks each.

    Attributes:
        logits: (n, k, h, w) float32, above 0 inside the mask; `Frame.grow_logits` carries them to the image.
        scores: (n, k) float32, the IoU that SAM predicts for each mask; no probability, it may leave [0, 1].
    """

    logits: Float[Tensor, "n k h w"]
    scores: Float[Tensor, "n k"]


class Sam:
    """A loaded model of one of the three families; `load_sam` makes it."""

    def __init__(
        self, model: Any, family: Family, preprocessing: Preprocessing, fingerprint: str, memory: Any = None
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self.memory = memory  # transformers' video model without its encoder, where the weights are those of one
        self.family: Family = family
        self.preprocessing = preprocessing
        self.fingerprint = fingerprint
        self._positions = self._model.get_image_wide_positional_embeddings().to(self.dtype)
        if memory is not None:  # which would compute them in half precision, and so move pixels
            memory.eval().requires_grad_(False)
            memory.get_image_wide_positional_embeddings = lambda: self._positions

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = next(self._model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of encoder and decoder."""
        dtype: torch.dtype = next(self._model.mask_decoder.parameters()).dtype
        return dtype

    def positions_of(self, image: SamImage) -> Float[Tensor, "1 d s s"]:
        """Say where each of SAM 2's features lies, as its memory wants it."""
        encode = self._model.vision_encoder.neck.position_encoding
        positions: Tensor = encode(image.features.shape, self.device, self.dtype)
        return positions

    @torch.inference_mode()
    def encode(self, image: RgbImage) -> SamImage:
        """Pass an image of any size through the encoder.

        Raises:
            InputError: the device has too little memory for this model.
        """
        frame = place((image.shape[0], image.shape[1]), self.preprocessing)
        pixels = prepare_pixels(image, self.preprocessing).to(self.device, self.dtype)
        way_out = "take a smaller SAM, dtype='bfloat16' (--dtype bfloat16) or another device"
        with explain_lack_of_memory(f"the image encoder of this SAM on {self.device}; {way_out}"):
            if self.memory is not None:
                return self._encode_for_memory(frame, pixels)
            embeddings = self._model.get_image_embeddings(pixels)
        if self.family == "sam":
            return SamImage(frame, embeddings)
        if self.family == "sam_hq":
            features, early = embeddings
            return SamImage(frame, features, tuple(early[:1]))  # the decoder looks at the first one alone
        *fine, features = embeddings
        return SamImage(frame, features.to(self.dtype), tuple(fine))

    def _encode_for_memory(self, frame: Frame, pixels: Pixels) -> SamImage:
        """Encode as `get_image_embeddings` does, and keep the features without the mark of a single picture too."""
        flat = self._model.get_image_features(pixels, return_dict=True).fpn_hidden_states  # each hw 1 d
        sizes = self._model.backbone_feature_sizes
        *fine, bare = (one.permute(1, 2, 0).reshape(1, -1, *size) for one, size in zip(flat, sizes, strict=True))
        marked = (bare + self._model.no_memory_embedding.reshape(1, -1, 1, 1)).to(self.dtype)
        return SamImage(frame, marked, tuple(fine), bare)

    @torch.inference_mode()
    def decode_points(self, image: SamImage, points: Shaped[ndarray, "n 2"]) -> SamMasks:
        """Ask for what lies at each of n points (x, y in the image's pixels), all in one decoder batch."""
        positions = image.frame.scale_positions(points)[None, :, None].to(self.device)  # 1 n 1 2
        labels = torch.ones(positions.shape[:3], dtype=torch.int64, device=self.device)
        prompts = {"input_points": positions, "input_labels": labels, "input_boxes": None, "input_masks": None}
        return self._decode(image, prompts, len(points))

    @torch.inference_mode()
    def decode_boxes(self, image: SamImage, boxes: Shaped[ndarray, "n 4"], logits: Float[Tensor, "n s s"]) -> SamMasks:
        """Ask for what lies in each of n boxes (x0, y0, x1, y1 in the image's pixels), as a mask suggests it.

        Args:
            image: an encoded image.
            boxes: one per prompt.
            logits: one per prompt in the square of logits, above 0 where the mask is; SAM's own are within +-20.
        """
        corners = image.frame.scale_positions(boxes.reshape(-1, 2)).reshape(-1, 1, 4).to(self.device)  # n 1 4
        masks = logits[:, None].float().to(self.device)
        prompts = {"input_points": None, "input_labels": None, "input_boxes": corners, "input_masks": masks}
        return self._decode(image, prompts, len(boxes))

    def _decode(self, image: SamImage, prompts: Mapping[str, Tensor | None], count: int) -> SamMasks:
        """Run prompt encoder and decoder; prompts with a mask are rows of a batch, others share one row."""
        with explain_lack_of_memory(f"{count} prompts of SAM at once on {self.device}; lower `sam_prompts_at_once`"):
            sparse, dense = self._model.prompt_encoder(**prompts)
            rows = len(dense)
            outputs = self._model.mask_decoder(
                image_embeddings=image.features.expand(rows, -1, -1, -1),
                image_positional_embeddings=self._positions.expand(rows, -1, -1, -1),
                sparse_prompt_embeddings=sparse.to(self.dtype),
                dense_prompt_embeddings=dense.to(self.dtype),
                multimask_output=True,
                **self._details(image, rows),
            )
        logits, scores = outputs[0].float(), outputs[1].float()  # rows p k s s, rows p k
        if self.family == "sam_hq":  # sorted by score, and HQ-SAM's own decoder returns the best alone
            logits, scores = logits[:, :, :1], scores[:, :, :1]
        return SamMasks(logits.flatten(0, 1), scores.flatten(0, 1))

    def _details(self, image: SamImage, rows: int) -> dict[str, Any]:
        """Name the finer features as the family's decoder calls them."""
        details = [one.expand(rows, -1, -1, -1) for one in image.details]
        if self.family == "sam_hq":
            return {"intermediate_embeddings": details, "hq_token_only": False}
        return {"high_resolution_features": details} if self.family == "sam2" else {}


@contextmanager
def explain_lack_of_memory(what: str) -> Iterator[None]:
    """Turn an allocator's error into one sentence.

    Raises:
        InputError: the memory was too small for `what`, which ends with the way out.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise InputError(f"There is too little memory for {what}.") from error


def masks_of_size(size_hw: tuple[int, int]) -> str:
    """Say what memory is needed for where masks grow to an image's size, and the way out."""
    return f"masks of {size_hw[1]:,} x {size_hw[0]:,} pixels; take a smaller image, or another device"
