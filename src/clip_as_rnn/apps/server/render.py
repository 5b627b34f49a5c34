"""From an answer of the segmenter to the JSON of each endpoint."""

import base64
import io
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from clip_as_rnn.apps.server.jobs import Answer
from clip_as_rnn.export.provenance import describe_provenance
from clip_as_rnn.ops import encode_rle
from clip_as_rnn.result import Step


def hugging_face_rows(answer: Answer, threshold: float) -> list[dict[str, Any]]:
    """List what scores at least `threshold` as Hugging Face's image segmentation does: label, score, mask as PNG."""
    found = answer.segmentation
    return [
        {"label": text, "score": float(score), "mask": _png(mask.astype(np.uint8) * 255)}
        for text, score, mask in zip(found.texts, found.scores, found.each_mask(), strict=True)
        if score >= threshold
    ]


def full_response(answer: Answer, masks: Literal["rle", "png", "none"], preset: str) -> dict[str, Any]:
    """Describe all that is known: found, rejected and why, steps if there is a trace, seconds, settings, models."""
    segmentation = answer.segmentation
    height, width = segmentation.size_hw
    rows = zip(segmentation.texts, segmentation.scores, segmentation.boxes.tolist(), strict=True)
    found = []
    for label, ((text, score, box), mask) in enumerate(zip(rows, segmentation.each_mask(), strict=True), 1):
        x0, y0, x1, y1 = box
        row = {"text": text, "label": label, "score": float(score)}
        row |= {"area_px": int(mask.sum()), "box_xywh": [x0, y0, x1 - x0, y1 - y0]}
        if masks == "rle":
            row["rle"] = encode_rle(mask)
        elif masks == "png":
            row["png"] = _png(mask.astype(np.uint8) * 255)
        found.append(row)
    return {
        "size": {"width": width, "height": height},
        "queries": list(segmentation.queries),
        "found": found,
        "rejected": [asdict(rejection) for rejection in segmentation.rejections],
        "notes": list(answer.notes),
        "steps": None if segmentation.trace is None else [_step(step) for step in segmentation.trace.steps],
        "seconds": dict(segmentation.seconds),
        **describe_provenance(preset, answer.segmenter),
    }


def _step(step: Step) -> dict[str, Any]:
    maps = np.round(255 * step.maps.float().cpu().numpy().clip(0, 1)).astype(np.uint8)
    return {
        "texts": list(step.texts),
        "scores": [float(score) for score in step.scores],
        "kept": list(step.kept),
        "proposals": [_png(one) for one in maps],
    }


def _png(gray: UInt8[ndarray, "h w"]) -> str:
    """Encode a picture; fast rather than small, for masks are mostly of one color."""
    file = io.BytesIO()
    Image.fromarray(gray).save(file, format="PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")
