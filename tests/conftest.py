"""What holds in every test: shapes are checked, there is no network, and files are written to pytest's folder only."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

MODULES = sorted(path.stem for path in (Path(__file__).parents[1] / "src" / "clip_as_rnn").iterdir())

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the Hub's client is imported
# Shapes and types of every call are checked, in the tests only; settings refuse wrong types themselves, in a sentence.
install_import_hook([f"clip_as_rnn.{name}" for name in MODULES if name != "config"], "type_checker.check")

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
