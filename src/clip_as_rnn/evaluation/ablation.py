"""Which part gives how much: the same data set with one part changed at a time, as a table.

Every variant is a run of its own in a folder of its own, so that an interrupted ablation goes on where it was left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, TypeAlias

from clip_as_rnn.config import VISUAL_PROMPTS, SegmenterConfig, flat_settings, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.benchmark import Conduct, Outcome, Question, evaluate, open_task
from clip_as_rnn.evaluation.markdown import percent, table
from clip_as_rnn.evaluation.passes import Asking
from clip_as_rnn.evaluation.records import write_atomically, write_json
from clip_as_rnn.evaluation.report import MEASURES, Report
from clip_as_rnn.evaluation.segmenting import Segmenting
from clip_as_rnn.evaluation.tallies import SemanticBody
from clip_as_rnn.evaluation.tasks import ReferringTask, Task
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.prompts.word_lists import BACKGROUND_PAPER, BACKGROUND_RELEASE, COMMON_THINGS


@dataclass(frozen=True, slots=True)
class Variant:
    """One change to one part, and the folder that its run has within the ablation's.

    Attributes:
        changes: settings other than the base's.
        asking: which texts are asked on an image, where that is not the base's.
        dtype: the precision, where that is not the base's.
    """

    part: str
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    folder: str = "base"
    asking: Asking | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class AblationRow:
    """What one variant scored; shares of 1, None where the data set has no such number.

    Attributes:
        is_base: nothing differs, so the base's run stands here.
        miou: the report's headline.
        difference: to the base; None where other texts were asked, for then it says nothing.
        without_background: mIoU without background, as usual.
        recall: share of the present texts that were kept.
        absent_rejected: share of the absent texts that were rejected.
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


Reload: TypeAlias = Callable[[str], Segmenting]  # loads the same models in another precision


def _recurrence(_: SegmenterConfig) -> Iterator[Variant]:
    yield Variant("recurrence", "off", {"max_steps": 0})
    yield Variant("recurrence", "one filter", {"max_steps": 1})
    yield Variant("recurrence", "until stable", {"max_steps": None})


def _background(_: SegmenterConfig) -> Iterator[Variant]:
    yield Variant("background", "none", {"background_texts": ()})
    for texts in (BACKGROUND_RELEASE, BACKGROUND_PAPER):
        yield Variant("background", f"{len(texts)} texts", {"background_texts": texts})


def _prompts(_: SegmenterConfig) -> Iterator[Variant]:
    """Yield marks for things and stuff alike."""
    yield Variant("prompts", "none", {"visual_prompts": (), "stuff_visual_prompts": None})
    for mark in VISUAL_PROMPTS:
        yield Variant("prompts", mark, {"visual_prompts": (mark,), "stuff_visual_prompts": None})


def _prompt_pairs(_: SegmenterConfig) -> Iterator[Variant]:
    for pair in combinations(VISUAL_PROMPTS, 2):
        yield Variant("prompt-pairs", "+".join(pair), {"visual_prompts": pair, "stuff_visual_prompts": None})


def _crf(_: SegmenterConfig) -> Iterator[Variant]:
    yield Variant("crf", "off", {"crf": False})
    yield Variant("crf", "on", {"crf": True})


def _classifier_depth(_: SegmenterConfig) -> Iterator[Variant]:
    for skipped in (0, 1, 2):
        yield Variant("classifier-depth", f"{skipped} blocks skipped", {"classifier_skipped_blocks": skipped})


def _proposals(_: SegmenterConfig) -> Iterator[Variant]:
    for source, layers in product(("cam", "dense"), (0, 2, SegmenterConfig().propose.affinity_layers)):
        name = f"{source}, affinity of {layers} layers" if layers else f"{source} without affinity"
        yield Variant("proposals", name, {"proposals": source, "affinity_layers": layers})


def _contrast(_: SegmenterConfig) -> Iterator[Variant]:
    """Yield no contrast texts, grounds alone, and grounds with common things, for all texts at once and one by one."""
    choices: dict[str, tuple[str, ...]] = {
        "off": (),
        "23 grounds": BACKGROUND_RELEASE,
        "grounds and things": BACKGROUND_RELEASE + COMMON_THINGS,
    }
    askings: tuple[tuple[Asking | None, str], ...] = ((None, ""), ("each", ", each text alone"))
    for asking, suffix in askings:
        for name, texts in choices.items():
            yield Variant("contrast", f"{name}{suffix}", {"contrast_texts": texts}, asking=asking)


def _thresholds(config: SegmenterConfig) -> Iterator[Variant]:
    """Yield thresholds around those of the settings; lambda acts with the affinity alone, which is then turned on."""
    symbols = {"mask_threshold": "eta", "score_threshold": "theta", "cam_threshold": "lambda"}
    for setting, symbol in symbols.items():
        is_idle = setting == "cam_threshold" and not config.propose.affinity_layers
        others = {"affinity_layers": SegmenterConfig().propose.affinity_layers} if is_idle else {}
        for shift in (-0.1, 0.1):
            value = round(flat_settings(config)[setting] + shift, 6)
            if 0 <= value <= 1:
                name = f"{symbol} {value:g}" + (" with affinity" if is_idle else "")
                yield Variant("thresholds", name, {setting: value, **others})


