"""The four doors of the program, in this process: Python, the command line, the page and the server.

Each takes a case and returns how it ended, or raises `PromiseError` where that was no right end.
"""

import base64
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from hostile_cases import Model, Picture, Texts
from hostile_pictures import PICTURE, encoded, photo
from hostile_texts import WORDS_FILE

from clip_as_rnn import loading
from clip_as_rnn.apps.cli import main
from clip_as_rnn.apps.web.clip_handler import ClipRequest, handle_clip
from clip_as_rnn.apps.web.controls import EXAMPLES, offered_controls, offered_presets
from clip_as_rnn.apps.web.handler import Request, handle
from clip_as_rnn.apps.web.uploads import VisitorFiles
from clip_as_rnn.apps.web.workers import Job
from clip_as_rnn.errors import CarError
from clip_as_rnn.io.images import read_image
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter
from serving import Client

WORDS = ["dog", "tree"]
_SAID = re.compile(r"Error: |Note: |Skipped |Loading the models$|\d+ of \d+ pictures")  # the last after half a minute
_CODES = {2: "a user's mistake", 3: "no weights"}
_STATUSES = (413, 422)
_EVERY_FORMAT = "overlay,figure,labels,masks,json,npz,coco,yolo,voc,labelme,label-studio"
_NOBODY = 65534


class PromiseError(AssertionError):
    """Something ended as nothing may."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a case ended at a door: with a result, or refused by a code or a status and a sentence."""

    is_result: bool
    code: str
    said: str = ""


def promise(holds: object, what: str) -> None:
    """Raise `PromiseError` if something does not hold."""
    if not holds:
        raise PromiseError(what)


def refused(code: object, said: str) -> Ending:
    """Check the sentence of a refusal."""
    promise(said.strip(), "nothing was said")
    promise(len(said.splitlines()) == 1, f"more than one line: {said!r}")
    promise(said.isprintable(), f"signs that a terminal obeys: {said!r}")
    promise("Traceback" not in said and "0x7f" not in said, f"not a sentence: {said!r}")
    return Ending(is_result=False, code=str(code), said=said)


