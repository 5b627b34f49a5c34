"""The last stage with SAM: masks after the dense CRF in, masks that follow SAM's edges out, where both agree."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from clip_as_rnn.refine.sam.automatic import AutomaticMasks, AutomaticRules, generate_masks
from clip_as_rnn.refine.sam.mask_cache import cache_name, read_masks, write_masks
from clip_as_rnn.refine.sam.matching import Candidates, Match, MatchRules, join, judge, match_each
from clip_as_rnn.refine.sam.model import Sam, SamImage
from clip_as_rnn.refine.sam.prompts import Answers, Prompt, ask, make_prompts, split_parts
from clip_as_rnn.refine.sam.runs import decode_runs, run_lengths
from clip_as_rnn.refine.sam.text_masks import TextMasks
from clip_as_rnn.result import Refinement, RefinementPictures
from clip_as_rnn.types import LabelMap, Mask, Masks, RgbImage, Scores, SoftMasks

_PICTURE_SIDE_PX = 320  # of the masks kept for a trace


@dataclass(frozen=True, slots=True)
class SamRules:
    """How masks are refined.

    Attributes:
        way: "automatic" as in the paper: all of SAM's masks, matched; "prompts": SAM is asked about each mask.
        matching: what belongs to a mask, and when it replaces it; with prompts the last alone counts.
        automatic: the grid of the automatic masks and their filters.
        parts: at most that many connected parts of a mask are asked about.
        at_once: prompts or points in one decoder batch; changes memory and time alone.
    """

    way: Literal["prompts", "automatic"]
    matching: MatchRules
    automatic: AutomaticRules
    parts: int
    at_once: int


class ImageForSam:
    """One image, which SAM looks at when it is first asked about, and once."""

    def __init__(self, pixels: RgbImage, sam: Sam, find_all: Callable[["ImageForSam"], AutomaticMasks]) -> None:
        self.pixels = pixels
        self._sam = sam
        self._find_all = find_all

    @cached_property
    def encoded(self) -> SamImage:
        """Pass the image through SAM's encoder."""
        return self._sam.encode(self.pixels)

    @cached_property
    def all_masks(self) -> AutomaticMasks:
        """Find everything in the image."""
        return self._find_all(self)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One image, the masks found in it as given (`coarse`) and at its size, and the texts to refine, the best last."""

    image: ImageForSam
    coarse: TextMasks
    masks: TextMasks
    order: tuple[int, ...]
    probabilities: SoftMasks | None


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A text whose prompts wait for the decoder: `count` of them from the `first`, and its parts not asked about."""

    text: int
    first: int
    count: int
    rest: Int[ndarray, " r"]  # run lengths: whole masks of 32 texts of a large photo would not fit into memory


