"""The values of the page's viewers: numbers, words and small pictures in one JSON value.

Pictures travel inside the value (data URLs), so that nothing of a visitor lies about in files for the page to fetch.
"""

import base64
import io
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from clip_as_rnn.result import Refinement, Segmentation, Step
from clip_as_rnn.types import Masks, RgbImage
from clip_as_rnn.visualization.colors import colors, dim, heat, heat_opacity
from clip_as_rnn.visualization.overlay import fit_long_side

_RESULT_PX = (320, 1024)  # the long side
_STEP_PX = (160, 320)
_JPEG_QUALITY = 88
_LAYER_ALPHA = 190
_NO_COLOR = np.full(3, 255, np.uint8)  # of a text whose mask others took away


def result_payload(image: RgbImage, segmentation: Segmentation) -> dict[str, Any]:
    """Describe the picture, the masks over it, and what became of every text, in the order asked.

    A mask is a black-and-white picture of the size of the shown one; colors are those of the overlay.
    """
    shown = fit_long_side(image, *_RESULT_PX)
    masks = segmentation.resize_masks(shown.shape[:2])
    shares = [float(mask.mean()) for mask in segmentation.each_mask()]
    palette = colors(len(segmentation.texts))
    found = [
        {
            "text": text,
            "score": round(float(score), 4),
            "share": round(shares[i], 4),
            "color": "#" + bytes(palette[i]).hex(),
            "mask": _encode(Image.fromarray(mask), "png"),
        }
        for i, (text, score, mask) in enumerate(zip(segmentation.texts, segmentation.scores, masks, strict=True))
    ]
    rejected = [
        {"text": one.text, "step": one.step, "score": round(one.score, 4), "reason": one.reason}
        for one in segmentation.rejections
    ]
    size = {"width": shown.shape[1], "height": shown.shape[0]}
    return {**size, "image": _encode(Image.fromarray(shown), "jpeg"), "found": found, "rejected": rejected}


def steps_payload(image: RgbImage, segmentation: Segmentation) -> dict[str, Any]:
    """Describe every step: each text left, where it was proposed as a heat map, its score, and what became of it.

    Where SAM looked at the masks, `refined` says of each text what it saw and what was decided.
    """
    shown = fit_long_side(image, *_STEP_PX)
    steps = segmentation.trace.steps if segmentation.trace else ()
    palette = dict(zip(segmentation.texts, colors(len(segmentation.texts)), strict=True))
    return {
        "image": _encode(Image.fromarray(dim(shown)), "jpeg"),
        "width": shown.shape[1],
        "height": shown.shape[0],
        "steps": [_step_payload(number, step, segmentation) for number, step in enumerate(steps, 1)],
        "refined": [
            _refinement_payload(text, decision, palette.get(text, _NO_COLOR))
            for text, decision in segmentation.refinements.items()
        ],
    }


def _step_payload(number: int, step: Step, segmentation: Segmentation) -> dict[str, Any]:
    reasons = {one.text: one.reason for one in segmentation.rejections if one.step == number}
    maps = step.maps.float().cpu().numpy()
    cells = [
        {
            "text": text,
            "score": round(float(step.scores[i]), 4),
            "kept": text not in reasons,
            "reason": reasons.get(text, ""),
            "heat": _encode(_heat_map(maps[i]), "png"),
        }
        for i, text in enumerate(step.texts)
    ]
    return {"number": number, "cells": cells}


def _refinement_payload(text: str, decision: Refinement, color: UInt8[ndarray, "3"]) -> dict[str, Any]:
    """Describe what SAM saw in one mask's place: its mask before, SAM's, each in its own color, and its mask after."""
    layers = {}
    if pictures := decision.pictures:
        order = np.argsort(-pictures.candidates.sum((1, 2)), kind="stable")  # the small ones on top
        layers = {
            "before": _layer(pictures.before[None], color[None]),
            "SAM": _layer(pictures.candidates[order], colors(len(order))[order]),
            "after": _layer(pictures.after[None], color[None]),
        }
    drawn = [{"name": name, "layer": _encode(layer, "png")} for name, layer in layers.items()]
    return {"text": text, "replaced": decision.replaced, "reason": decision.reason, "pictures": drawn}


def _layer(masks: Masks, palette: UInt8[ndarray, "n 3"]) -> Image.Image:
    """Draw masks for the browser to lay over the picture, later ones over earlier ones; transparent elsewhere."""
    pixels = np.zeros((*masks.shape[1:], 4), np.uint8)
    for mask, color in zip(masks, palette, strict=True):
        pixels[mask] = (*color, _LAYER_ALPHA)
    return Image.fromarray(pixels)


def _heat_map(proposal: Float[ndarray, "h w"]) -> Image.Image:
    """Color a proposal, one pixel per patch: the cooler, the more transparent. The browser enlarges it."""
    opacity = np.round(255 * heat_opacity(proposal)).astype(np.uint8)
    return Image.fromarray(np.dstack([heat(proposal), opacity]))


def data_url(content: bytes, format_: str) -> str:
    """Write the content of a picture's file as a URL that holds all of it."""
    return f"data:image/{format_};base64,{base64.b64encode(content).decode('ascii')}"


def _encode(picture: Image.Image, format_: str) -> str:
    file = io.BytesIO()
    picture.save(file, format=format_, quality=_JPEG_QUALITY)
    return data_url(file.getvalue(), format_)
