"""Serve until told to stop: take the address, load the models, and only then listen."""

import math
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import numpy as np
import uvicorn
from starlette.types import ASGIApp

from clip_as_rnn.apps.access import LOOPBACK
from clip_as_rnn.apps.server.app import create_app
from clip_as_rnn.apps.server.connection import Connection
from clip_as_rnn.apps.server.limits import Limits
from clip_as_rnn.apps.server.service import Service
from clip_as_rnn.errors import InputError
from clip_as_rnn.segmenter import Segmenter

_HEADER_BYTES = 32_768
_WARM_UP_PX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen, and what clients must show.

    Attributes:
        token: what clients must show; needed anywhere but on loopback.
        origins: pages that may call the server from a browser.

    Raises:
        InputError: other machines could come in without a token, or an origin is none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    origins: Collection[str] = ()

    def __post_init__(self) -> None:
        """Check that strangers need a token."""
        if not self.token and not _is_loopback(self.host):
            raise InputError(f"Expected a token in CAR_SERVER_TOKEN to listen on {self.host!r}; others can reach that.")
        for origin in self.origins:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or "/" in rest or "*" in rest:
                raise InputError(f"Expected an origin as https://host or https://host:port, but got {origin!r}.")


def _is_loopback(host: str) -> bool:
    if host in LOOPBACK:
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def serve(address: Address, load: Callable[[], Service], announce: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that are being answered are finished first.

    Args:
        address: where; it is taken before the models are loaded, and answers after.
        load: loads the models.
        announce: told where the server is.

    Raises:
        CarError: the address is in use, or what `load` raises.
    """
    with _bound(address) as listener:
        service = load()
        warm_up(service.segmenter)
        app = create_app(service, token=address.token or None, origins=address.origins)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stopped)  # what uvicorn hands the signal on to, when all is done
        _Server(configure(app, service.limits), lambda: announce(_greeting(listener))).run(sockets=[listener])
        announce("The server has stopped.")


class _Server(uvicorn.Server):
    """Says when it can be reached."""

    def __init__(self, config: uvicorn.Config, is_up: Callable[[], None]) -> None:
        super().__init__(config)
        self._is_up = is_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._is_up()


def _greeting(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"The server is at http://{f'[{host}]' if ':' in host else host}:{port} ; Ctrl-C ends it."


def configure(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """Tell uvicorn what holds for every server of ours: it logs no request and believes no proxy."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=math.ceil(limits.body_seconds),
        timeout_graceful_shutdown=round(limits.seconds),
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )


def warm_up(segmenter: Segmenter) -> None:
    """Answer one question, so that nobody has to wait for what is compiled or encoded at first use."""
    noise = np.random.default_rng(0).integers(0, 256, (_WARM_UP_PX, _WARM_UP_PX, 3), dtype=np.uint8)
    segmenter.replace(max_steps=0).segment(noise, ["object", "thing"])  # 0: both are kept, and reach the last stage


def _stopped(*_: object) -> None:
    """Nothing is left to do."""


@contextmanager
def _bound(address: Address) -> Iterator[socket.socket]:
    """Take an address without listening yet.

    Raises:
        InputError: it cannot be had.
    """
    host = address.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        with listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, address.port))
            except OSError as error:
                raise _cannot_listen(address, error) from error
            yield listener
    except socket.gaierror as error:
        raise _cannot_listen(address, error) from error


def _cannot_listen(address: Address, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"The server cannot listen on {address.host}:{address.port}: {reason}; try another --port.")
