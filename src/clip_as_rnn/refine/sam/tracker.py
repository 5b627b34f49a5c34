"""A mask followed from frame to frame by the memory of a SAM 2, as transformers' video model has it.

Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos". Knows no texts, and no direction: frames come in the
order in which they are to be gone through. What SAM saw in a frame when it refined the frame's own masks is used again,
for encoding frames is what costs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from clip_as_rnn.refine.sam.model import Sam, SamImage, explain_lack_of_memory
from clip_as_rnn.refine.sam.refiner import ImageForSam
from clip_as_rnn.types import Mask

Session: TypeAlias = Any  # transformers' Sam2VideoInferenceSession, which older ones lack

_THE_ONE = 0  # each mask has a session of its own: of the frames of one, much is kept
_SURE = 0.5  # share of a pixel of the prompt


@dataclass(frozen=True, slots=True)
class SamTracker:
    """Follows masks through frames that its SAM encodes, a SAM 2 with a memory."""

    sam: Sam

    def follow(self, images: Iterable[ImageForSam], mask: Mask) -> Iterator[Mask | None]:
        """Follow the mask of the first image through the others.

        Yields:
            For each image behind the first one, when it is asked for, its mask at the image's size; None where SAM 2
            sees nothing of it, but it may find it again in later ones.

        Raises:
            InputError: the device has too little memory.
        """
        memory = self.sam.memory
        device = self.sam.device  # also of what is remembered, which would else go to the CPU and back
        session = transformers.Sam2VideoInferenceSession(
            inference_device=device, inference_state_device=device, dtype=self.sam.dtype
        )
        session.obj_id_to_idx(_THE_ONE)
        session.obj_with_new_inputs = [_THE_ONE]
        session.add_mask_inputs(0, 0, prompt_of(mask, self.sam.preprocessing.side_px))
        reach = max(memory.num_maskmem, memory.config.max_object_pointers_in_encoder)
        for number, image in enumerate(images):
            encoded = image.encoded
            logits = self._step(session, number, encoded)
            if number:
                with torch.inference_mode():
                    found = (encoded.frame.grow_logits(logits[0])[0] > 0).cpu().numpy()
                yield found if found.any() else None
            _forget(session, number, reach)

    @torch.inference_mode()
    def _step(self, session: Session, number: int, image: SamImage) -> Float[Tensor, "1 1 s s"]:
        """Let the model look at the next frame; far below 0 throughout where it says that there is nothing."""
        maps = [*image.details, image.unmarked, self.sam.positions_of(image)]
        *features, positions = (one.flatten(2).permute(2, 0, 1) for one in maps if one is not None)  # each hw 1 d
        session.cache.cache_vision_features(number, {"vision_feats": features, "vision_pos_embeds": [positions]})
        way_out = "take a smaller SAM, dtype='bfloat16' (--dtype bfloat16) or another device"
        with explain_lack_of_memory(f"following a mask with this SAM on {self.sam.device}; {way_out}"):
            not_looked_at = torch.empty(0)  # what the encoder would be given
            answer = self.sam.memory(session, frame=not_looked_at, frame_idx=number)
        logits: Tensor = answer.pred_masks
        return logits.float()


def prompt_of(mask: Mask, side_px: int) -> Float[Tensor, "1 1 s s"]:
    """Squeeze a mask into SAM 2's square: 1 where it covers half of a pixel, or as much of one as it ever does.

    An empty mask stays empty.
    """
    soft = interpolate(torch.from_numpy(mask)[None, None].float(), (side_px, side_px), mode="bilinear", antialias=True)
    return ((soft >= min(_SURE, float(soft.max()))) & (soft > 0)).float()


def _forget(session: Session, number: int, reach: int) -> None:
    """Drop what no later frame looks at: a mask of the encoder's size, and all of frames too far back."""
    outputs = session.output_dict_per_obj[0]
    for kept in outputs.values():
        kept.get(number, {}).pop("high_res_masks", None)
    outputs["non_cond_frame_outputs"].pop(number - reach, None)
    session.frames_tracked_per_obj[0].pop(number - reach, None)
    if session.processed_frames is not None:
        session.processed_frames.pop(number, None)
