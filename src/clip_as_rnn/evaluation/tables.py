"""Tables and numbers of reports, in Markdown."""

from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a table in Markdown; the first column is text, the others are numbers."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (columns, rule, *rows))


def percent(share: float | None) -> str:
    """Write a share of 1 as a percentage, or a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f}"
