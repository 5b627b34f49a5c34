"""One run at a time on the loaded models: progress in plain words while it works, and a way to stop it.

Knows the order of the stages; knows nothing of the page. The segmenter itself is untouched: its stages are wrapped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from clip_as_rnn.apps.web.workers import Job
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.result import Proposal
from clip_as_rnn.segmenter import Question, Segmenter, Stages, View
from clip_as_rnn.types import Masks, PatchMaps, RgbImage, Scores


@dataclass(frozen=True, slots=True, eq=False)
class WatchedStages(Generic[View]):
    """The stages of a segmenter, each of which reports before it begins."""

    stages: Stages[View]
    job: Job
    most_steps: int
    refinement: str

    def check(self, texts: Sequence[str]) -> None:
        """Pass on."""
        self.stages.check(texts)

    def look(self, image: RgbImage, texts: Sequence[str]) -> View:
        """Report, and pass on."""
        self.job.report("Encoding the picture and the texts")
        return self.stages.look(image, texts)

    def propose(self, view: View, texts: Sequence[str], step: int) -> Proposal:
        """Report, and pass on."""
        self.job.report(f"Step {step + 1} of at most {self.most_steps}: proposing {_count(texts, 'mask')}")
        return self.stages.propose(view, texts, step)

    def classify(self, questions: Sequence[Question[View]]) -> list[Scores]:
        """Report, and pass on."""
        texts = [text for question in questions for text in question.texts]
        self.job.report(f"Judging {_count(texts, 'mask')}")
        return self.stages.classify(questions)

    def finish(self, view: View, maps: PatchMaps) -> Masks:
        """Report, and pass on."""
        self.job.report(self.refinement)
        return self.stages.finish(view, maps)

    def describe(self) -> Mapping[str, str]:
        """Pass on."""
        return self.stages.describe()


def watched(segmenter: Segmenter[View], job: Job, texts: Sequence[str]) -> Segmenter[View]:
    """Make a segmenter on the same models and settings that reports to `job` and stops when it says so."""
    config = segmenter.config
    refinement = "Refining the edges (CRF)" if config.refine.crf else "Finishing the masks"
    return Segmenter(WatchedStages(segmenter.stages, job, most_steps(texts, config), refinement), config)


def most_steps(texts: Sequence[str], config: SegmenterConfig) -> int:
    """Bound the number of steps: each but the last drops a text, unless the first is repeated."""
    bound = len(texts) + config.recurrence.repeat_first_step
    return bound if config.recurrence.max_steps is None else min(bound, max(1, config.recurrence.max_steps))


def _count(things: Sequence[str], noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"
