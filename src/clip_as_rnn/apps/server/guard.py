"""Stands before the server: refuses strangers, foreign pages and bodies that are too large; counts every request.

With a token, whoever knows it may come from anywhere. Without one the server listens on loopback only, and answers only
under loopback names, so that no page from elsewhere can make a browser ask it.
"""

import base64
import binascii
import hmac
import time
from collections.abc import Collection
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clip_as_rnn.apps.access import KnownHosts, check_length, hostname_of, limit_body, log_failure
from clip_as_rnn.apps.server.metrics import Metrics

_OPEN_PATHS = ("/health", "/ready")  # for those who watch over the process; they tell nothing
_LEFT = 499  # the status that logs give to a client that left
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
)


class Guard:
    """A server application around another.

    Args:
        app: what handles the requests that pass.
        token: what clients must show; None lets everybody in who is on this machine.
        origins: pages that may call this server from a browser.
        body_bytes: how large a request may be.
        metrics: told of every response.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, origins: Collection[str], body_bytes: int, metrics: Metrics
    ) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._hosts = KnownHosts("127.0.0.1")
        self._origins = frozenset(origins)
        self._body_bytes = body_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it; its failure ends here, in one line of JSON."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), _LEFT
        has_begun = False

        async def respond(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, limit_body(receive, self._body_bytes), respond)
        except Exception as error:
            refused = error if isinstance(error, HTTPException) else HTTPException(500, "This request failed.")
            log_failure(scope, error)
            with suppress(Exception):  # the response was cut off, nobody reads its end
                if has_begun:
                    await send({"type": "http.response.body", "body": b""})
                else:
                    await refusal(refused)(scope, receive, respond)  # what comes of the body is thrown away
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self._metrics.answer(path, status, time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        """Raise HTTPException if a request is refused before its body is read."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._token is None and hostname_of(host) not in self._hosts:
            raise HTTPException(421, "This server is not known by that name; give it a token to be called by others.")
        if origin is not None and origin.partition("://")[2] != host and origin not in self._origins:
            raise HTTPException(403, "Other pages may not use this server; car serve --cors ORIGIN allows one.")
        is_preflight = scope["method"] == "OPTIONS" and origin in self._origins  # browsers send no token with it
        if self._token is not None and scope["path"] not in _OPEN_PATHS and not is_preflight:
            self._check_token(headers.get("authorization", ""))
        check_length(headers, self._body_bytes)

    def _check_token(self, authorization: str) -> None:
        """Compare a bearer token, or the password of basic authentication, in constant time."""
        kind, _, shown = authorization.partition(" ")
        presented = shown.strip().encode("latin-1", errors="replace")
        if kind.lower() == "basic":
            try:
                presented = base64.b64decode(presented, validate=True).partition(b":")[2]
            except binascii.Error:
                presented = b""
        elif kind.lower() != "bearer":
            presented = b""
        if not hmac.compare_digest(presented, self._token or b""):
            raise HTTPException(401, "Expected a valid token.", {"WWW-Authenticate": 'Bearer, Basic realm="car"'})


def refusal(error: HTTPException) -> JSONResponse:
    """Say in JSON why a request was refused; Hugging Face's clients show the field `error`."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
