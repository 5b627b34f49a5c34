"""Stands before the page: refuses foreign names and origins and bodies that are too large; logs in one line.

Gradio serves files of other hosts to whoever names them, and fetches pictures that a request names by URL; through it a
visitor would reach the internet as this machine. Neither gets past the guard.
"""

import json
from collections import deque
from collections.abc import Collection
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clip_as_rnn.apps.access import KnownHosts, check_length, hostname_of, limit_body, log_failure

_UPLOADS = "/gradio_api/upload"
_FRAMING_BYTES = 64_000  # around an uploaded file
_BODY_BYTES = 256_000  # of everything else: texts and settings
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors "
)  # Gradio writes its settings into the page and compiles the scripts of components there

_NO_FETCHING = "This page fetches nothing from other addresses."
_SCHEMES = ("http:", "https:")


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
        self._hosts = KnownHosts(host, names)
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
            bounded = limit_body(receive, limit)
            if scope["method"] == "POST" and limit == _BODY_BYTES:
                bounded = await _without_addresses(bounded)
            await self._app(scope, bounded, respond)
        except Exception as error:
            refused = error if isinstance(error, HTTPException) else HTTPException(500, "This request failed.")
            log_failure(scope, error)
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
        if hostname_of(host) not in self._hosts:
            raise HTTPException(421, "This page is not served under that name; car web --name NAME adds one.")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host and hostname_of(origin) not in self._proxies:
            raise HTTPException(403, "Another page may not use this one.")
        if "://" in scope["path"] or "/proxy=" in scope["path"]:  # Gradio would fetch what it names
            raise HTTPException(403, _NO_FETCHING)
        limit = self._upload_bytes + _FRAMING_BYTES if scope["path"].rstrip("/") == _UPLOADS else _BODY_BYTES
        check_length(headers, limit)
        return limit


async def _without_addresses(receive: Receive) -> Receive:
    """Read a body, and return what hands it on.

    Raises:
        HTTPException: it names a file by URL.
    """
    messages = deque([await receive()])
    while messages[-1].get("more_body"):
        messages.append(await receive())
    if _names_address(b"".join(message.get("body", b"") for message in messages)):
        raise HTTPException(403, _NO_FETCHING)

    async def again() -> Message:
        return messages.popleft() if messages else await receive()

    return again


def _names_address(body: bytes) -> bool:
    """Look for a file whose path is a URL, anywhere in JSON; what is none is nobody's to fetch."""
    try:
        left = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while left:
        value = left.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and path.strip().lower().startswith(_SCHEMES):
                return True
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False
