"""What holds in every test: shapes are checked, there is no network, and nothing is written outside of pytest's folder."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the Hub's client is imported
install_import_hook("clip_as_rnn", "beartype.beartype")  # shapes and types of every call, in the tests only

GOLDEN = Path(__file__).parent / "golden"
_LOCAL = ("127.0.0.1", "::1", "localhost")
_connect = socket.socket.connect


def _connect_locally(self: socket.socket, address: object) -> None:
    if isinstance(address, tuple) and address[0] not in _LOCAL:
        raise OSError(f"The tests have no network, but something asked for {address[0]}.")
    _connect(self, address)


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep text features in a folder of their own, and connections on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIP_AS_RNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(socket.socket, "connect", _connect_locally)
        yield
