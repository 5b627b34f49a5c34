"""Servers in this process for the tests: real sockets on 127.0.0.1, stages that are made up or the bundled CLIP."""

import base64
import http.client
import io
import json
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from pycocotools import mask as coco

from clip_as_rnn.apps.server.app import create_app
from clip_as_rnn.apps.server.limits import Limits
from clip_as_rnn.apps.server.run import configure
from clip_as_rnn.apps.server.service import Service
from clip_as_rnn.segmenter import Segmenter
from fake_stages import fake_segmenter

WAIT_S = 60.0


@dataclass(frozen=True)
class Response:
    """What the server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]


@dataclass(frozen=True)
class Client:
    """A server that runs, and how to ask it."""

    port: int
    service: Service

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        """Send one request: bytes as they are, anything else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        is_raw = body is None or isinstance(body, bytes)
        sent = body if is_raw else json.dumps(body).encode()
        names = {} if is_raw else {"Content-Type": "application/json"}
        names |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, sent, names)
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Response:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Response:
        return self.ask("POST", path, body, **headers)

    def metric(self, line: str) -> float:
        """Read one number of the metrics."""
        rows = self.get("/metrics").body.decode().splitlines()
        return next((float(row.rpartition(" ")[2]) for row in rows if row.rpartition(" ")[0] == line), 0.0)


@contextmanager
def serving(
    segmenter: Segmenter,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    origins: tuple[str, ...] = (),
    **options: Any,
) -> Iterator[Client]:
    """Serve on a free port until the end of the block."""
    service = Service(segmenter, preset="made up", limits=limits or Limits(), **options)
    app = create_app(service, token=token, origins=origins)
    server = uvicorn.Server(configure(app, service.limits))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        await_true(lambda: server.started)
        yield Client(listener.getsockname()[1], service)
        server.should_exit = True
        thread.join(WAIT_S)
    assert not thread.is_alive()


def await_true(condition: Any) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "It did not come to pass."
        time.sleep(0.01)


class Judge:
    """A classifier's judgement that can be held up: the ghost is rejected, all else is found."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.calls = 0

    def __call__(self, text: str, texts: tuple[str, ...], image: Any) -> float:
        self.calls += 1
        self.go.wait(WAIT_S)
        if text == "bug":
            raise ZeroDivisionError("a secret")
        return 0.1 if text == "ghost" else 0.9


def made_up(judge: Judge | None = None, **settings: Any) -> Segmenter:
    """Make a segmenter of made-up stages."""
    return fake_segmenter(judge or Judge(), **settings)


def picture(size_wh: tuple[int, int] = (32, 24), color: str = "teal", form: str = "PNG") -> bytes:
    """Return the file of a picture of one color."""
    file = io.BytesIO()
    Image.new("RGB", size_wh, color).save(file, form)
    return file.getvalue()


def read_mask(encoded: str) -> np.ndarray:
    """Decode a mask that came as PNG in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))) > 0


def read_rle(encoded: dict[str, Any]) -> np.ndarray:
    """Decode a mask that came as COCO's run lengths."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools under numpy 2
        return coco.decode(encoded).astype(bool)
