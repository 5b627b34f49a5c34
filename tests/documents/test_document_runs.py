"""The documents' commands and programs run as they stand, offline, on small stand-ins: see `surroundings`.

Run by `make test-documents`, not by `make test`: together they take half a minute. What is not run, and why: `excused`.
"""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from excused import excuse
from surroundings import fill_cache, fill_folder

from clip_as_rnn.apps.cli import main
from documents import ROOT, Block, Command, read_blocks, read_mentions

BLOCKS = read_blocks()
ELSEWHERE = (  # their programs are held by tests/server/test_server_docs.py, the last test, test_documents.py
    "docs/server.md",
    "docs/web.md",
    "docs/car-on-one-screen.md",
)
GIVEN: dict[str, dict[str, Any]] = {  # what a page's programs take from their reader
    "docs/crf.md": {
        "image": np.zeros((12, 16, 3), np.uint8),
        "clip": np.zeros((3, 12, 16, 3), np.uint8),
        "probabilities": np.full((2, 12, 16), 0.5, np.float32),
    },
}
PATIENCE_S = 300.0  # a busy machine takes minutes to import Gradio
RUN_BLOCKS = [block for block in BLOCKS if any(not excuse(command) for command in block.commands)]
PROGRAMS = [block for block in BLOCKS if block.language == "python" and block.page not in ELSEWHERE]
MENTIONS = {command.text: command for command in read_mentions() if not excuse(command) and len(command.words) > 2}
pytestmark = pytest.mark.skipif(not (ROOT / "data").exists(), reason="the source distribution leaves the data out")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with everything; and the Hub's cache, filled."""
    cache, folder = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("template")
    fill_cache(cache)
    fill_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        yield folder


@pytest.fixture
def started(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Work in a fresh copy of the folder; list what would have been served instead of serving it."""
    shutil.copytree(template, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    served: list[object] = []
    monkeypatch.setattr("clip_as_rnn.apps.server.run.serve", lambda address, load, say: served.append(load()))
    monkeypatch.setattr("clip_as_rnn.apps.web.server.serve", lambda segmenter, *_: served.append(segmenter))
    return served


def type_in(command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command as the shell would, in this process."""
    monkeypatch.setattr(sys, "argv", command.words)
    with monkeypatch.context() as patch:
        for name, value in command.environment.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            main.main()
    assert not end.value.code, f"{command}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("block", RUN_BLOCKS, ids=str)
def test_commands_run_one_after_the_other(
    block: Block, started: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for command in block.commands:
        if not excuse(command):
            type_in(command, monkeypatch, capsys)
    assert len(started) == sum(command.words[1] in {"serve", "web"} for command in block.commands)
    made = [word for command in block.commands if not excuse(command) for word in outputs(command)]
    assert [folder for folder in made if not any(Path(folder).iterdir())] == []


def outputs(command: Command) -> list[str]:
    """The folders that a command names behind `-o`."""
    words = shlex.split(command.bare)
    return [words[i + 1] for i, word in enumerate(words) if word == "-o"]


@pytest.mark.parametrize("command", MENTIONS.values(), ids=str)
def test_commands_within_sentences_run(
    command: Command, started: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    type_in(command, monkeypatch, capsys)
    assert len(started) == (command.words[1] in {"serve", "web"})


@pytest.mark.parametrize("page", sorted({block.page for block in PROGRAMS}))
def test_the_programs_of_a_page_run_one_after_the_other(page: str, started: list[object]):
    names = dict(GIVEN.get(page, {}))
    for block in PROGRAMS:
        if block.page == page:
            if "clip.shape" in block.text:
                names["probabilities"] = np.full((2, *names["clip"].shape[:3]), 0.5, np.float32)
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)


def test_the_program_that_shows_the_page_shows_it():
    (program,) = [block for block in BLOCKS if block.language == "python" and block.page == "docs/web.md"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-c", program.text], env=environment) as page:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not answers(port):
                assert page.poll() is None, "it ended"
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.2)
        finally:
            page.terminate()


def answers(port: int) -> bool:
    """Say whether the page is up."""
    try:
        with urlopen(f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as answer:
            return b"gradio" in answer.read()
    except URLError:
        return False
