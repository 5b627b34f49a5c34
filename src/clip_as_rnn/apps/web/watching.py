"""What a segmentation is about to do, in words for visitors."""

from collections.abc import Callable, Sequence

from clip_as_rnn.apps.web.workers import Job
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.state import Progress


def reporter(job: Job, texts: Sequence[str], config: SegmenterConfig) -> Callable[[Progress], None]:
    """Make a callback for the segmenter that says in words what comes next, and stops where `job` says so."""
    refinement = "Refining the edges (CRF)" if config.refine.crf else "Finishing the masks"
    most = most_steps(texts, config)

    def report(progress: Progress) -> None:
        masks = f"{progress.texts} mask" if progress.texts == 1 else f"{progress.texts} masks"
        job.report(
            {
                "encode": "Encoding the picture and the texts",
                "propose": f"Step {progress.step} of at most {most}: proposing {masks}",
                "classify": f"Judging {masks}",
                "refine": refinement,
            }[progress.stage]
        )

    return report


def most_steps(texts: Sequence[str], config: SegmenterConfig) -> int:
    """Bound the number of steps: each but the last drops a text, unless the first is repeated."""
    bound = len(texts) + config.recurrence.repeat_first_step
    return bound if config.recurrence.max_steps is None else min(bound, max(1, config.recurrence.max_steps))
