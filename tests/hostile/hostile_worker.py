"""A process that tries cases at the doors, one after the other, and says what became of each.

It works in a folder of its own, which holds all that programs usually write to: home, temporary files, caches.
"""

import ctypes
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hostile_bombs import bombs
from hostile_cases import Case, Model, Picture, Place, Texts
from hostile_clips import clips
from hostile_models import models, sound_folder
from hostile_pictures import PICTURE, encoded, photo, pictures
from hostile_texts import WORDS_FILE, texts

GROUPS: dict[str, Callable[[], list[Any]]] = {
    "pictures": lambda: [*pictures(), *bombs(), *clips()],
    "texts": texts,
    "models": models,
}
_WAIT_S = 500.0  # for an answer of the server, where others use the machine, too
_MEGABYTE = 1024  # kilobytes
_OURS = ("out", "page", "cache")
_FOR_FEW = {
    "page": ("largest allowed", "clip in a folder"),
    "server": ("largest allowed",),
}  # what strangers may not ask


@dataclass(frozen=True)
class Try:
    """What became of one case at one door; `fault` says what was no right end."""

    door: str
    outcome: str
    said: str
    seconds: float
    peak_mb: float
    fault: str = ""


@cache
def cases(group: str) -> list[Case]:
    """List the cases of a group; the same on every call in every process."""
    return GROUPS[group]()


def expected(case: Case, door: str) -> str:
    """Say how a case must end at a door."""
    if isinstance(case, Picture) and case.kind in _FOR_FEW.get(door, ()):
        return "refused"
    if isinstance(case, Picture) and case.is_clip and door == "server":
        return "refused"
    if isinstance(case, Texts):
        if door == "cli" and case.command:
            return case.command
        if door in ("page", "server") and case.strangers:
            return case.strangers
    return case.ends


def work(connection: Connection, root: Path) -> None:
    """Answer each (group, number) that comes with what became of the case at every door, door by door."""
    surround(root)
    logging.getLogger("clip_as_rnn").addHandler(logging.NullHandler())  # what is said of pictures in Python
    from hostile_doors import WORDS, Doors  # loads torch, after the surroundings are set

    import serving
    from clip_as_rnn import load_segmenter
    from clip_as_rnn.apps.server.limits import Limits

    settings = {"classify_by": "mask-tokens", "templates": (), "contrast_texts": (), "score_threshold": 0.0}
    segmenter = load_segmenter("tiny", text_cache=False, **settings)
    serving.WAIT_S = _WAIT_S
    segmenter.segment(photo(), WORDS)  # what is compiled at the first use is no case's time
    with listener() as (port, calls), serving.serving(segmenter, Limits(seconds=_WAIT_S)) as server:
        doors = Doors(segmenter, server, root)
        connection.send("ready")
        while (asked := connection.recv()) is not None:
            for one in tries(doors, cases(asked[0])[asked[1]], port, calls):
                connection.send(one)
            connection.send(None)
    os._exit(0)  # whatever a case has left behind


def surround(root: Path) -> None:
    """Turn everything that programs write to into a folder."""
    root.chmod(0o777)
    for variable, name in (("HOME", "home"), ("TMPDIR", "tmp"), ("CLIP_AS_RNN_CACHE", "cache"), ("HF_HOME", "hub")):
        (root / name).mkdir()
        (root / name).chmod(0o777)
        os.environ[variable] = str(root / name)
    tempfile.tempdir = None
    os.environ |= {"HF_HUB_OFFLINE": "1", "NO_PROXY": "*", "COLUMNS": "200"}


@contextmanager
def listener() -> Iterator[tuple[int, list[object]]]:
    """Listen for requests that nobody should make; yield the port, and the list of who called."""
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as door:

        def take() -> None:
            with suppress(OSError):
                while True:
                    caller, address = door.accept()
                    calls.append(address)
                    caller.close()

        threading.Thread(target=take, daemon=True).start()
        yield door.getsockname()[1], calls


def tries(doors: Any, case: Case, port: int, calls: list[object]) -> Iterator[Try]:
    """Make the case anew for each door, and try it there."""
    for name, door in doors.all(case).items():
        place = doors.root / "case"
        _remove(place), _remove(doors.out)
        place.mkdir(), doors.out.mkdir(), doors.out.chmod(0o777)
        (place / PICTURE).write_bytes(encoded("PNG"))
        os.chdir(place)
        subject = _made(case, Place(folder=place, port=port))
        before = listing(doors.root)
        reset_peak()
        started = time.perf_counter()
        outcome, said, fault = _ended(door, case, subject, expected(case, name))
        seconds = time.perf_counter() - started
        faults = [fault] if fault else []
        if left := sorted(listing(doors.root) - before):
            faults.append(f"written outside -o: {left[:3]}")
        if calls:
            faults.append(f"an address was asked: {calls}")
            calls.clear()
        yield Try(name, outcome, said, seconds, peak_mb(), "; ".join(faults))
        os.chdir(doors.root)


def _made(case: Case, place: Place) -> Path:
    if isinstance(case, Picture):
        return case.make(place)
    if isinstance(case, Model):
        folder = sound_folder(case, place.folder)
        case.spoil(folder)
        return folder
    if case.file is not None:
        (place.folder / WORDS_FILE).write_bytes(case.file)
    return place.folder


def _ended(door: Callable[[Any, Path], Any], case: Case, subject: Path, ends: str) -> tuple[str, str, str]:
    """Try a door; return the outcome, what was said, and the fault if it is one."""
    from hostile_doors import PromiseError, without_rights

    try:
        with without_rights(isinstance(case, Picture) and case.is_private):
            ending = door(case, subject)
    except PromiseError as error:
        return "broken", "", str(error)
    except BaseException as error:  # whatever it is, it is a fault, and the next case is tried
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "broken", "", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    outcome = "right" if ending.is_result else "refused"
    fault = "" if ends in ("either", outcome) else f"{outcome} instead of {ends}: {ending.said}"
    return f"{outcome} ({ending.code})", ending.said, fault


def listing(root: Path) -> set[str]:
    """List everything below a folder that is not written by right, with sizes."""
    found = set()
    for folder, names, files in os.walk(root):
        if Path(folder) == root:
            names[:] = [name for name in names if name not in _OURS]
        for name in files:
            path = Path(folder) / name
            found.add(f"{path.relative_to(root)} {path.lstat().st_size}")
    return found


def _remove(folder: Path) -> None:
    for path in folder.glob("*/"):
        with suppress(OSError):
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def reset_peak() -> None:
    """Begin anew to count the most memory that this process holds; what others have freed goes back to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return the most memory that this process held since, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / _MEGABYTE
