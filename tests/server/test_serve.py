"""The command `car serve`: how it begins, what it refuses before it listens, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path

import pytest

import command
from clip_as_rnn.apps.cli import serve
from clip_as_rnn.apps.server.run import Address
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import InputError, WeightsError
from clip_as_rnn.presets import PRESETS
from command import Ending

car, loads = command.car, command.loads  # fixtures

PARK = Path(__file__).parents[2] / "examples" / "park.jpg"


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_it_serves_until_sigterm_finishes_what_it_began_and_leaves_nothing_of_its_clients(tmp_path: Path):
    words = [sys.executable, "-m", "clip_as_rnn.apps.cli.main", "serve", "--preset", "tiny", "--port", "0", "-t", "dog"]
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "CLIP_AS_RNN_CACHE"), str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **places}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as car:
        try:
            line = next(line for line in car.stderr if "http://" in line)
            port = int(re.search(r"http://127\.0\.0\.1:(\d+) ", line).group(1))
            with (
                closing(HTTPConnection("127.0.0.1", port)) as asking,
                closing(HTTPConnection("127.0.0.1", port)) as other,
            ):
                asking.request("POST", "/v1/segment?masks=none&texts=dog&texts=hippogriff", PARK.read_bytes())
                other.request("GET", "/health")
                assert other.getresponse().read()  # the request before it is being answered now
                car.send_signal(signal.SIGTERM)
                answer = asking.getresponse()
                assert (answer.status, b'"text":"dog"' in answer.read()) == (200, True)
            assert car.wait(60) == 0
            assert car.stderr.read() == "The server has stopped.\n"
            assert refused(port)
        finally:
            car.kill()
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".nbi", ".nbc")]
    assert left == []  # but for what numba compiled


def test_a_port_in_use_is_said_before_anything_is_loaded(car: Callable[..., Ending], loads: list[object]):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        end = car("serve", "--port", str(port))
    line = f"Error: The server cannot listen on 127.0.0.1:{port}: Address already in use; try another --port.\n"
    assert (end.code, end.err, loads) == (2, line, [])


def test_weights_that_cannot_be_had_end_it_before_it_listens(
    car: Callable[..., Ending], monkeypatch: pytest.MonkeyPatch
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listened = []

    def fail(*_: object, **options: object) -> None:
        listened.append(not refused(port))
        assert options["text_cache"] is False
        raise WeightsError("The weights of 'a' cannot be had; use --preset tiny.")

    monkeypatch.setattr("clip_as_rnn.loading.load_segmenter", fail)
    end = car("serve", "--port", str(port))
    message = "Loading the models\nError: The weights of 'a' cannot be had; use --preset tiny.\n"
    assert (end.code, end.err, listened) == (3, message, [False])


def test_a_missing_extra_is_said_with_its_command(car: Callable[..., Ending], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "fastapi" else find_spec(name))
    end = car("serve")
    assert (end.code, end.err) == (
        2,
        "Error: The server needs fastapi; install it with: pip install 'clip-as-rnn[server]'.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "tini"], "No preset named 'tini'. Did you mean 'tiny'? Known: default, "),
        (["--host", "0.0.0.0"], "Expected a token in CAR_SERVER_TOKEN to listen on '0.0.0.0'; others can reach that."),
        (["--cors", "*"], "Expected an origin as https://host or https://host:port, but got '*'."),
        (["--dtype", "int8"], "Expected dtype to be one of auto, "),
        (["--waiting", "0"], "Expected the limit `waiting` to be above zero, but got 0."),
        (["--set", "crv=1"], "No setting named 'crv'. Did you mean 'crf'? Known: "),
        (["--port", "70000"], "Invalid value for '--port': "),
        (["--host", "999.1.1.1"], "Expected a token in CAR_SERVER_TOKEN to listen on '999.1.1.1'; "),
    ],
)
def test_a_mistake_ends_with_one_line_and_code_2(
    car: Callable[..., Ending],
    loads: list[object],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
):
    monkeypatch.delenv("CAR_SERVER_TOKEN", raising=False)
    end = car("serve", *arguments)
    assert (end.code, end.out, loads) == (2, "", [])
    assert end.err.startswith(f"Error: {message}")
    assert end.err.count("\n") == 1


def test_an_address_that_is_not_this_machines_is_said(car: Callable[..., Ending], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAR_SERVER_TOKEN", "secret")
    end = car("serve", "--host", "192.0.2.1")
    assert end.code == 2
    assert end.err.startswith("Error: The server cannot listen on 192.0.2.1:8000: ")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_token(host: str):
    assert Address(host=host).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_everything_else_does_and_never_shows_it(host: str):
    with pytest.raises(InputError, match="Expected a token"):
        Address(host=host, token="")
    assert "secret" not in repr(Address(host=host, token="secret"))


def test_presets_without_a_limit_of_their_own_get_one_and_it_is_said(
    car: Callable[..., Ending], monkeypatch: pytest.MonkeyPatch
):
    given: list[SegmenterConfig] = []

    def load(config: SegmenterConfig, **_: object) -> None:
        given.append(config)
        raise WeightsError("stop here")

    monkeypatch.setattr("clip_as_rnn.loading.load_segmenter", load)
    assert PRESETS["paper-voc"].max_side_px is None
    end = car("serve", "--preset", "paper-voc", "--port", "0")
    assert end.err.startswith("Note: Pictures larger than 1024 pixels are segmented at 1024; ")
    assert given[0].max_side_px == 1024
