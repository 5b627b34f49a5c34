"""Hostile requests over real sockets: each is answered as it should be, and the server answers on."""

import http.client
import json
import logging
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from clip_as_rnn import Segmenter, load_segmenter
from clip_as_rnn.apps.server.limits import Limits
from hostile_requests import CLOSED, KINDS, SEGMENT, Attack, request
from serving import Client, await_true, made_up, picture, serving

HANG_S = 30.0
GROWTH_BYTES = 1_500_000_000


@pytest.fixture(scope="module")
def tiny() -> Segmenter:
    return load_segmenter("tiny", text_cache=False, crf=False)


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """Listen on this machine, where nothing may arrive."""
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        waiting.settimeout(0)
        yield waiting
        with pytest.raises(BlockingIOError):
            waiting.accept()


@pytest.fixture(scope="module")
def client(tiny: Segmenter, listener: socket.socket) -> Iterator[Client]:
    """A server that would fetch from the listener, were its address not private."""
    names = ("127.0.0.1", "localhost", "localhost.", "127.1", "0x7f000001", "[::ffff:127.0.0.1]", "::ffff:127.0.0.1")
    hosts = [f"{name}:{listener.getsockname()[1]}" for name in names]
    with serving(tiny, Limits(body_seconds=1.0), image_hosts=hosts) as running:
        yield running


def send(client: Client, attack: Attack) -> tuple[int, bytes]:
    """Send bytes, and return status and body of what comes back, CLOSED where nothing does."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=HANG_S) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it hung up in the middle; it may have answered
            connection.sendall(attack.wire)
        answer = http.client.HTTPResponse(connection, method=attack.wire.partition(b" ")[0].decode("latin-1"))
        try:
            answer.begin()
            return answer.status, answer.read()
        except (http.client.BadStatusLine, ConnectionResetError):
            return CLOSED, b""


def is_one_sentence(body: bytes) -> bool:
    error = json.loads(body)["error"]
    return 0 < len(error) < 500 and "\n" not in error and "Traceback" not in error


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_requests_are_refused_in_a_sentence_and_the_server_answers_on(
    client: Client,
    listener: socket.socket,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
):
    wrong = []
    for attack in KINDS[kind](f"127.0.0.1:{listener.getsockname()[1]}"):
        status, body = send(client, attack)
        is_ours = status in (403, 408, 413, 421, 422) or (status == 404 and body != b"")
        if status not in attack.statuses or (is_ours and not is_one_sentence(body)):
            wrong.append((attack.name, status, body[:200]))
    assert wrong == []
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []
    assert "Traceback" not in capfd.readouterr().err
    assert client.post(SEGMENT, picture()).status == 200
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_there_are_more_than_two_hundred_and_each_has_a_name_of_its_own():
    names = [attack.name for kind in KINDS.values() for attack in kind("127.0.0.1:1")]
    assert len(set(names)) == len(names) > 200


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer wrong", "Basic !!!!", "Digest x", "Bearer " + "x" * 9000, "Bearer \x00é"]
)
def test_wrong_tokens_are_refused_before_the_body_is_read(shown: str):
    with serving(made_up(), token="a long secret") as client:
        header = (f"Authorization: {shown}",) if shown else ()
        status, _ = send(client, Attack("token", request(SEGMENT, b"", *header, length=1000), (401,)))
        assert status == (400 if "\x00" in shown else 401)
        assert client.post(SEGMENT, picture(), Authorization="Bearer a long secret").status == 200


def test_thousands_of_unknown_names_are_refused_at_once(client: Client):
    body = {f"x{i}": i for i in range(100_000)}
    started = time.monotonic()
    answer = client.post("/v1/segment", body)
    assert (answer.status, answer.error[:40]) == (422, "This request cannot be read: image: Fiel")
    assert time.monotonic() - started < HANG_S / 3


def test_json_of_millions_of_values_is_refused_unread(client: Client):
    answer = client.post("/v1/segment", b'{"image": "", "texts": [' + b"[]," * 1_000_000 + b"[]]}")
    assert (answer.status, answer.error) == (422, "Expected JSON of at most 1000000 values.")


def test_connections_without_a_request_are_closed_and_the_server_answers_meanwhile(client: Client):
    sent = (b"", b"POST /v1/segment HTTP/1.1\r\nHost: localh")
    idle = [socket.create_connection(("127.0.0.1", client.port), timeout=HANG_S) for _ in range(100)]
    try:
        for i, connection in enumerate(idle):
            connection.sendall(sent[i % 2])
        assert client.post(SEGMENT, picture()).status == 200
        assert [connection.recv(1) for connection in idle] == [b""] * len(idle)
    finally:
        for connection in idle:
            connection.close()


def test_a_client_that_half_closes_or_vanishes_is_forgotten_without_a_word(
    client: Client, caplog: pytest.LogCaptureFixture
):
    before = client.metric('car_requests_total{path="/v1/segment",status="499"}')
    for how in (socket.SHUT_WR, socket.SHUT_RDWR):
        with socket.create_connection(("127.0.0.1", client.port), timeout=HANG_S) as connection:
            connection.sendall(request("/v1/segment?texts=dog", picture((64, 64))))
            connection.shutdown(how)
    await_true(lambda: client.metric('car_requests_total{path="/v1/segment",status="499"}') == before + 2)
    assert client.post(SEGMENT, picture()).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_memory_stays_far_below_two_gib(client: Client):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for attack in KINDS["bombs"](""):
        send(client, attack)
    for attack in KINDS["JSON"](""):
        send(client, attack)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < GROWTH_BYTES
