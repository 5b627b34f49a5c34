"""The page on made-up stages, as a program of its own. Usage: python made_up_page.py PORT.

With CAR_WEB_PASSWORD set, the user `me` must give it. Its log tells of every other machine that it looks up or calls.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from made_up_stages import made_up_segmenter

from clip_as_rnn.apps.web.page import create_demo
from clip_as_rnn.apps.web.server import Address, listening, own_folder
from clip_as_rnn.presets import find_preset

LOOPBACK = ("127.0.0.1", "::1", "localhost", None)
REACHED = "It reached out for "


def told(function: Callable[..., Any], place: int) -> Callable[..., Any]:
    """Say in the log when a function is given an address that is not this machine's."""

    def watched(*arguments: Any, **options: Any) -> Any:
        address = arguments[place]
        host = address[0] if isinstance(address, tuple) else address
        if host not in LOOPBACK and host != socket.gethostname():
            print(f"{REACHED}{host!r}", flush=True)  # noqa: T201
            raise OSError("There is no network.")
        return function(*arguments, **options)

    return watched


if __name__ == "__main__":
    socket.getaddrinfo = told(socket.getaddrinfo, 0)
    socket.socket.connect = told(socket.socket.connect, 1)  # type: ignore[method-assign]
    password = os.environ.get("CAR_WEB_PASSWORD")
    address = Address(port=int(sys.argv[1]), user="me" if password else None, password=password)
    segmenter = made_up_segmenter(find_preset("default"))
    with own_folder(), listening(create_demo(segmenter), address):
        threading.Event().wait()