@dataclass(frozen=True, slots=True)
class SamRefiner:
    """Replaces masks by what SAM sees in their place, where the two agree.

    Two refiners are equal if the same SAM works by the same rules: what one has seen in an image serves the other.
    """

    sam: Sam
    rules: SamRules
    cache: Path | None = None

    def encode_image(self, image: RgbImage) -> ImageForSam:
        """Take an image of any size; SAM's work is put off until a mask needs it."""
        return ImageForSam(image, self.sam, self._find_all)

    def refine(
        self,
        image: ImageForSam,
        found: LabelMap | Masks,
        scores: Scores,
        *,
        probabilities: SoftMasks | None = None,
        trace: bool = False,
    ) -> tuple[Int[ndarray, "H W"] | Bool[ndarray, "n H W"], dict[int, Refinement]]:
        """Refine the masks of one image; empty ones stay empty, and those that SAM disagrees with stay as they are.

        Args:
            image: what `encode_image` made of it, at its full size.
            found: a label map, or masks that may overlap, at the image's size or at any other.
            scores: one per text. In a label map the text with the higher score keeps a pixel that two masks claim, of
                equals the later one, as `Segmentation.label_map` paints.
            probabilities: of each text at each pixel, as the CRF leaves them, at the size of `found`; None: there was
                no CRF, and the masks themselves are shown to SAM.
            trace: keep small pictures of what was decided.

        Returns:
            A label map or masks, as given, at the image's size; and what was decided about each mask that is not
            empty, by its text's place.

        Raises:
            InputError: the device has too little memory.
        """
        coarse = TextMasks(found, len(scores))
        masks = coarse.grow(image.size_hw)
        areas = masks.areas()
        order = tuple(int(i) for i in np.argsort(scores, kind="stable") if areas[i])
        refined = np.zeros_like(masks.found)
        decided = {}
        for i, match, candidates in self._match(_Job(image, coarse, masks, order, probabilities)):
            before = masks[i]
            after = match.union if match is not None and match.replaces else before
            if masks.is_label_map:
                refined[after] = i + 1
            else:
                refined[i] = after
            decided[i] = self._explain(match)
            if trace and match is not None:
                shown = (candidates[j] for j in match.indices)
                decided[i] = replace(decided[i], pictures=_picture(before, after, shown))
        return refined, decided

    def _match(self, job: _Job) -> Iterator[tuple[int, Match | None, Candidates]]:
        """Find for one text after the other what could replace its mask; None where SAM has nothing to offer."""
        if not job.order:
            return
        if self.rules.way == "prompts":
            yield from self._match_answers(job)
            return
        candidates = job.image.all_masks
        if len(candidates) == 0:
            yield from ((i, None, candidates) for i in job.order)
            return
        for i, match in match_each(job.masks, candidates, self.rules.matching, job.order):
            yield i, match, candidates

    def _match_answers(self, job: _Job) -> Iterator[tuple[int, Match, Candidates]]:
        """Ask SAM about the masks, in batches of prompts; what was not asked about joins the answers as it is."""
        encoded = job.image.encoded
        waiting: list[_Waiting] = []
        prompts: list[Prompt] = []
        for position, i in enumerate(job.order):
            parts = split_parts(job.coarse[i], self.rules.parts)
            waiting.append(_Waiting(i, len(prompts), len(parts.asked), run_lengths(parts.rest)))
            prompts += make_prompts(parts, self._soft(job, i), encoded.frame)
            if len(prompts) >= self.rules.at_once or position == len(job.order) - 1:
                has_odds = job.probabilities is not None
                answers = ask(self.sam, encoded, prompts, log_odds=has_odds, at_once=self.rules.at_once)
                for one in waiting:
                    yield one.text, self._judge_answers(job, one, answers), answers
                waiting, prompts = [], []

    def _judge_answers(self, job: _Job, waiting: _Waiting, answers: Answers) -> Match:
        indices = tuple(range(waiting.first, waiting.first + waiting.count))
        rest = TextMasks(decode_runs(waiting.rest, job.coarse.size_hw)[None], 1).grow(job.masks.size_hw)[0]
        union = join(answers, indices) | rest
        return judge(job.masks[waiting.text], union, indices, self.rules.matching.iou_threshold)

    def _soft(self, job: _Job, index: int) -> Float[ndarray, "h w"]:
        """Take the soft mask of one text: its probabilities, or the mask itself."""
        if job.probabilities is None:
            return job.coarse[index].astype(np.float32)
        return np.asarray(job.probabilities[index].float().cpu())

    def _find_all(self, image: ImageForSam) -> AutomaticMasks:
        """Find everything in an image, or read it from the disk."""
        file = self.cache / cache_name(self.sam, image.pixels, self.rules.automatic) if self.cache else None
        known = read_masks(file, image.size_hw) if file else None
        if known is not None:
            return known
        masks = generate_masks(self.sam, image.encoded, self.rules.automatic, points_at_once=self.rules.at_once)
        if file:
            write_masks(file, masks)
        return masks

    def _explain(self, match: Match | None) -> Refinement:
        if match is None:
            return Refinement(replaced=False, iou=0.0, reason="kept: SAM found no mask in this image")
        threshold = self.rules.matching.iou_threshold
        if threshold is None:
            return Refinement(replaced=True, iou=match.iou, reason=f"replaced, IoU {match.iou:.2f}, no gate")
        verdict = f"replaced: IoU {match.iou:.2f} above" if match.replaces else f"kept: IoU {match.iou:.2f} not above"
        return Refinement(replaced=match.replaces, iou=match.iou, reason=f"{verdict} {threshold:g}")


def _picture(before: Mask, after: Mask, candidates: Iterable[Mask]) -> RefinementPictures:
    """Keep every so many-th pixel of what was decided about one mask."""
    step = ceil(max(before.shape) / _PICTURE_SIDE_PX)
    small = [one[::step, ::step] for one in candidates]
    return RefinementPictures(before[::step, ::step].copy(), np.stack(small), after[::step, ::step].copy())
