"""Which part gives how much: the same data set with one part changed at a time, as a table.

Every variant is a run of its own in a folder of its own, so that an interrupted ablation goes on where it was left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from clip_as_rnn.config import BACKGROUND_PAPER, PRESETS, SegmenterConfig, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.benchmark import Conduct, Outcome, Question, evaluate, open_task
from clip_as_rnn.evaluation.markdown import percent, table
from clip_as_rnn.evaluation.records import write_atomically, write_json
from clip_as_rnn.evaluation.report import MEASURES, Report
from clip_as_rnn.evaluation.segmenting import Segmenting
from clip_as_rnn.evaluation.tallies import SemanticBody
from clip_as_rnn.evaluation.tasks import Task
from clip_as_rnn.prompts import BACKGROUND_RELEASE, VISUAL_PROMPTS


@dataclass(frozen=True, slots=True)
class Variant:
    """One change to one part, and the folder that its run has within the ablation's."""

    part: str
    name: str
    changes: Mapping[str, Any]
    folder: str


@dataclass(frozen=True, slots=True)
class AblationRow:
    """What one variant scored; shares of 1, None where the data set has no such number.

    Attributes:
        miou: the report's headline.
        difference: to the base.
        without_background: mIoU without background, as usual.
        recall: share of the present texts that were kept.
        absent_rejected: share of the absent texts that were rejected.
    """

    part: str
    variant: str
    changes: Mapping[str, Any]
    miou: float | None
    difference: float | None
    without_background: float | None
    recall: float | None
    absent_rejected: float | None
    seconds_per_image: float | None
    failures: int


@dataclass(frozen=True, slots=True)
class Ablation:
    """The table of parts.

    Attributes:
        rows: one per variant; none while images are left to other shards.
        idle: variants that were left out, for nothing that they change is asked with on this data set.
        failures: images that could not be evaluated, over all variants.
        measure: what the rows' mIoU is, in words.
    """

    rows: tuple[AblationRow, ...]
    idle: tuple[Variant, ...]
    failures: int
    measure: str = ""


