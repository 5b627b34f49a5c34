"""Which part gives how much: the same data set with one part changed at a time, as a table.

Every variant is a run of its own in a folder of its own, so that an interrupted ablation goes on where it was left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from clip_as_rnn.evaluation.ablation_variants import Variant, plan_variants
from clip_as_rnn.evaluation.datasets.video import VideoSplit
from clip_as_rnn.evaluation.metrics.clips import VideoScores
from clip_as_rnn.evaluation.metrics.semantic import SemanticScores
from clip_as_rnn.evaluation.protocol import EvaluationProtocol, Split, open_split, pass_configs
from clip_as_rnn.evaluation.report import MEASURES, Report
from clip_as_rnn.evaluation.runner import RunOptions, RunResult, evaluate
from clip_as_rnn.evaluation.store import writing_to
from clip_as_rnn.evaluation.tables import percent, table
from clip_as_rnn.io.atomic import write_json, write_text
from clip_as_rnn.segmenter import Segmenter

_COLUMNS = (
    "part",
    "variant",
    "score",
    "to base",
    "without background, as usual",
    "present kept",
    "absent rejected",
    "flicker",
    "s / image",
)


@dataclass(frozen=True, slots=True)
class AblationRow:
    """What one variant scored; shares of 1, None where the data set has no such number.

    Attributes:
        is_base: nothing differs, so the base's run stands here.
        miou: the report's headline; of clips, J&F.
        difference: to the base; None where other texts were asked, for then it says nothing.
        without_background: mIoU without background, as usual.
        recall: share of the present texts that were kept.
        absent_rejected: share of the absent texts that were rejected; of clips, in so many frames.
        flicker: of clips, share of the pixels that change where the truth does not.
        seconds_per_image: of clips, per frame.
    """

    part: str
    variant: str
    changes: Mapping[str, Any]
    is_base: bool
    miou: float | None
    difference: float | None
    without_background: float | None
    recall: float | None
    absent_rejected: float | None
    flicker: float | None
    seconds_per_image: float | None
    failures: int


@dataclass(frozen=True, slots=True)
class Ablation:
    """The table of parts.

    Attributes:
        rows: one per variant; none while images are left to other shards.
        idle: variants that were left out, for nothing that they change is used here.
        failures: images that could not be evaluated, over all variants.
        measure: what the rows' mIoU is, in words.
        is_written: the table is in the folder; not where one on more images stands there already.
    """

    rows: tuple[AblationRow, ...]
    idle: tuple[Variant, ...]
    failures: int
    measure: str = ""
    is_written: bool = False


Reload: TypeAlias = Callable[[str], Segmenter]  # loads the same models in another precision


def ablate(
    protocol: EvaluationProtocol,
    segmenter: Segmenter,
    folder: Path,
    parts: Sequence[str],
    options: RunOptions,
    reload: Reload,
) -> Ablation:
    """Run the base and every variant, and write `ablation.json` and `ablation.md` once all of them are done.

    With a shard, each variant runs its shard, and the table waits for the others; then there are no rows.

    Raises:
        InputError: an unknown part, data that is not where it should be, or a folder that holds other runs.
    """
    split = open_split(protocol)
    dtype = segmenter.describe().get("dtype")
    variants = plan_variants(segmenter.config, parts, selection=protocol.selection, dtype=dtype)
    idle = tuple(variant for variant in variants if _is_idle(variant, segmenter, protocol, split))
    active = [variant for variant in variants if variant not in idle]
    results: dict[str, RunResult] = {}
    for variant in active:
        if variant.folder not in results:
            own = replace(protocol, selection=variant.selection or protocol.selection)
            loaded = reload(variant.dtype) if variant.dtype and variant.folder != "base" else segmenter
            results[variant.folder] = evaluate(own, _changed(loaded, variant), folder / variant.folder, options)
    failures = sum(result.failures for result in results.values())
    base = results["base"].report
    if base is None or any(result.report is None for result in results.values()):
        return Ablation((), idle, failures)
    rows = tuple(_row(variant, results[variant.folder], base) for variant in active)
    is_written = all(result.is_written for result in results.values())
    ablation = Ablation(rows, idle, failures, MEASURES[base.headline.measure], is_written)
    if is_written:
        with writing_to(folder):
            write_json(folder / "ablation.json", [asdict(row) for row in ablation.rows], indent=2, sync=True)
            write_text(folder / "ablation.md", render_ablation(ablation, protocol.dataset.title), sync=True)
    return ablation


def idle_line(idle: Sequence[Variant]) -> str:
    """Say in one line which variants were left out, and why."""
    names = ", ".join(f"{variant.part} {variant.name}" for variant in idle)
    return f"Left out, for these models, settings and passes never use what would change: {names}."


def render_ablation(ablation: Ablation, title: str) -> str:
    """Render the table of parts as Markdown."""
    cells = [
        (
            row.part,
            f"{row.variant} (base)" if row.is_base and row.part != "base" else row.variant,
            percent(row.miou),
            percent(row.difference),
            percent(row.without_background),
            percent(row.recall),
            percent(row.absent_rejected),
            percent(row.flicker),
            "-" if row.seconds_per_image is None else f"{row.seconds_per_image:.3f}",
        )
        for row in ablation.rows
    ]
    parts = [
        f"# {title}: what each part gives",
        f"One part changed at a time; percentages. Quoted: {ablation.measure}.",
        table(_COLUMNS, cells),
    ]
    if ablation.idle:
        parts.append(idle_line(ablation.idle))
    return "\n\n".join(parts) + "\n"


def _changed(segmenter: Segmenter, variant: Variant) -> Segmenter:
    return segmenter.replace(**variant.changes) if variant.changes else segmenter


def _is_idle(variant: Variant, base: Segmenter, protocol: EvaluationProtocol, split: Split) -> bool:
    """Tell whether a variant segments nothing otherwise: passes of things and stuff replace some settings.

    Others are of no use beside the base's settings, or to the models at hand.
    """
    selects_otherwise = variant.selection is not None and protocol.describe()["asked"] is not None
    if variant.folder == "base" or variant.dtype is not None or selects_otherwise:
        return False
    if set(variant.changes) == {"smooth_scale"}:
        return base.config.video.window_frames == 1 or not base.config.video.smooth_frames
    if set(variant.changes) == {"part_weight"} and isinstance(split, VideoSplit):
        return base.config.video.window_frames > 1  # windows leave parts alone
    if set(variant.changes) == {"sam_track_frames"}:  # a SAM of pictures follows nothing
        return base.describe().get("sam_type") != "sam2_video"
    return pass_configs(split, _changed(base, variant), protocol) == pass_configs(split, base, protocol)


def _row(variant: Variant, result: RunResult, base: Report) -> AblationRow:
    """Gather the numbers of one finished variant."""
    report, base_miou = result.report, base.headline.ours
    is_base = variant.folder == "base"
    selects_otherwise = variant.selection is not None and not is_base
    miou = report.headline.ours if report else None
    body = report.body if report and isinstance(report.body, SemanticScores) else None
    clips = report.body if report and isinstance(report.body, VideoScores) else None
    return AblationRow(
        part=variant.part,
        variant=variant.name,
        changes={} if is_base else variant.changes,
        is_base=is_base,
        miou=miou,
        difference=None if miou is None or base_miou is None or selects_otherwise else miou - base_miou,
        without_background=body.scores[-1].miou if body else None,
        recall=clips.recall if clips else body.presence.recall if body else None,
        absent_rejected=clips.absent_rejected if clips else body.presence.absent_rejected if body else None,
        flicker=clips.flicker if clips else None,
        seconds_per_image=result.timing.seconds_per_frame if clips else result.timing.seconds_per_image,
        failures=len(report.failures) if report else 0,
    )