@dataclass(frozen=True)
class Doors:
    """All doors before one segmenter; results go to `out`, and nothing else is written below `root`."""

    segmenter: Segmenter
    server: Client
    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    def all(self, case: Picture | Texts | Model) -> dict[str, Callable[[Any, Path], Ending]]:
        """Return the doors that a case goes through, by name."""
        match case:
            case Picture():
                return {"api": self.api, "cli": self.cli, "page": self.page, "server": self.ask}
            case Texts():
                named = {"api": self.api_texts, "cli": self.cli_texts, "page": self.page_texts}
                return {**named, "server": self.ask_texts}
            case Model():
                commands = {} if case.ends != "refused" else {"cli serve": self.cli_serve, "cli web": self.cli_web}
                return {"api": self.api_model, "cli": self.cli_model, **commands}

    # Pictures and clips

    def api(self, case: Picture, path: Path) -> Ending:
        """Ask in Python."""
        try:
            if case.is_clip:
                found = list(self.segmenter.segment_video(path, WORDS))
                promise(found, "a clip without a frame")
                return Ending(is_result=True, code="result")
            if case.pixels is not None:
                pixels = read_image(path)
                promise(pixels.shape == case.pixels.shape, f"{pixels.shape} instead of {case.pixels.shape}")
                off = np.abs(pixels.astype(int) - case.pixels).mean()
                promise(off <= case.tolerance, f"pixels are off by {off:.1f}")
            return _checked(self.segmenter.segment(path, WORDS))
        except CarError as error:
            return refused(type(error).__name__, str(error))

    def cli(self, case: Picture, path: Path) -> Ending:
        """Ask by the command `car segment`."""
        word = path.name if case.kind == "odd name" else str(path)
        frames = ["--frames"] if case.kind == "clip in a folder" else []
        return self._segment("-t", "dog", "-t", "tree", *frames, "--", word)

    def page(self, case: Picture, path: Path) -> Ending:
        """Ask as a visitor of the page: with an upload, or with the path itself where it is no file."""
        files = VisitorFiles(self.root / "page", EXAMPLES)
        named = os.fsencode(path.name).decode(errors="replace").replace("\0", "")[:60]
        chosen = self.root / "page" / "upload" / named
        chosen.parent.mkdir(parents=True, exist_ok=True)
        if _is_sent(case, path):
            shutil.copyfile(path, chosen)
        handler = self._handle_clip if case.is_clip else self._handle
        return handler(files, str(chosen if _is_sent(case, path) else path), WORDS)

    def ask(self, case: Picture, path: Path) -> Ending:
        """Ask the server: with the file's bytes, or with the path itself where it is no file."""
        if _is_sent(case, path):
            return self._answer("/v1/segment?texts=dog&texts=tree", path.read_bytes())
        return self._answer("/v1/segment", {"image": f"file://{path}", "texts": WORDS})

    # Texts

    def api_texts(self, case: Texts, _: Path) -> Ending:
        """Ask in Python."""
        try:
            return _checked(self.segmenter.segment(photo(), case.texts))  # type: ignore[arg-type] # it is what is tried
        except CarError as error:
            return refused(type(error).__name__, str(error))

    def cli_texts(self, case: Texts, place: Path) -> Ending:
        """Ask by the command: by -t where a command line can hold the words, else by a file."""
        given = case.texts if isinstance(case.texts, list) else [case.texts]
        words = [text for text in given if isinstance(text, str)]
        if case.file is not None:
            options = ["--texts-file", str(place / WORDS_FILE)]
        else:
            options = [f"--text={text}" for text in words]
        formats = _EVERY_FORMAT if len(words) < 100 else "json"
        ending = self._segment(*options, "-f", formats, "--", str(place / PICTURE))
        if ending.is_result and formats == _EVERY_FORMAT:
            found = _strictly(self.out.joinpath("picture.json").read_text())["found"]
            masks = list(self.out.joinpath("picture_masks").glob("*.png"))
            promise(len(masks) == len(found), f"{len(found)} texts, {len(masks)} masks")
        return ending

    def page_texts(self, case: Texts, place: Path) -> Ending:
        """Ask as a visitor of the page."""
        upload = self.root / "page" / "upload" / "picture.png"
        upload.parent.mkdir(parents=True, exist_ok=True)
        upload.write_bytes(encoded("PNG"))
        return self._handle(VisitorFiles(self.root / "page", EXAMPLES), str(upload), case.texts)

    def ask_texts(self, case: Texts, _: Path) -> Ending:
        """Ask the server."""
        picture = base64.b64encode(encoded("PNG")).decode()
        texts = [5 if isinstance(text, bytes) else text for text in _listed(case.texts)]  # JSON has no bytes
        given = texts if isinstance(case.texts, list) else case.texts
        return self._answer("/v1/segment", {"image": picture, "texts": given})

    # Models

    def api_model(self, case: Model, folder: Path) -> Ending:
        """Load it in Python."""
        named: dict[str, Any] = {"model": folder, "classifier": folder} if case.role == "model" else {"sam": folder}
        try:
            segmenter = loading.load_segmenter("tiny", text_cache=False, **named)
            return _checked(segmenter.segment(photo(), WORDS))
        except CarError as error:
            return refused(type(error).__name__, str(error))

    def cli_model(self, case: Model, folder: Path) -> Ending:
        """Load it by `car segment`."""
        return self._segment(*_named(case, folder), "-t", "dog", str(folder.parent / PICTURE), load=True)

    def cli_serve(self, case: Model, folder: Path) -> Ending:
        """Load it by `car serve`."""
        return self._command("serve", "--preset", "tiny", "--port", "0", *_named(case, folder))

    def cli_web(self, case: Model, folder: Path) -> Ending:
        """Load it by `car web`."""
        return self._command("web", "--preset", "tiny", "--port", "0", *_named(case, folder))

    # What they share

    def _segment(self, *arguments: str, load: bool = False) -> Ending:
        words = ["segment", "--preset", "tiny", "-o", str(self.out), *arguments]
        if load:
            return self._command(*words)
        with patch.object(loading, "load_segmenter", lambda *_, **__: self.segmenter):
            return self._command(*words)

    def _command(self, *arguments: str) -> Ending:
        """Run a command as a program's start does; see what it says and how it ends."""
        with patch.object(sys, "argv", ["car", *arguments]), spoken(self.root) as read:
            try:
                main.main()
            except SystemExit as end:
                code = end.code or 0
        out, err = read()
        promise("\x1b" not in out + err, f"signs that a terminal obeys: {out + err!r}")
        promise("Traceback" not in out + err, f"a traceback: {err}")
        lines = err.splitlines()
        promise(all(_SAID.match(line) for line in lines), f"said besides: {err!r}")
        errors = [line for line in lines if line.startswith("Error: ")]
        if code == 0:
            promise(not errors, f"ended well with {errors}")
            return Ending(is_result=True, code="0")
        promise(code in _CODES, f"the exit code {code}")
        promise(len(errors) == 1, f"errors in {len(errors)} lines: {err!r}")
        return refused(code, errors[0])

    def _handle(self, files: VisitorFiles, chosen: str, texts: object) -> Ending:
        """Do what the page does with a request about a picture."""
        preset, presets = self.segmenter.config, offered_presets(self.segmenter.config)
        controls = [control.value(preset) for control in offered_controls(preset)]

        def answer(job: Job) -> None:
            picture = files.admit("visitor", {"path": chosen})
            request = Request(
                picture=picture, texts=texts, preset=next(iter(presets)), mode="semantic", controls=controls
            )
            response = handle(request, self.segmenter, presets, lambda: files.new_results("visitor"), job)
            _strictly(response.json.read_text())

        return self._visit(files, answer)

    def _handle_clip(self, files: VisitorFiles, chosen: str, texts: object) -> Ending:
        """Do what the page does with a request about a clip."""

        def answer(job: Job) -> None:
            request = ClipRequest(clip=files.admit("visitor", {"path": chosen}), texts=texts, mode="semantic")
            response = handle_clip(request, self.segmenter, "tiny", lambda: files.new_results("visitor", "clip"), job)
            lines = response.records.read_text().splitlines()
            promise(len(lines) > 1, "a clip without a frame")
            promise(str(self.root) not in "".join(lines), "a path of the server in the records")
            for line in lines:
                _strictly(line)

        return self._visit(files, answer)

    def _visit(self, files: VisitorFiles, answer: Callable[[Job], None]) -> Ending:
        """Be answered by the page, and leave."""
        try:
            answer(Job(lambda _: None))
            return Ending(is_result=True, code="result")
        except CarError as error:
            promise(str(self.root) not in str(error), f"a path of the server: {error}")
            return refused("told", str(error))
        finally:
            files.leave("visitor")
            promise(not [one for one in files.root.rglob("*") if one.is_file()], "files of a visitor who has left")

    def _answer(self, path: str, body: Any) -> Ending:
        response = self.server.post(path, body)
        content = _strictly(response.body.decode())
        if response.status == 200:
            return Ending(is_result=True, code="200")
        promise(response.status in _STATUSES, f"the status {response.status}: {content}")
        promise(set(content) == {"error"}, f"another answer than an error: {content}")
        return refused(response.status, content["error"])


