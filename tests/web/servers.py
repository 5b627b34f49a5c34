"""Servers and browsers for the tests of the page: each server is a process of its own, as users start it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STARTING_S = 300  # on a machine that is busy with other work
EXAMPLE = Path(__file__).parents[2] / "examples" / "park.jpg"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no name resolves: nothing outside can be reached
)


@dataclass(frozen=True)
class Server:
    """A page that is served: where, by which process, with what it said, where visitors' files lie, and its cache."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    folder: Path
    cache: Path

    def rss_kb(self) -> int:
        """Return the resident memory of the process."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))

    def visitors_files(self) -> list[Path]:
        """List every file that a visitor uploaded or was given."""
        return [path for path in self.folder.rglob("*") if path.is_file()]


@contextmanager
def serving(arguments: Sequence[str], folder: Path, **variables: str) -> Iterator[Server]:
    """Start `python *arguments PORT` without any way to the outside, and wait until it answers."""
    port, log = _free_port(), folder / "server.log"
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        **{
            "TMPDIR": str(temporary),
            "CLIP_AS_RNN_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            **variables,
        },
    }
    with log.open("wb") as file:
        command = [sys.executable, *arguments, str(port)]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _await(url, process, log)
        yield Server(url, process, log, temporary, folder / "cache")
    finally:
        process.terminate()
        process.wait(STARTING_S)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTING_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"The page did not start: {log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
