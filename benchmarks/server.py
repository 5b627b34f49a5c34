"""The server under load and over a long time: `make bench-server`, `make soak-server`, on the bundled CLIP.

Both start `car serve` in a process of its own and ask it over loopback from this one, so that the figures hold what
clients cost the same processors. Answers are compared with those of `segment`. Exits with 1 where one differs, where a
request fails in another way than it should, or where the server's memory grows.
"""

import argparse
import base64
import http.client
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from benchmarks.machine import describe_commit, describe_machine
from clip_as_rnn.loading import load_segmenter
from clip_as_rnn.ops import encode_rle
from clip_as_rnn.segmenter import Segmenter

SCENES = Path(__file__).parents[1] / "data" / "scenes" / "JPEGImages"
TEXTS = ("dog", "car", "tree", "cat")
LEVELS = (1, 8, 32)
OVERLOAD = (32, 8)  # clients, and room for pictures that wait
TOLERANCE = 1e-4  # of scores: pictures that share a pass change the last digits
WAIT_S = 120.0
SAMPLES = 20  # of the server's memory
GROWTH_MIB = 32.0  # more, over the last four fifths, is a leak
WORDS = 20  # that the soak asks for; features of texts are kept, up to a bound of their own


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    port: int
    process: "subprocess.Popen[str]"

    def memory_mib(self) -> float:
        """Read how much memory it holds."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@contextmanager
def started(*options: str) -> Iterator[Server]:
    """Start a server, and end it by SIGTERM; it must end well and have complained of nothing."""
    command = [sys.executable, "-m", "clip_as_rnn.apps.cli.main", "serve", "--preset", "tiny", "--port", "0"]
    words = [*command, "--set", "classify_by=mask-tokens", *options]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            greeting = next(line for line in process.stderr if "http://" in line)
            found = re.search(r":(\d+) ;", greeting)
            assert found is not None
            yield Server(int(found.group(1)), process)
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
            if process.wait(WAIT_S) != 0 or "Traceback" in said or "ERROR" in said:
                sys.exit(f"The server ended with {process.returncode} and said:\n{said}")
        finally:
            process.kill()


@dataclass
class Tally:
    """What the clients of one round saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of the answers, without refusals
    differing: int = 0


def wanted(segmenter: Segmenter, picture: bytes, texts: Sequence[str]) -> list[tuple[str, float, str]]:
    """Say what the server should find: text, score, run lengths."""
    found = segmenter.segment(picture, texts)
    masks = [encode_rle(mask)["counts"] for mask in found.masks]
    return list(zip(found.texts, found.scores.tolist(), masks, strict=True))


def agrees(answer: Any, expected: list[tuple[str, float, str]]) -> bool:
    """Tell whether an answer has the same texts and masks, and scores as near as they can be."""
    got = [(one["text"], one["score"], one["rle"]["counts"]) for one in answer["found"]]
    exact = [(text, mask) for text, _, mask in got] == [(text, mask) for text, _, mask in expected]
    return exact and all(abs(a[1] - b[1]) < TOLERANCE for a, b in zip(got, expected, strict=True))


def ask(connection: http.client.HTTPConnection, picture: bytes, texts: Sequence[str]) -> tuple[int, bytes]:
    """Send a picture with what to look for; return status and body."""
    query = urlencode([("texts", text) for text in texts])
    connection.request("POST", f"/v1/segment?{query}", picture)
    response = connection.getresponse()
    return response.status, response.read()


def load_round(server: Server, clients: int, seconds: float, known: dict[bytes, Any]) -> Tally:
    """Let so many clients ask one question after the other, refused or not, for some seconds."""
    tally, lock = Tally(), threading.Lock()
    deadline = time.monotonic() + seconds
    pictures = list(known)

    def visit(number: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)) as connection:
            for turn in itertools.count(number):
                if time.monotonic() > deadline:
                    return
                picture = pictures[turn % len(pictures)]
                started_s = time.perf_counter()
                status, body = ask(connection, picture, TEXTS)
                took_s = time.perf_counter() - started_s
                is_right = status != http.client.OK or agrees(json.loads(body), known[picture])
                with lock:
                    tally.statuses[status] += 1
                    tally.differing += not is_right
                    if status == http.client.OK:
                        tally.seconds.append(took_s)
                if status == http.client.SERVICE_UNAVAILABLE:
                    time.sleep(0.25)  # sooner than Retry-After says

    run_threads(clients, visit)
    return tally