def _recurrence(_: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "off", {"max_steps": 0}
    yield "one filter", {"max_steps": 1}
    yield "until stable", {"max_steps": None}


def _background(_: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "none", {"background_texts": ()}
    yield f"{len(BACKGROUND_RELEASE)} texts", {"background_texts": BACKGROUND_RELEASE}
    yield f"{len(BACKGROUND_PAPER)} texts", {"background_texts": BACKGROUND_PAPER}


def _prompts(_: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield marks for things and stuff alike."""
    yield "none", {"visual_prompts": (), "stuff_visual_prompts": None}
    for mark in VISUAL_PROMPTS:
        yield mark, {"visual_prompts": (mark,), "stuff_visual_prompts": None}


def _prompt_pairs(_: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for pair in combinations(VISUAL_PROMPTS, 2):
        yield "+".join(pair), {"visual_prompts": pair, "stuff_visual_prompts": None}


def _crf(_: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "off", {"crf": False}
    yield "on", {"crf": True}


def _classifier_depth(_: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for skipped in (0, 1, 2):
        yield f"{skipped} blocks skipped", {"classifier_skipped_blocks": skipped}


def _proposals(config: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    layers = config.affinity_layers or SegmenterConfig().affinity_layers
    for source in ("cam", "dense"):
        yield source, {"proposals": source, "affinity_layers": layers}
        yield f"{source} without affinity", {"proposals": source, "affinity_layers": 0}


def _contrast(_: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "off", {"contrast_texts": ()}
    yield "on", {"contrast_texts": BACKGROUND_RELEASE}


def _thresholds(config: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    symbols = {"mask_threshold": "eta", "score_threshold": "theta", "cam_threshold": "lambda"}
    for field, symbol in symbols.items():
        for shift in (-0.1, 0.1):
            value = round(getattr(config, field) + shift, 6)
            if 0 <= value <= 1:
                yield f"{symbol} {value:g}", {field: value}


def _semantics(_: SegmenterConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the behaviour of the authors' release and that of the paper's text, whatever the numbers."""
    paper, official = PRESETS["paper-voc"], PRESETS["official-voc"]
    differing = [f.name for f in fields(SegmenterConfig) if getattr(paper, f.name) != getattr(official, f.name)]
    yield "paper", {name: getattr(paper, name) for name in differing}
    yield "official", {name: getattr(official, name) for name in differing}


PARTS: Mapping[str, Callable[[SegmenterConfig], Iterator[tuple[str, Mapping[str, Any]]]]] = {
    "recurrence": _recurrence,
    "background": _background,
    "prompts": _prompts,
    "prompt-pairs": _prompt_pairs,
    "crf": _crf,
    "classifier-depth": _classifier_depth,
    "proposals": _proposals,
    "contrast": _contrast,
    "thresholds": _thresholds,
    "semantics": _semantics,
}


def plan_variants(config: SegmenterConfig, parts: Sequence[str]) -> tuple[Variant, ...]:
    """List the base and every variant of the parts; one that changes nothing shares the base's folder and run.

    Raises:
        InputError: an unknown part.
    """
    variants = [Variant("base", "as set", {}, "base")]
    for part in parts:
        if part not in PARTS:
            raise InputError(f"No part named {part!r} to ablate. Known: {', '.join(PARTS)}.")
        for name, changes in PARTS[part](config):
            is_base = with_settings(config, changes) == config
            variants.append(Variant(part, name, changes, "base" if is_base else _folder_name(part, name)))
    return tuple(variants)


def ablate(question: Question, segmenter: Segmenting, folder: Path, parts: Sequence[str], conduct: Conduct) -> Ablation:
    """Run the base and every variant, and write `ablation.json` and `ablation.md` once all of them are done.

    With a shard, each variant runs its shard, and the table waits for the others; then there are no rows.

    Raises:
        InputError: an unknown part, data that is not where it should be, or a folder that holds other runs.
    """
    task = open_task(question)
    planned = [(variant, _changed(segmenter, variant)) for variant in plan_variants(segmenter.config, parts)]
    idle = tuple(variant for variant, changed in planned if _is_idle(variant, changed, segmenter, task))
    active = [(variant, changed) for variant, changed in planned if variant not in idle]
    outcomes: dict[str, Outcome] = {}
    for variant, changed in active:
        if variant.folder not in outcomes:
            outcomes[variant.folder] = evaluate(question, changed, folder / variant.folder, conduct)
    failures = sum(outcome.failures for outcome in outcomes.values())
    base = outcomes["base"].report
    if base is None or any(outcome.report is None for outcome in outcomes.values()):
        return Ablation((), idle, failures)
    rows = tuple(_row(variant, outcomes[variant.folder], base) for variant, _ in active)
    ablation = Ablation(rows, idle, failures, MEASURES[base.headline.measure])
    write_json(folder / "ablation.json", [asdict(row) for row in ablation.rows])
    write_atomically(folder / "ablation.md", render_ablation(ablation, question.dataset.title).encode())
    return ablation


def idle_line(idle: Sequence[Variant]) -> str:
    """Say in one line which variants were left out, and why."""
    names = ", ".join(f"{variant.part} {variant.name}" for variant in idle)
    return f"Left out, for on this data set these passes never use what would change: {names}."


def render_ablation(ablation: Ablation, title: str) -> str:
    """Render the table of parts as Markdown."""
    columns = (
        "part",
        "variant",
        "mIoU",
        "to base",
        "without background, as usual",
        "present kept",
        "absent rejected",
        "s / image",
    )
    cells = [
        (
            row.part,
            row.variant if row.changes or row.part == "base" else f"{row.variant} (base)",
            percent(row.miou),
            percent(row.difference),
            percent(row.without_background),
            percent(row.recall),
            percent(row.absent_rejected),
            "-" if row.seconds_per_image is None else f"{row.seconds_per_image:.3f}",
        )
        for row in ablation.rows
    ]
    parts = [
        f"# {title}: what each part gives",
        f"One part changed at a time; percentages. Quoted: {ablation.measure}.",
        table(columns, cells),
    ]
    if ablation.idle:
        parts.append(idle_line(ablation.idle))
    return "\n\n".join(parts) + "\n"


def _changed(segmenter: Segmenting, variant: Variant) -> Segmenting:
    return segmenter.replace(**variant.changes) if variant.changes else segmenter


def _is_idle(variant: Variant, changed: Segmenting, base: Segmenting, task: Task) -> bool:
    """Tell whether a variant asks nothing otherwise: passes of things and stuff replace some settings."""
    return variant.folder != "base" and task.configs(changed) == task.configs(base)


def _row(variant: Variant, outcome: Outcome, base: Report) -> AblationRow:
    """Gather the numbers of one finished variant."""
    report, base_miou = outcome.report, base.headline.ours
    miou = report.headline.ours if report else None
    body = report.body if report and isinstance(report.body, SemanticBody) else None
    return AblationRow(
        part=variant.part,
        variant=variant.name,
        changes={} if variant.folder == "base" else variant.changes,
        miou=miou,
        difference=None if miou is None or base_miou is None else miou - base_miou,
        without_background=body.scores[-1].miou if body else None,
        recall=body.presence.recall if body else None,
        absent_rejected=body.presence.absent_rejected if body else None,
        seconds_per_image=outcome.timing.seconds_per_image,
        failures=len(report.failures) if report else 0,
    )


def _folder_name(part: str, name: str) -> str:
    return f"{part}-{name}".replace(" ", "-").replace("+", "-")
