"""Refinement by SAM, optional: masks that follow edges better than a dense CRF can draw them."""

from clip_as_rnn.refine.sam.boxes import suppress_boxes
from clip_as_rnn.refine.sam.matching import match_masks

__all__ = ["match_masks", "suppress_boxes"]
