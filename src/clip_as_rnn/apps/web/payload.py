"""The values of the page's viewers: numbers, words and small pictures in one JSON value.

Pictures travel inside the value (data URLs), so that nothing of a visitor lies about in files for the page to fetch.
"""

import base64
import io
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from clip_as_rnn.ops import resize_nearest
from clip_as_rnn.result import Segmentation, Step
from clip_as_rnn.types import RgbImage
from clip_as_rnn.visualization.colors import colors, dim, heat, heat_opacity
from clip_as_rnn.visualization.overlay import fit_long_side

_RESULT_PX = (320, 1024)  # the long side
_STEP_PX = (160, 320)
_JPEG_QUALITY = 88


def result_payload(image: RgbImage, segmentation: Segmentation) -> dict[str, Any]:
    """Describe the picture, the masks over it, and what became of every text, in the order asked.

    A mask is a black-and-white picture of the size of the shown one; colors are those of the overlay.
    """
    shown = fit_long_side(image, *_RESULT_PX)
    masks = resize_nearest(segmentation.masks, shown.shape[:2])
    palette = colors(len(segmentation.texts))
    found = [
        {
            "text": text,
            "score": round(float(score), 4),
            "share": round(float(segmentation.masks[i].mean()), 4),
            "color": "#" + bytes(palette[i]).hex(),
            "mask": _encode(Image.fromarray(masks[i]), "png"),
        }
        for i, (text, score) in enumerate(zip(segmentation.texts, segmentation.scores, strict=True))
    ]
    rejected = [
        {"text": one.text, "step": one.step, "score": round(one.score, 4), "reason": one.reason}
        for one in segmentation.rejections
    ]
    size = {"width": shown.shape[1], "height": shown.shape[0]}
    return {**size, "image": _encode(Image.fromarray(shown), "jpeg"), "found": found, "rejected": rejected}


def steps_payload(image: RgbImage, segmentation: Segmentation) -> dict[str, Any]:
    """Describe every step: each text left, where it was proposed as a heat map, its score, and what became of it."""
    shown = fit_long_side(image, *_STEP_PX)
    steps = segmentation.trace.steps if segmentation.trace else ()
    return {
        "image": _encode(Image.fromarray(dim(shown)), "jpeg"),
        "width": shown.shape[1],
        "height": shown.shape[0],
        "steps": [_step_payload(number, step, segmentation) for number, step in enumerate(steps, 1)],
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