def _semantics(_: SegmenterConfig) -> Iterator[Variant]:
    """Yield the behaviour of the authors' release and that of the paper's text, whatever the numbers."""
    paper, official = flat_settings(PRESETS["paper-voc"]), flat_settings(PRESETS["official-voc"])
    differing = [name for name in paper if paper[name] != official[name]]
    yield Variant("semantics", "paper", {name: paper[name] for name in differing})
    yield Variant("semantics", "official", {name: official[name] for name in differing})


def _precision(_: SegmenterConfig) -> Iterator[Variant]:
    for dtype in ("float32", "bfloat16"):
        yield Variant("precision", dtype, dtype=dtype)


PARTS: Mapping[str, Callable[[SegmenterConfig], Iterator[Variant]]] = {
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
    "precision": _precision,
}


def plan_variants(
    config: SegmenterConfig, parts: Sequence[str], *, asking: Asking = "all", dtype: str | None = None
) -> tuple[Variant, ...]:
    """List the base and every variant of the parts; one that changes nothing shares the base's folder and run.

    `asking` and `dtype` are the base's; without a precision none is known to be.

    Raises:
        InputError: an unknown part.
    """
    variants = [Variant("base", "as set")]
    for part in parts:
        if part not in PARTS:
            raise InputError(f"No part named {part!r} to ablate. Known: {', '.join(PARTS)}.")
        for variant in PARTS[part](config):
            same_question = variant.asking in (None, asking) and variant.dtype in (None, dtype)
            is_base = same_question and with_settings(config, variant.changes) == config
            variants.append(replace(variant, folder="base" if is_base else _folder_name(part, variant.name)))
    return tuple(variants)


def ablate(
    question: Question, segmenter: Segmenting, folder: Path, parts: Sequence[str], conduct: Conduct, reload: Reload
) -> Ablation:
    """Run the base and every variant, and write `ablation.json` and `ablation.md` once all of them are done.

    With a shard, each variant runs its shard, and the table waits for the others; then there are no rows.

    Raises:
        InputError: an unknown part, data that is not where it should be, or a folder that holds other runs.
    """
    task = open_task(question)
    dtype = segmenter.describe().get("dtype")
    variants = plan_variants(segmenter.config, parts, asking=question.asking, dtype=dtype)
    idle = tuple(variant for variant in variants if _is_idle(variant, segmenter, task))
    active = [variant for variant in variants if variant not in idle]
    outcomes: dict[str, Outcome] = {}
    for variant in active:
        if variant.folder not in outcomes:
            asked = replace(question, asking=variant.asking or question.asking)
            changed = reload(variant.dtype) if variant.dtype and variant.folder != "base" else segmenter
            outcomes[variant.folder] = evaluate(asked, _changed(changed, variant), folder / variant.folder, conduct)
    failures = sum(outcome.failures for outcome in outcomes.values())
    base = outcomes["base"].report
    if base is None or any(outcome.report is None for outcome in outcomes.values()):
        return Ablation((), idle, failures)
    rows = tuple(_row(variant, outcomes[variant.folder], base) for variant in active)
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
            f"{row.variant} (base)" if row.is_base and row.part != "base" else row.variant,
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


def _is_idle(variant: Variant, base: Segmenting, task: Task) -> bool:
    """Tell whether a variant asks nothing otherwise: passes of things and stuff replace some settings."""
    asks_alike = variant.dtype is None and (variant.asking is None or isinstance(task, ReferringTask))
    return variant.folder != "base" and asks_alike and task.configs(_changed(base, variant)) == task.configs(base)


def _row(variant: Variant, outcome: Outcome, base: Report) -> AblationRow:
    """Gather the numbers of one finished variant."""
    report, base_miou = outcome.report, base.headline.ours
    is_base = variant.folder == "base"
    is_other_question = variant.asking is not None and not is_base
    miou = report.headline.ours if report else None
    body = report.body if report and isinstance(report.body, SemanticBody) else None
    return AblationRow(
        part=variant.part,
        variant=variant.name,
        changes={} if is_base else variant.changes,
        is_base=is_base,
        miou=miou,
        difference=None if miou is None or base_miou is None or is_other_question else miou - base_miou,
        without_background=body.scores[-1].miou if body else None,
        recall=body.presence.recall if body else None,
        absent_rejected=body.presence.absent_rejected if body else None,
        seconds_per_image=outcome.timing.seconds_per_image,
        failures=len(report.failures) if report else 0,
    )


def _folder_name(part: str, name: str) -> str:
    return f"{part}-{name}".replace(" ", "-").replace("+", "-").replace(",", "")
