"""The frames of a window go through the recurrence side by side, and its two steps look across them.

Proposals are smoothed along the motion before they are classified; scores are pooled over time before they decide, with
hysteresis, which texts a frame keeps. What the last frames of a window know is remembered for the next one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.config import SegmenterConfig, VideoConfig
from clip_as_rnn.precision import own_precision
from clip_as_rnn.state import EncodedImage, State
from clip_as_rnn.temporal.evidence import find_peaks, hold, pool_scores, scale_odds
from clip_as_rnn.temporal.motion import Trace, coarsen_traces, trace_motion
from clip_as_rnn.temporal.smoothing import smooth_frame, smooth_maps
from clip_as_rnn.types import RgbImage

AnyScores: TypeAlias = Float[ndarray, " _"]  # of one of several frames, each with texts of its own
AnyRows: TypeAlias = Int[ndarray, " _"]


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What the k last frames before a window leave to it; columns belong to the n queries.

    Attributes:
        images: as the encoders were given them.
        maps: the last proposals.
        held: whether a text was proposed there to the last.
        scores: as the classifier gave them.
        kept: the texts of the very last frame.
    """

    images: Sequence[RgbImage]
    maps: Float[Tensor, "k n gh gw"]
    held: Bool[ndarray, "k n"]
    scores: Float[ndarray, "k n"]
    kept: Bool[ndarray, " n"]


def cut_windows(frames: Iterator[EncodedImage], config: VideoConfig) -> Iterator[tuple[list[EncodedImage], int, bool]]:
    """Cut a clip into windows that reach `context_frames` into what follows them.

    Yields:
        The frames of a window, how many of them are done with it, and whether it continues the one before: a frame of
        another size begins anew.
    """
    held: list[EncodedImage] = []
    continues = False
    upcoming = next(frames, None)
    while held or upcoming is not None:
        while upcoming is not None and len(held) < config.window_frames and _is_alike(held, upcoming):
            held.append(upcoming)
            upcoming = next(frames, None)
        is_last = upcoming is None or not _is_alike(held, upcoming)
        done = len(held) if is_last else max(1, len(held) - config.context_frames)
        yield held, done, continues
        held, continues = held[done:], not is_last


def _is_alike(held: Sequence[EncodedImage], frame: EncodedImage) -> bool:
    return not held or held[0].pixels.shape == frame.pixels.shape


class Window:
    """The states of a window's frames, in order, behind those frames that are remembered."""

    @own_precision()
    def __init__(self, states: Sequence[State], config: SegmenterConfig, before: Memory | None = None) -> None:
        self._config = config
        self._queries = len(states[0].texts.queries)
        self._past = 0 if before is None else len(before.images)
        self._places = {id(state): t for t, state in enumerate(states, start=self._past)}
        self._images = [*(before.images if before else ()), *(state.image.resized for state in states)]
        size = (len(self._images), self._queries)
        self._scores: Float[ndarray, "t n"] = np.zeros(size, np.float32)
        self._held: Bool[ndarray, "t n"] = np.zeros(size, bool)
        self._kept: Bool[ndarray, "t n"] = np.zeros(size, bool)
        self._maps = torch.zeros(*size, 0, 0, dtype=torch.float32)
        if before is not None:
            self._maps = torch.zeros(*size, *before.maps.shape[2:], dtype=torch.float32)
            past = slice(self._past)
            self._maps[past], self._scores[past], self._held[past] = before.maps, before.scores, before.held
            self._kept[self._past - 1] = before.kept

    @cached_property
    def _traces(self) -> list[Mapping[int, Trace]]:
        """The motion of all frames, found once for all steps, on a grid finer than that of patches."""
        video, (height, width) = self._config.video, self._maps.shape[2:]
        grid_hw = (height * video.smooth_scale, width * video.smooth_scale)
        return trace_motion(self._images, grid_hw, video.context_frames)

    @cached_property
    def _patch_traces(self) -> list[Mapping[int, Trace]]:
        """The same for whole patches."""
        scale = self._config.video.smooth_scale
        return [coarsen_traces(traces, scale) for traces in self._traces]

    @own_precision()
    def smooth_proposals(self, running: Sequence[State]) -> None:
        """Average the proposals of this step over the frames around each."""
        for state in running:
            maps, t = state.proposal.maps.float().cpu(), self._places[id(state)]
            if not self._maps.numel():
                self._maps = torch.zeros(*self._held.shape, *maps.shape[1:], dtype=torch.float32)
            self._maps[t, state.active] = maps
            self._held[t] = np.isin(np.arange(self._queries), state.active)
        if frames := self._config.video.smooth_frames:
            smoothed = smooth_maps(self._maps, self._held, self._patch_traces, frames)
            for state in running:
                state.proposal = replace(state.proposal, maps=smoothed[self._places[id(state)], state.active])

    @own_precision()
    def add_detail(self, states: Sequence[State]) -> None:
        """Tell the last proposals of the texts that passed on the finer grid, from the frames around each."""
        video = self._config.video
        if not video.smooth_frames or video.smooth_scale == 1:
            return
        for state in (one for one in states if len(one.active)):
            t, texts = self._places[id(state)], state.active
            held = self._held[:, texts]
            state.detail = smooth_frame(self._maps[:, texts], held, t, self._traces[t], video.smooth_frames)

    @own_precision()
    def decide(self, running: Sequence[State], scores: Sequence[AnyScores]) -> list[tuple[AnyScores, AnyRows]]:
        """Pool the scores of this step over time; return each running state's, and the rows of those that pass."""
        for state, own in zip(running, scores, strict=True):
            self._scores[self._places[id(state)], state.active] = own
        pooled = pool_scores(self._scores, self._config.video.evidence_frames)
        self._keep(np.where(self._held, pooled, -1)[self._past :])  # what was dropped stays dropped
        decided: list[tuple[AnyScores, AnyRows]] = []
        for state in running:
            t = self._places[id(state)]
            rows = np.flatnonzero(self._kept[t, state.active])
            if not len(rows) and self._config.recurrence.keep_best:
                rows = np.array([np.argmax(pooled[t, state.active])])
            decided.append((pooled[t, state.active], rows))
        return decided

    def _keep(self, pooled: Float[ndarray, "t n"]) -> None:
        """Choose the texts of the window's own frames, whose pooled scores these are."""
        video, theta = self._config.video, self._config.classify.threshold(self._queries)
        low, high = theta * video.stay_share, theta
        passes = pooled >= self._bound(high)
        if 0 < video.peak_frames < len(self._scores):
            peaks = find_peaks(self._scores, video.peak_frames)
            passes = np.broadcast_to(peaks >= self._bound(scale_odds(theta, video.peak_odds)), pooled.shape)
        was_kept = self._kept[self._past - 1] if self._past else np.zeros(self._queries, bool)
        self._kept[self._past :] = hold(passes, pooled >= self._bound(low), was_kept)

    def _bound(self, threshold: float) -> np.float32:
        """Give the least score that reaches a threshold."""
        bound = np.float32(threshold)
        return np.nextafter(bound, np.float32(2)) if self._config.recurrence.strict_threshold else bound

    def remember(self, done: int) -> Memory | None:
        """Keep what the window behind its first `done` frames needs of them; None if frames do not look so far."""
        end = self._past + done
        some = slice(max(0, end - self._config.video.context_frames), end)
        if not self._config.video.context_frames:
            return None
        return Memory(
            self._images[some], self._maps[some].clone(), self._held[some], self._scores[some], self._kept[end - 1]
        )
