"""What a report shows of clips, in Markdown."""

from collections.abc import Iterator

from clip_as_rnn.evaluation.metrics.clips import VideoScores
from clip_as_rnn.evaluation.tables import percent, table


def render_clips(body: VideoScores) -> Iterator[str]:
    """Render the scores in both conventions, and what was found where."""
    rows = [
        (row.convention, row.annotator or "each expression", str(row.objects), *map(percent, (row.jf, row.j, row.f)))
        for row in body.rows
    ]
    yield "## Scores\n\n" + table(("convention", "annotator", "objects", "J&F", "J", "F"), rows)
    shares = [
        ("pixels whose label changes where the true one does not (flicker)", percent(body.flicker)),
        ("frames with the object in which it was found", percent(body.recall)),
        ("frames without the object in which it was not found", percent(body.gone_rejected)),
        ("frames in which what is absent from the clip was not found", percent(body.absent_rejected)),
        ("absent texts that were found in no frame", percent(body.never_found)),
    ]
    yield f"## Over time\n\n{body.frames} frames.\n\n" + table(("share", "%"), shares)
