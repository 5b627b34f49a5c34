"""Long and shared: what holds after thousands of calls, between threads and processes, and whatever interrupts.

`make soak`, or with other numbers `python -m benchmarks.soak --calls 3000 --kills 100`. Exits with 1 where a result
differs, memory grows, a file is not whole or a run ends otherwise than documented. The server has a target of its own.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.machine import describe_commit, describe_machine, save_section
from benchmarks.soak_calls import Row, soak_calls
from benchmarks.soak_files import soak_files

DOCUMENT = Path(__file__).parents[1] / "docs" / "reliability.md"
TITLE = "Long and shared: `make soak`"


def table(rows: Iterator[Row]) -> tuple[str, bool]:
    """Lay out the rows, each said as soon as it is known; and whether all of them hold."""
    lines, holds = ["| | outcome | time |", "|---|---|---|"], True
    started = time.perf_counter()
    for row in rows:
        ended = time.perf_counter()
        lines.append(f"| {row.what} | {row.outcome}{'' if row.holds else ' **(fault)**'} | {ended - started:.0f} s |")
        Console(stderr=True, soft_wrap=True).print(lines[-1], markup=False, highlight=False)
        holds, started = holds and row.holds, ended
    return "\n".join(lines), holds


def main() -> None:
    """Print the table, and keep it in docs/reliability.md with --save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000, help="of one segmenter")
    parser.add_argument("--kills", type=int, default=100, help="of each signal while results are written")
    parser.add_argument("--runs", type=int, default=10, help="of each command that are ended by each signal")
    parser.add_argument("--save", action="store_true", help="write the table to docs/reliability.md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    with tempfile.TemporaryDirectory() as place:
        os.environ["CLIP_AS_RNN_CACHE"] = str(Path(place, "cache"))  # the words stay out of the user's
        rows = chain(soak_files(Path(place), arguments.kills, arguments.runs), soak_calls(arguments.calls))
        text, holds = table(rows)
    Console().print(Markdown(f"# {TITLE}\n\n{describe_machine()}; commit {describe_commit()}\n\n{text}"))
    if arguments.save:
        save_section(TITLE, f"The bundled CLIP, one torch thread.\n\n{text}", DOCUMENT)
    sys.exit(not holds)


if __name__ == "__main__":
    main()
