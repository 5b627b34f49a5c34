"""What lies on the disk after signals at any moment, on full, read-only and vanished folders.

`car` runs in forks of this process, which has loaded what it imports: a run begins at once and is ended anywhere.
"""

import ctypes
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from benchmarks.soak_calls import SCENES, Row
from clip_as_rnn import Segmentation, load_segmenter
from clip_as_rnn.apps.cli import main as cli
from clip_as_rnn.export.files import Format, Result, save
from clip_as_rnn.io.images import read_image

FORMATS: tuple[Format, ...] = ("labels", "masks", "json", "npz", "overlay")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
TEXTS = ("-t", "dog", "-t", "car", "-t", "tree")
PATIENCE_S = 300
_INTERRUPTED = "Interrupted; every file that was written is complete."
_AGAIN_S = 3.0
_END_WITH_PARENT = 1  # of Linux' prctl
_BUG = 70  # the exit code of a fork that ended in a traceback
_WRITE_S = 0.25  # in which a fork has written some results
_NOT_ROOT = "not tried: mounting needs root"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run of `car` ended: its exit code, minus the signal's number where one ended it, and what it said."""

    code: int
    said: str

    @property
    def is_a_line(self) -> bool:
        """Tell whether it ended as documented: in silence, or with one line that is no traceback."""
        if self.code == 130:
            return self.said.strip().splitlines()[-1:] in ([], [_INTERRUPTED])
        return "Traceback" not in self.said and self.code in (0, 1, 2, -signal.SIGTERM, -signal.SIGKILL)


def soak_files(place: Path, writes_killed: int, runs_killed: int) -> Iterator[Row]:
    """Try all of it below `place`, one row after the other."""
    for number in SIGNALS:
        yield _kill_writes(place / f"writes-{number.name}", number, writes_killed)
    for number in SIGNALS:
        yield _kill_runs(place / f"runs-{number.name}", number, runs_killed)
    yield from _small_disks(place / "disk")
    yield _vanishing(place / "vanishing", runs_killed)


def _kill_writes(folder: Path, number: signal.Signals, kills: int) -> Row:
    """End a fork that writes two results in turn under one name; whatever lies there is of one of them, and whole."""
    image = read_image(sorted(SCENES.glob("*"))[0])
    segmenter = load_segmenter("tiny", device="cpu")
    found = [segmenter.segment(image, texts, trace=True) for texts in (("dog", "car", "tree"), ("house", "sun"))]
    results = [Result(one, image) for one in found]
    chance, faults = random.Random(int(number)), []

    def write() -> None:
        while True:
            for result in results:
                save(result, folder, stem="photo", formats=FORMATS)

    for _ in range(kills):
        child = _fork(write, folder.with_suffix(".log"))
        time.sleep(chance.uniform(0.01, _WRITE_S))
        os.kill(child, number)
        _await(child, number)
        faults += [*broken_files(folder), *mixed_files(folder, found)]
    return Row(f"{kills} times {number.name} while results are written", _count(faults), not faults)


def mixed_files(folder: Path, found: Sequence[Segmentation]) -> list[str]:
    """Name the files below `folder` that are of another result than the first of them."""
    owners = {}
    for name, texts_of in _TEXTS_OF.items():
        if (path := folder / f"photo{name}").exists():
            texts = texts_of(path)
            owners[name] = next((i for i, one in enumerate(found) if texts == one.texts), None)
    return [f"photo{name} is of another result" for name, i in owners.items() if i != next(iter(owners.values()))]


def _texts_of_json(path: Path) -> tuple[str, ...]:
    return tuple(one["text"] for one in json.loads(path.read_text(encoding="utf-8"))["found"])


def _texts_of_arrays(path: Path) -> tuple[str, ...]:
    with np.load(path, allow_pickle=False) as arrays:
        return tuple(arrays["texts"].tolist())


def _texts_of_masks(folder: Path) -> tuple[str, ...]:
    return tuple(path.stem.partition("_")[2] for path in sorted(folder.iterdir()))


def _texts_of_labels(path: Path) -> tuple[str, ...]:
    return tuple(json.loads(path.read_text(encoding="utf-8")).values())[1:]


_TEXTS_OF: dict[str, Callable[[Path], tuple[str, ...]]] = {
    ".json": _texts_of_json,
    ".npz": _texts_of_arrays,
    "_masks": _texts_of_masks,
    "_labels.json": _texts_of_labels,
}


def _kill_runs(folder: Path, number: signal.Signals, kills: int) -> Row:
    """End `car segment` and `car evaluate` at random moments; what they wrote is whole, and what they say one line."""
    pictures = make_pictures(folder / "in", 6)
    commands = {
        "segment": ["segment", str(pictures), *TEXTS, "-f", "labels,masks,json,npz,coco", "--overwrite"],
        "evaluate": ["evaluate", "scenes", "--limit", "4", "--save-predictions"],
    }
    chance, faults = random.Random(int(number)), []
    for name, command in commands.items():
        out = folder / name
        arguments = [*command, "--preset", "tiny", "-o", str(out)]
        started = time.perf_counter()
        run_car(arguments, out)
        whole_s = time.perf_counter() - started
        for _ in range(kills):
            ending = run_car(arguments, out, number, chance.uniform(0, whole_s))
            faults += broken_files(out)
            faults += [] if ending.is_a_line else [f"{name} ended with {ending.code}: {ending.said[-300:]}"]
    return Row(f"{2 * kills} times {number.name} to `car segment` and `car evaluate`", _count(faults), not faults)


