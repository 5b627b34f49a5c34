"""Pictures by URL: from hosts that the operator listed, never from a private address, and no redirect is followed.

A name is resolved once; every address it has must be public, and the connection goes to the address that was checked,
so that a name which points elsewhere a moment later (DNS rebinding) gains nothing.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

from clip_as_rnn.errors import InputError

_PORTS = {"http": 80, "https": 443}
_CHUNK_BYTES = 65_536
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Fetches pictures from listed hosts.

    Attributes:
        hosts: names, each for the standard ports, or with `:port` for that one.
        most_bytes: of a picture.
        seconds: for all of it.
    """

    hosts: Collection[str] = ()
    most_bytes: int
    seconds: float

    def fetch(self, url: str) -> bytes:
        """Return the content of a URL.

        Raises:
            InputError: the host is not listed, is private or does not answer with a picture's bytes in time.
        """
        parts = self._check(url)
        scheme, host = parts.scheme, parts.hostname or ""
        port = parts.port or _PORTS[scheme]
        address = resolve_public(host, port)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        deadline = time.monotonic() + self.seconds
        connection = _Pinned(host, port, address=address, secure=scheme == "https", timeout=self.seconds)
        try:
            connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "clip-as-rnn"})
            response = connection.getresponse()
            if response.status != _OK:
                raise InputError(f"The image at {host!r} cannot be had: status {response.status}.")
            return self._read(response, connection, deadline, host)
        except (OSError, http.client.HTTPException) as error:
            raise InputError(f"The image at {host!r} cannot be had: {type(error).__name__}.") from error
        finally:
            connection.close()

    def _check(self, url: str) -> SplitResult:
        """Take a URL apart.

        Raises:
            InputError: it is no plain URL of a listed host.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError("Expected an image's URL, but got one that cannot be read.") from error
        odd = not url.isascii() or not url.isprintable() or " " in url or "\\" in url or "@" in parts.netloc
        if odd or parts.scheme not in _PORTS or not parts.hostname:
            raise InputError("Expected an image's URL as http(s)://host/path, in ASCII and without a user.")
        standard = port in (None, _PORTS[parts.scheme])
        listed = {name.lower() for name in self.hosts}
        if not ({f"{parts.hostname}:{port}"} | ({parts.hostname} if standard else set())) & listed:
            raise InputError("Images by URL are refused from this host; send the image itself, or see --image-host.")
        return parts

    def _read(self, response: http.client.HTTPResponse, connection: "_Pinned", deadline: float, host: str) -> bytes:
        """Read a body of at most `most_bytes` until the deadline, however slowly it drips."""
        content = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            content += chunk
            left_s = deadline - time.monotonic()
            if len(content) > self.most_bytes or left_s <= 0:
                limit = f"{self.most_bytes} bytes" if left_s > 0 else f"{self.seconds:g} s"
                raise InputError(f"The image at {host!r} takes more than {limit}.")
            connection.limit(left_s)
        return bytes(content)


def resolve_public(host: str, port: int) -> str:
    """Resolve a name once; return one of its addresses.

    Raises:
        InputError: there is none, or any of them is not public.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"The host {host!r} has no address.") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(ip_address(address.partition("%")[0])) for address in addresses):
        raise InputError(f"Images by URL are refused from {host!r}: its address is not public.")
    return addresses[0]


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is one of the public network; an IPv4 address inside an IPv6 one counts as itself."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is not None:
            return is_public(inner)
        if address.packed[:12] == b"\x00\x64\xff\x9b" + bytes(8):  # NAT64
            return is_public(IPv4Address(address.packed[12:]))
    return address.is_global and not address.is_multicast


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked, under the name it belongs to."""

    def __init__(self, host: str, port: int, *, address: str, secure: bool, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self.default_port = _PORTS["https" if secure else "http"]  # what the Host header leaves out
        self._address = address
        self._secure = secure

    def connect(self) -> None:
        """Connect to the address, and over TLS prove the name."""
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def limit(self, seconds: float) -> None:
        """Wait no longer than that for the next bytes."""
        if self.sock is not None:
            self.sock.settimeout(seconds)
