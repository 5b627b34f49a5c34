"""`docs/server.md` is true: every command and every program in it runs against a server."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cvat_cli.__main__ import COMMANDS, configure_common_arguments

import command
from clip_as_rnn import load_segmenter
from clip_as_rnn.integrations.cvat import create
from command import Ending
from serving import Client, serving

car, loads = command.car, command.loads  # fixtures

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
LINES = [line.strip() for line in re.sub(r"\\\n\s*", "", PAGE).splitlines() if line.startswith("    ")]
CURL = [line for line in LINES if line.startswith("curl ")]
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SCRIPT = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
SERVE = re.findall(r"(?:CAR_SERVER_TOKEN=\S+ )?car serve(?: --?[^`#\n]*)?", PAGE)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    segmenter = load_segmenter("tiny", text_cache=False, crf=False)
    with serving(segmenter, token="TOKEN", texts=("dog", "tree")) as running:
        yield running


@pytest.fixture
def run(client: Client, tmp_path: Path) -> Callable[..., str]:
    """Run a program where there is a photo, with the server's address in place of the page's and its token."""
    shutil.copy(ROOT / "examples" / "park.jpg", tmp_path / "photo.jpg")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [word.replace("http://127.0.0.1:8000", client.url) for word in words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("line", CURL)
def test_the_lines_for_curl_answer(run: Callable[..., str], line: str):
    words = shlex.split(line)
    token = [] if "Bearer" in line else ["-H", "Authorization: Bearer TOKEN"]
    assert run(*words, *token, "--fail", "-sS").startswith(('{"size":', "["))


@pytest.mark.parametrize("program", PYTHON)
def test_the_python_programs_answer(run: Callable[..., str], program: str):
    asked = program.replace(':8000")', ':8000", token="TOKEN")')
    asked = asked.replace("json.dumps(body).encode()", 'json.dumps(body).encode(), {"Authorization": "Bearer TOKEN"}')
    asked = asked.replace('"cat", "cup"', '"dog", "tree"')
    assert "dog" in run(sys.executable, "-c", asked)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.parametrize("program", SCRIPT)
def test_the_programs_for_javascript_answer(run: Callable[..., str], program: str):
    asked = program.replace("texts=cat", "texts=dog")
    asked = asked.replace('method: "POST",', 'method: "POST", headers: { Authorization: "Bearer TOKEN" },')
    assert re.match(
        r"dog 0\.\d+ \[ \d+, \d+, \d+, \d+ \] data:image/png;base64,iVBOR",
        run("node", "--input-type=module", "-e", asked),
    )


@pytest.mark.parametrize("line", SERVE)
def test_the_lines_that_start_a_server_start_one(
    car: Callable[..., Ending], monkeypatch: pytest.MonkeyPatch, line: str
):
    started: list[Any] = []
    monkeypatch.setattr("clip_as_rnn.apps.server.run.serve", lambda *arguments: started.append(arguments))
    monkeypatch.delenv("CAR_SERVER_TOKEN", raising=False)
    words = shlex.split(line)
    for name, _, value in (word.partition("=") for word in words[: words.index("car")]):
        monkeypatch.setenv(name, value)
    end = car(*words[words.index("car") + 1 :])
    assert (end.code, len(started)) == (0, 1), end.err


def test_the_line_for_cvat_is_one_of_its_command_and_loads():
    (line,) = [line for line in LINES if line.startswith("cvat-cli ")]
    parser = argparse.ArgumentParser()
    configure_common_arguments(parser)
    COMMANDS.configure_parser(parser)
    parsed = parser.parse_args(shlex.split(line)[1:])
    assert (parsed.task_id, parsed.function_module) == (42, "clip_as_rnn.integrations.cvat")
    function = create(**parsed.function_parameters)
    assert [label.name for label in function.spec.labels] == ["Cat", "cup"]


def test_the_page_has_a_line_for_each_client():
    assert (len(CURL), len(PYTHON), len(SCRIPT)) == (3, 2, 1)
    assert len(SERVE) >= 5
