"""What holds in every test: shapes are checked, there is no network, and files are written to pytest's folder only."""

import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
# Shapes and types of every call, in the tests only. Not in the apps, which are tested on stand-ins, and not where
# images and settings come in, which refuse what does not belong there in a sentence of their own.
UNCHECKED = ("apps", "assets", "config", "io", "presets")
_PACKAGE = find_spec("clip_as_rnn")  # as installed, which need not be beside the tests
CHECKED = sorted(
    {path.stem for path in Path(_PACKAGE.origin).parent.iterdir() if path.stem[0] not in "_."} - {*UNCHECKED, "py"}
)
install_import_hook([f"clip_as_rnn.{name}" for name in CHECKED], "type_checker.check")

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