def _listed(texts: object) -> list[Any]:
    return list(texts) if isinstance(texts, list) else []


def _named(case: Model, folder: Path) -> list[str]:
    return ["--model", str(folder), "--classifier", str(folder)] if case.role == "model" else ["--sam", str(folder)]


def _is_sent(case: Picture, path: Path) -> bool:
    """Tell whether a client could send it: a file of the disk that can be read."""
    try:
        return path.is_file() and not case.is_private and path.parts[1] not in ("proc", "dev")
    except (OSError, ValueError):
        return False


def _checked(result: Segmentation) -> Ending:
    """Check that a result keeps to its own rules."""
    height, width = result.size_hw
    promise(result.masks.shape == (len(result.texts), height, width), f"masks of {result.masks.shape}")
    promise(bool(np.isfinite(result.scores).all()), f"scores of {result.scores}")
    promise(len(result.texts) + len(result.rejections) == len(result.queries), "a text without an answer")
    return Ending(is_result=True, code="result")


def _strictly(content: str) -> Any:
    """Read JSON as its standard has it."""

    def refuse(name: str) -> None:
        raise PromiseError(f"{name} in JSON")

    return json.loads(content, parse_constant=refuse)


@contextmanager
def spoken(root: Path) -> Iterator[Callable[[], tuple[str, str]]]:
    """Collect what is printed, by Python or past it, from here on; yield what returns it when all is done."""
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile(dir=root) as out, tempfile.TemporaryFile(dir=root) as err:
        read: list[str] = []
        streams = [open(os.dup(file.fileno()), "w", encoding="utf-8") for file in (out, err)]  # noqa: PTH123, SIM115
        os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
        try:
            with patch.object(sys, "stdout", streams[0]), patch.object(sys, "stderr", streams[1]):
                yield lambda: (read[0], read[1])
        finally:
            for stream in streams:
                stream.close()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            for file in (out, err):
                file.seek(0)
                read.append(file.read().decode("utf-8", "replace"))


@contextmanager
def without_rights(wanted: bool) -> Iterator[None]:
    """Give up an administrator's rights for a while, where this process has them."""
    if not wanted or os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
