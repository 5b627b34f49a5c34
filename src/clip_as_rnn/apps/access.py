"""Who may come in, and how much they may bring: what the page and the server check alike before they read a request.

A browser sends the name it was told to visit. A hostile page can make a name of its own point at this machine (DNS
rebinding) and would then count as this page; only a name or an address that the server is known by is answered.
"""

import logging
import socket
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

_log = logging.getLogger(__name__)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_EVERY_NETWORK = frozenset({"0.0.0.0", "::"})
_SHOWN_CHARACTERS = 200
_DIGITS = 18  # of a length; Python refuses to read numbers of thousands


class KnownHosts:
    """The names under which a server answers.

    Args:
        host: where it listens; loopback names are known, too, and for all networks every numeric address and the
            machine's own name.
        names: further names that browsers may use, such as that of a proxy.
    """

    def __init__(self, host: str, names: Collection[str] = ()) -> None:
        self._any_address = host in _EVERY_NETWORK
        own = {socket.gethostname(), f"{socket.gethostname()}.local"} if self._any_address else {host.strip("[]")}
        self._names = {name.lower() for name in {*LOOPBACK, *own, *names}}

    def __contains__(self, hostname: str) -> bool:
        """Tell whether the server is known by that name or address."""
        if hostname in self._names:
            return True
        try:
            return self._any_address and bool(ip_address(hostname))  # a number cannot be made to point elsewhere
        except ValueError:
            return False


def hostname_of(address: str) -> str:
    """Take the name out of `name`, `name:port` or `scheme://name:port`; an address that is none has no name."""
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:
        return ""


def check_length(headers: Headers, limit: int) -> None:
    """Raise HTTPException if a request says that its body is larger than `limit` bytes, or what is no number."""
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()) or len(length) > _DIGITS or int(length) > limit:
        raise too_large(limit)


def limit_body(receive: Receive, limit: int) -> Receive:
    """Count what arrives, for a body need not say its length beforehand."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large(limit)
        return message

    return counted


def too_large(limit: int) -> HTTPException:
    """Return the refusal of a body of more than `limit` bytes."""
    return HTTPException(413, f"Expected at most {limit} bytes in this request.")


def log_failure(scope: Scope, error: Exception) -> None:
    """Write one line, whatever a stranger put into the request; the traceback is there for who debugs."""
    reason = error.detail if isinstance(error, HTTPException) else repr(error)
    words = f"{scope['method']} {scope['path']!r}: {reason}"[:_SHOWN_CHARACTERS].replace("\n", " ")
    _log.warning("%s", words)
    _log.debug("The request above failed.", exc_info=error)
