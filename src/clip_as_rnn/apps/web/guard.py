"""Stands before the page: refuses foreign names, foreign origins and bodies that are too large, and logs in one line.

A browser sends the name it was told to visit. A hostile page can make a name of its own point at this machine (DNS
rebinding) and would then count as this page; only a name or an address that the server is known by is answered.
"""

import logging
import socket
from collections.abc import Collection
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_EVERY_NETWORK = frozenset({"0.0.0.0", "::"})
_UPLOADS = "/gradio_api/upload"
_FRAMING_BYTES = 64_000  # around an uploaded file
_BODY_BYTES = 256_000  # of everything else: texts and settings
_SHOWN_CHARACTERS = 200
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors "
)  # Gradio writes its settings into the page and compiles the scripts of components there


class Guard:
    """A server application around another.

    Args:
        app: what handles the requests that pass.
        host: where it listens; loopback names are known, too, and for all networks every numeric address and the
            machine's own name.
        names: further names that browsers may use, such as that of a proxy.
        embedders: origins whose pages may show this one in a frame.
        upload_bytes: how large an uploaded file may be.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, names: Collection[str], embedders: Collection[str], upload_bytes: int
    ) -> None:
        self._app = app
        self._any_address = host in _EVERY_NETWORK
        own = {socket.gethostname(), f"{socket.gethostname()}.local"} if self._any_address else {host.strip("[]")}
        self._names = {name.lower() for name in {*LOOPBACK, *own, *names}}
        self._proxies = {name.lower() for name in names}
        self._upload_bytes = upload_bytes
        headers = {
            "content-security-policy": _POLICY + (" ".join(embedders) or "'none'"),
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
        }
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it; its failure ends here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def respond(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message["headers"], *self._headers]}
            await send(message)

        try:
            limit = self._check(scope)
            await self._app(scope, _limited(receive, limit), respond)
        except Exception as error:
            refused = error if isinstance(error, HTTPException) else HTTPException(500, "This request failed.")
            _log_failure(scope, error)
            with suppress(Exception):  # the response was cut off, nobody reads its end
                if started:
                    await send({"type": "http.response.body", "body": b""})
                else:
                    await PlainTextResponse(refused.detail, refused.status_code)(scope, receive, respond)

    def _check(self, scope: Scope) -> int:
        """Return how many bytes the body may have.

        Raises:
            HTTPException: the request is refused.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_known(_hostname(host)):
            raise HTTPException(421, "This page is not served under that name; car web --name NAME adds one.")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host and _hostname(origin) not in self._proxies:
            raise HTTPException(403, "Another page may not use this one.")
        limit = self._upload_bytes + _FRAMING_BYTES if scope["path"].rstrip("/") == _UPLOADS else _BODY_BYTES
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            raise _too_large(limit)
        return limit

    def _is_known(self, hostname: str) -> bool:
        if hostname in self._names:
            return True
        try:
            return self._any_address and bool(ip_address(hostname))  # a number cannot be made to point elsewhere
        except ValueError:
            return False


def _hostname(address: str) -> str:
    """Take the name out of `name`, `name:port` or `scheme://name:port`; an address that is none has no name."""
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:
        return ""


def _limited(receive: Receive, limit: int) -> Receive:
    """Count what arrives, for a body need not say its length beforehand."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"Expected at most {limit} bytes in this request.")


def _log_failure(scope: Scope, error: Exception) -> None:
    """Write one line, whatever a stranger put into the request; the traceback is there for who debugs."""
    reason = error.detail if isinstance(error, HTTPException) else repr(error)
    words = f"{scope['method']} {scope['path']!r}: {reason}"[:_SHOWN_CHARACTERS].replace("\n", " ")
    _log.warning("%s", words)
    _log.debug("The request above failed.", exc_info=error)
