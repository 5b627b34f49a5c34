"""Pictures by URL: only from listed hosts, never from this machine or its network, whatever a name or a URL says."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from typing import ClassVar

import pytest

from clip_as_rnn.apps.server import fetch as fetching
from clip_as_rnn.apps.server.fetch import Fetcher, is_public
from clip_as_rnn.errors import InputError

PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1"),
    *("::1", "::", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1"),
)


class Listener(BaseHTTPRequestHandler):
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(f"{self.headers['Host']}{self.path}")
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/picture")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * (2000 if self.path == "/large" else 10))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """Listen on this machine, where no request may arrive unless a test says that the address is public."""
    Listener.seen.clear()
    server = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def fetcher(*hosts: str) -> Fetcher:
    return Fetcher(hosts=hosts, most_bytes=1000, seconds=5.0)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_this_machine_or_its_network_is_not_public(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::", "::ffff:93.184.216.34"])
def test_an_address_of_the_internet_is_public(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f000001", "127.1"])
def test_a_listed_host_on_this_machine_is_refused_before_it_sees_a_request(port, name):
    with pytest.raises(InputError, match=r"not public|has no address"):
        fetcher(f"{name.strip('[]')}:{port}").fetch(f"http://{name}:{port}/picture")
    assert Listener.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/picture",
        "http://listed.example:81/picture",
        "http://listed.example@127.0.0.1/picture",
        "http://127.0.0.1\\@listed.example/",
        "file:///etc/passwd",
        "ftp://listed.example/picture",
        "http:///picture",
        "http://listed.example:port/",
        "http://listed.example/\r\nHost: other.example",
        "gopher://listed.example/_GET",
    ],
)
def test_what_is_no_plain_url_of_a_listed_host_is_refused(monkeypatch, url):
    monkeypatch.setattr(fetching, "resolve_public", lambda *_: pytest.fail("a name was looked up"))
    with pytest.raises(InputError):
        fetcher("listed.example").fetch(url)


def test_a_name_with_one_private_address_among_public_ones_is_refused(monkeypatch):
    found = [(2, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InputError, match="its address is not public"):
        fetcher("listed.example").fetch("http://listed.example/picture")


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch, port):
    monkeypatch.setattr(fetching, "resolve_public", lambda *_: "127.0.0.1")
    assert fetcher(f"listed.example:{port}").fetch(f"http://listed.example:{port}/picture?a=1") == b"x" * 10
    assert Listener.seen == [f"listed.example:{port}/picture?a=1"]


@pytest.mark.parametrize(("path", "message"), [("/redirect", "status 302"), ("/large", "more than 1000 bytes")])
def test_redirects_are_not_followed_and_large_answers_cut_off(monkeypatch, port, path, message):
    monkeypatch.setattr(fetching, "resolve_public", lambda *_: "127.0.0.1")
    with pytest.raises(InputError, match=message):
        fetcher(f"listed.example:{port}").fetch(f"http://listed.example:{port}{path}")
    assert len(Listener.seen) == 1
