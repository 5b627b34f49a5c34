"""The report as a page of Markdown, for people."""

from collections.abc import Iterator, Sequence

from clip_as_rnn.evaluation.referring_metrics import GresScores
from clip_as_rnn.evaluation.report import MEASURES, Report
from clip_as_rnn.evaluation.tallies import ClassRow, ReferringBody, SemanticBody

_ACCURACIES = ("pixel accuracy", "mean accuracy", "frequency-weighted IoU")
_CLASS_COLUMNS = (
    "class",
    "kind",
    "IoU",
    "IoU without background, released",
    "IoU without background, counted",
    "pixels",
    "images with it",
    "kept in those",
    "kept in others",
)
_PRESENCE_COLUMNS = (
    "kept",
    "of these present (precision)",
    "present kept (recall)",
    "absent rejected",
    "present kept",
    "of present",
    "absent kept",
    "of absent",
)


def render_report(report: Report) -> str:
    """Render a report: scores and the paper's, presence, classes, failures, and all that the run was made with."""
    body = _semantic(report.body) if isinstance(report.body, SemanticBody) else _referring(report.body)
    parts = [_head(report), _comparison(report), *body, *_failures(report), *_description(report)]
    return "\n\n".join(parts) + "\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a table; the first column is text, the others are numbers."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (columns, rule, *rows))


def percent(share: float | None) -> str:
    """Write a share of 1 as a percentage, or a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f}"


def _head(report: Report) -> str:
    protocol, coverage = report.run.protocol, report.coverage
    published = "" if coverage.published is None else f"; the published split has {coverage.published}"
    failed = len(report.failures)
    lines = [
        f"# {report.title}, split {protocol['split']}",
        "",
        f"Preset `{report.run.preset}`; evaluated {coverage.evaluated} of {coverage.asked} asked "
        f"({coverage.listed} in the split at hand{published}); {failed} could not be evaluated.",
        "Scores are percentages. Seconds per image are in `timing.json`, for they differ from run to run.",
    ]
    return "\n".join(lines)


def _comparison(report: Report) -> str:
    rows = [(MEASURES[row.measure], percent(row.paper), percent(row.ours)) for row in report.comparisons]
    return "## Beside the paper\n\n" + table(("measure", "paper", "ours"), rows)


def _semantic(body: SemanticBody) -> Iterator[str]:
    scores = [
        (
            MEASURES[row.counting].removeprefix("mIoU "),
            percent(row.miou),
            percent(row.pixel_accuracy),
            percent(row.mean_accuracy),
            percent(row.frequency_weighted_iou),
        )
        for row in body.scores
    ]
    yield "## Scores\n\n" + table(("counting", "mIoU", *_ACCURACIES), scores)
    yield "## Presence of texts, over all images\n\n" + _presence(body)
    yield "## Classes\n\n" + table(_CLASS_COLUMNS, [_class_cells(row) for row in body.classes])


def _presence(body: SemanticBody) -> str:
    """Tell the classifier's decisions from what refinement left of them."""
    rows = [
        (
            title,
            *(percent(presence.precision), percent(presence.recall), percent(presence.absent_rejected)),
            *(str(presence.counts.present_kept), str(presence.counts.present)),
            *(str(presence.counts.absent_kept), str(presence.counts.absent)),
        )
        for title, presence in (
            ("by the classifier", body.presence),
            ("with a pixel left after refinement", body.masked_presence),
        )
    ]
    return table(_PRESENCE_COLUMNS, rows)


def _class_cells(row: ClassRow) -> tuple[str, ...]:
    name = row.name if row.text in ("", row.name) else f"{row.name} (asked: {row.text})"
    presence = row.presence
    seen = (str(presence.present), str(presence.present_kept), str(presence.absent_kept))
    cells = seen if row.label else ("-", "-", "-")
    return (name, row.kind, *(percent(iou) for iou in row.ious.values()), str(row.pixels), *cells)


def _referring(body: ReferringBody) -> Iterator[str]:
    thresholds = [f"P@{precision.threshold}" for precision in body.rows[0].scores.precisions]
    rows = [
        (
            f"{row.asked}; truth: {row.truth}",
            str(row.scores.count),
            percent(row.scores.miou),
            percent(row.scores.oiou),
            *(percent(precision.share) for precision in row.scores.precisions),
        )
        for row in body.rows
    ]
    yield "## Scores\n\n" + table(("asked", "masks", "mIoU", "oIoU", *thresholds), rows)
    if body.gres is not None:
        yield _gres(body.gres)


def _gres(scores: GresScores) -> str:
    rows = [
        ("gIoU", percent(scores.giou)),
        ("cIoU", percent(scores.ciou)),
        ("N-acc (no target, empty mask)", percent(scores.n_accuracy)),
        ("T-acc (a target, some mask)", percent(scores.t_accuracy)),
    ]
    return "## Generalized referring, the usual scores\n\n" + table(("score", "%"), rows)


def _failures(report: Report) -> Iterator[str]:
    if report.failures:
        lines = "\n".join(f"- `{failure.name}`: {failure.reason}" for failure in report.failures)
        yield f"## Not evaluated: {len(report.failures)}\n\n{lines}"


def _description(report: Report) -> Iterator[str]:
    sections = {
        "Protocol": report.run.protocol,
        "Models": report.run.models,
        "Software": report.run.software,
        "Settings": report.run.settings,
    }
    for title, entries in sections.items():
        yield f"## {title}\n\n" + table(("name", "value"), [(name, _value(entry)) for name, entry in entries.items()])


def _value(entry: object) -> str:
    return ", ".join(str(item) for item in entry) if isinstance(entry, list) else str(entry)
