"""Try the whole hostile corpus at every door: `make hostile`, or `python tests/hostile/hostile_run.py texts pictures`.

Prints counts by kind and outcome, what took longest, what took most memory, and each fault; exits with 1 for any.
A case that does not end within ten minutes, ends the process or takes 2 GiB is a fault.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile_worker import GROUPS, Try, cases, work

_TIMEOUT_S, _START_S = 600.0, 600.0  # of a machine that others use, too
MOST_MB = 2048
_LISTED = 5


class Worker:
    """A process that tries cases; a new one takes its place where one hangs or dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Any = None
        self._connection: Connection | None = None

    def try_case(self, group: str, number: int) -> Iterator[Try]:
        """Yield what became of a case, door by door."""
        connection = self._connection or self._start()
        connection.send((group, number))
        while True:
            try:
                one = connection.recv() if connection.poll(_TIMEOUT_S) else "hung"
            except EOFError:
                one = "died"
            if one is None:
                return
            if isinstance(one, str):
                self.stop()
                yield Try("?", "broken", "", _TIMEOUT_S, 0, f"it {one}")
                return
            yield replace(one, fault="; ".join(find_faults(one)))

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        root = Path(tempfile.mkdtemp(dir=self._folder))
        self._process = context.Process(target=work, args=(theirs, root), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(_START_S):
            raise SystemExit("The worker does not start.")
        self._connection.recv()
        return self._connection


def find_faults(one: Try, most_mb: float = MOST_MB) -> list[str]:
    """List what was wrong with how a case ended in a process that may hold so much."""
    return [fault for fault in (one.fault, f"{one.peak_mb:.0f} MB" if one.peak_mb > most_mb else "") if fault]


def run(groups: list[str], first: int, every: int) -> int:
    """Try the cases of some groups; return how many faults there were."""
    tried: defaultdict[str, Counter[str]] = defaultdict(Counter)
    marks: list[tuple[str, Try]] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        worker = Worker(Path(folder))
        for group in groups:
            for number, case in list(enumerate(cases(group)))[first::every]:
                counts = tried[f"{group}: {case.kind}"]
                counts["cases"] += 1
                for one in worker.try_case(group, number):
                    marks.append((f"{group} {number}, {case.kind}, {case.name}, {one.door}", one))
                    counts["broken" if one.fault else one.outcome] += 1
                    if one.fault:
                        print(f"FAULT {marks[-1][0]}: {one.fault}", flush=True)
        worker.stop()
    return _report(tried, marks, time.perf_counter() - started)


def _report(tried: dict[str, Counter[str]], marks: list[tuple[str, Try]], seconds: float) -> int:
    for kind, counts in tried.items():
        outcomes = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if name != "cases")
        print(f"{kind:36} {counts['cases']:4} cases: {outcomes}")
    print("slowest:")
    for name, one in sorted(marks, key=lambda mark: -mark[1].seconds)[:_LISTED]:
        print(f"  {one.seconds:6.1f} s   {name}")
    print("largest memory:")
    for name, one in sorted(marks, key=lambda mark: -mark[1].peak_mb)[:_LISTED]:
        print(f"  {one.peak_mb:6.0f} MB  {name}")
    faults = sum(bool(one.fault) for _, one in marks)
    total = sum(counts["cases"] for counts in tried.values())
    print(f"{total} cases, {len(marks)} tries, {faults} faults, {seconds:.0f} s")
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="Which; all if none is named.")
    parser.add_argument("--every", type=int, default=1, help="Try one of so many.")
    parser.add_argument("--first", type=int, default=0, help="Begin with this one.")
    asked = parser.parse_args()
    sys.exit(1 if run(asked.groups or list(GROUPS), asked.first, asked.every) else 0)