def _small_disks(folder: Path) -> Iterator[Row]:
    """Write to file systems that are read-only or too small, and keep features of texts on one."""
    folder.mkdir(parents=True)
    pictures = make_pictures(folder.parent / "small", 3)
    segment = ["segment", str(pictures), *TEXTS, "-f", "labels,masks,json,npz,overlay,coco"]
    yield _write_to_small_disks("car segment", segment, (4, 16, 64, 160), folder)
    yield _write_to_small_disks("car evaluate", ["evaluate", "scenes", "--limit", "3"], (4, 8, 12), folder)
    with _mounted(folder, "size=4k") as mounted, _environment("CLIP_AS_RNN_CACHE", str(folder)):
        command = [*segment, "--preset", "tiny", "-o", str(folder.parent / "beside")]
        ending = run_car(command, folder.parent / "log") if mounted else Ending(0, "")
    what = "`car segment` whose text cache lies on a full disk"
    yield Row(what, f"exit code {ending.code}" if mounted else _NOT_ROOT, ending == Ending(0, ending.said))


def _write_to_small_disks(name: str, command: Sequence[str], sizes_kib: Sequence[int], folder: Path) -> Row:
    """Run a command whose output fits on none of these disks, and once on one that is read-only."""
    faults, codes = [], []
    for size_kib in (None, *sizes_kib):
        with _mounted(folder, f"size={size_kib or sizes_kib[-1]}k") as mounted:
            if not mounted:
                return Row(f"`{name}` on a full disk", _NOT_ROOT, True)
            if size_kib is None:
                subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            ending = run_car([*command, "--preset", "tiny", "-o", str(folder / "out")], folder.parent / "log")
            faults += broken_files(folder)
            faults += [] if ending.is_a_line and ending.code else [f"{ending.code}: {ending.said[-300:]}"]
            codes.append(ending.code)
    what = f"`{name}` on a read-only disk and on disks of {', '.join(map(str, sizes_kib))} KiB"
    return Row(what, f"exit codes {', '.join(map(str, codes))}; {_count(faults)}", not faults)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _vanishing(folder: Path, times: int) -> Row:
    """Take the output folder away while `car segment` writes to it."""
    pictures = make_pictures(folder / "in", 6)
    out, chance, faults, codes = folder / "out", random.Random(0), [], set()
    command = ["segment", str(pictures), *TEXTS, "--preset", "tiny", "-o", str(out), "--overwrite"]
    started = time.perf_counter()
    run_car(command, out)
    whole_s = time.perf_counter() - started
    for _ in range(times):
        child = _fork(lambda: _car(command), out.with_suffix(".log"))
        time.sleep(chance.uniform(0, whole_s))
        shutil.rmtree(out, ignore_errors=True)
        code = _await(child)
        ending = Ending(code, out.with_suffix(".log").read_text(errors="replace"))
        codes.add(code)
        faults += broken_files(out)
        faults += [] if ending.is_a_line else [f"{ending.code}: {ending.said[-300:]}"]
    return Row(f"{times} times the output folder vanishes", f"exit codes {sorted(codes)}; {_count(faults)}", not faults)


def run_car(arguments: Sequence[str], out: Path, number: signal.Signals | None = None, after_s: float = 0.0) -> Ending:
    """Run `car` in a fork, send it a signal after so many seconds if one is named, and say how it ended."""
    log = out.with_suffix(".log")
    child = _fork(lambda: _car(arguments), log)
    if number is not None:
        time.sleep(after_s)
        with suppress(ProcessLookupError):
            os.kill(child, number)
    return Ending(_await(child), log.read_text(errors="replace"))


def _car(arguments: Sequence[str]) -> None:
    sys.argv = ["car", *arguments]
    cli.main()


def _fork(work: Callable[[], object], log: Path) -> int:
    """Do the work in a fork whose output goes to a file; its exit code is the work's, or 70 for a bug."""
    log.parent.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)  # else it would write for ever
    code = 0
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        code = _BUG
    finally:
        os._exit(code)


def _await(child: int, number: signal.Signals | None = None) -> int:
    """Wait for a fork; 70 where it had to be killed for taking too long.

    A signal is sent anew now and then: Python drops what it raises in the hooks that run right after a fork.
    """
    started = again = time.monotonic()
    while time.monotonic() < started + PATIENCE_S:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if number is not None and time.monotonic() > again + _AGAIN_S:
            again = time.monotonic()
            os.kill(child, number)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return _BUG


def broken_files(folder: Path) -> list[str]:
    """Open every file that is under its final name; name those that are not whole."""
    broken = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.endswith(".part") for part in path.relative_to(folder).parts):
            try:
                _read_whole(path)
            except (OSError, ValueError, SyntaxError, EOFError, BadZipFile, zlib.error) as error:
                broken.append(f"{path.name}: {error}")
    return broken


def _read_whole(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix in (".png", ".jpg"):
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".npz":
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            for name in arrays:
                arrays[name].tobytes()


def make_pictures(folder: Path, count: int) -> Path:
    """Copy some scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(path for path in SCENES.rglob("*") if path.suffix in (".png", ".jpg"))[:count]:
        shutil.copy(path, folder)
    return folder


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[bool]:
    """Mount a file system of this size in memory; False where that is not allowed."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "soak", str(folder)], check=False)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)


def _count(faults: Sequence[str]) -> str:
    return "no fault" if not faults else f"{len(faults)} faults, the first: {' '.join(faults[0].split())}"