def run_threads(count: int, work: Any) -> None:
    """Call work(0), ..., work(count - 1) side by side, and wait for all."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def load_table(seconds: float) -> tuple[str, bool]:
    """Measure every level, and one with a short queue; also say whether all was as it should be."""
    segmenter = load_segmenter("tiny", text_cache=False, classify_by="mask-tokens")
    pictures = [path.read_bytes() for path in sorted(SCENES.iterdir())[:8]]
    known = {picture: wanted(segmenter, picture, TEXTS) for picture in pictures}
    heading = ("clients", "room to wait", "requests/s", "p50", "p95", "p99", "answered", "503", "others", "differ")
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    fine = True
    for room, levels in ((32, LEVELS), (OVERLOAD[1], OVERLOAD[:1])):
        with started("--waiting", str(room)) as server:
            load_round(server, 2, 2.0, known)  # what is done at first use
            for clients in levels:
                tally = load_round(server, clients, seconds, known)
                lines.append(_row(clients, room, seconds, tally))
                fine = fine and not tally.differing and set(tally.statuses) <= {200, 503}
    return "\n".join(lines), fine


def _row(clients: int, room: int, seconds: float, tally: Tally) -> str:
    marks = [f"{np.percentile(tally.seconds, mark):.2f} s" for mark in (50, 95, 99)]
    answered, busy = tally.statuses[200], tally.statuses[503]
    others = tally.statuses.total() - answered - busy
    cells = (clients, room, f"{answered / seconds:.1f}", *marks, answered, busy, others, tally.differing)
    return "| " + " | ".join(map(str, cells)) + " |"


def soak(requests: int, clients: int) -> tuple[str, bool]:
    """Send many requests, each with a new picture, some damaged, some given up; watch the server's memory."""
    control = sorted(SCENES.iterdir())[0].read_bytes()
    expected = wanted(load_segmenter("tiny", text_cache=False, classify_by="mask-tokens"), control, TEXTS)
    statuses: Counter[int] = Counter()
    memory: list[tuple[int, float]] = []
    numbers, lock = itertools.count(), threading.Lock()
    with started("--waiting", "64") as server:

        def visit(_: int) -> None:
            for number in iter(lambda: next(numbers), None):
                if number >= requests:
                    return
                status = _one_of_many(server.port, number)
                with lock:
                    statuses[status] += 1
                    if number % (requests // SAMPLES) == 0:
                        memory.append((number, server.memory_mib()))

        before = time.monotonic()
        run_threads(clients, visit)
        took_s = time.monotonic() - before
        memory.append((requests, server.memory_mib()))
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)) as connection:
            status, body = ask(connection, control, TEXTS)
        same = status == http.client.OK and agrees(json.loads(body), expected)
    settled = [mib for number, mib in memory if number >= requests // 5]
    growth = max(settled[len(settled) // 2 :]) - max(settled[: len(settled) // 2])
    shown = ", ".join(f"{mib:.0f}" for _, mib in memory[::2])
    others = statuses.total() - sum(statuses[status] for status in (0, 200, 422))
    lines = (
        f"{requests} requests by {clients} clients in {took_s:.0f} s: {statuses[200]} answered, {statuses[422]} broken",
        f"pictures refused, {statuses[0]} given up by their client, {others} others. The server's memory in MiB, from",
        f"the first to the last: {shown}; the most of the last two fifths less that of the two before: {growth:+.1f}.",
        f"The same question as `segment` was answered the same after all: {same}.",
    )
    return "\n".join(lines), same and growth < GROWTH_MIB and not others


def _one_of_many(port: int, number: int) -> int:
    """Ask one of the many questions; return the status, 0 where the client leaves."""
    picture = _small_picture(number)
    texts = ("dog", f"thing {number % WORDS}")
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)) as connection:
        if number % 20 == 7:
            picture = picture[: len(picture) // 2]
        if number % 50 == 13:
            body = {"image": base64.b64encode(picture).decode(), "texts": texts, "trace": True}
            connection.request("POST", "/v1/segment", json.dumps(body))
            return 0
        return ask(connection, picture, texts)[0]


def _small_picture(number: int) -> bytes:
    chance = random.Random(number)
    size = (chance.randrange(32, 65), chance.randrange(32, 65))
    image = Image.new("RGB", size, tuple(chance.randrange(256) for _ in range(3)))
    image.paste(tuple(chance.randrange(256) for _ in range(3)), (8, 8, 24, 24))
    file = io.BytesIO()
    image.save(file, chance.choice(("PNG", "JPEG", "WEBP")))
    return file.getvalue()


def main() -> None:
    """Print one of the two, with machine and commit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("load", "soak"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row of the load table")
    parser.add_argument("--requests", type=int, default=10_000, help="of the soak")
    parser.add_argument("--clients", type=int, default=8, help="of the soak")
    arguments = parser.parse_args()
    os.environ["CLIP_AS_RNN_CACHE"] = "off"
    if arguments.what == "load":
        text, fine = load_table(arguments.seconds)
    else:
        text, fine = soak(arguments.requests, arguments.clients)
    print(f"Commit {describe_commit()}; {describe_machine()}.\n\n{text}")
    sys.exit(not fine)


if __name__ == "__main__":
    main()
