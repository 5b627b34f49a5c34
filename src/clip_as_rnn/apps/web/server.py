"""Serve the page: where, to whom, in which looks; and leave nothing behind."""

import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr

from clip_as_rnn.apps.pictures import MAX_BYTES
from clip_as_rnn.apps.web import components
from clip_as_rnn.apps.web.guard import Guard
from clip_as_rnn.apps.web.page import create_demo
from clip_as_rnn.errors import InputError
from clip_as_rnn.segmenter import Segmenter

_SESSIONS = 200  # open pages that the server remembers
_FONTS = ("system-ui", "sans-serif")
_MONO_FONTS = ("ui-monospace", "monospace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen, and who may come in: everybody who can reach it, or one user with a password.

    Attributes:
        names: names besides `host` by which browsers may call the page, such as that of a proxy before it.

    Raises:
        InputError: a user without a password, or the reverse.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    user: str | None = None
    password: str | None = None
    names: Collection[str] = ()

    def __post_init__(self) -> None:
        """Check that user and password come together."""
        if bool(self.user) != bool(self.password):
            raise InputError("Expected a user and a password, but got only one; give both, or none for an open page.")


def serve(segmenter: Segmenter, address: Address, announce: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C or SIGTERM, after which nothing of its visitors is left.

    Raises:
        InputError: the address cannot be listened on.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ending it from outside tidies up, too
    with own_folder(), listening(create_demo(segmenter), address) as url:
        announce(f"The page is at {url} ; Ctrl-C ends it.")
        threading.Event().wait()


@contextmanager
def listening(demo: gr.Blocks, address: Address) -> Iterator[str]:
    """Serve a page in the background; yield its URL.

    Raises:
        InputError: the address cannot be listened on.
    """
    auth = (address.user, address.password) if address.user and address.password else None
    try:
        _, url, _ = demo.launch(
            server_port=address.port,
            auth=auth,
            prevent_thread_lock=True,
            **launch_options(host=address.host, names=address.names),
        )
    except OSError as error:
        raise InputError(f"The page cannot listen on {address.host}:{address.port}; try another --port.") from error
    try:
        yield url
    finally:
        demo.close(verbose=False)


def launch_options(
    *, host: str = "127.0.0.1", names: Collection[str] = (), embedders: Collection[str] = ()
) -> dict[str, Any]:
    """Return what `launch` is told everywhere: our looks, limits, and nothing that leaves this machine.

    Args:
        host: where to listen.
        names: names besides `host` by which browsers may call the page.
        embedders: origins whose pages may show it in a frame.
    """

    @asynccontextmanager
    async def guarded(app: Any) -> AsyncIterator[None]:
        app.middleware_stack = Guard(
            app.middleware_stack, host=host, names=names, embedders=embedders, upload_bytes=MAX_BYTES
        )  # around Gradio's own middleware, which would let other origins in
        yield

    return {
        "server_name": host,
        "app_kwargs": {"lifespan": guarded},
        "theme": _theme(),
        "css": components.css(),
        "footer_links": [],
        "max_file_size": MAX_BYTES,
        "state_session_capacity": _SESSIONS,
        "run_history": False,
        "enable_monitoring": False,
        "share": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "quiet": True,
    }


def _theme() -> gr.themes.Base:
    """Take the fonts of the visitor's system, for the default's come from outside; and grays that can be read."""
    theme = gr.themes.Default(font=_FONTS, font_mono=_MONO_FONTS)
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )


@contextmanager
def own_folder() -> Iterator[None]:
    """Keep uploads and results of pages made within in a folder of this process alone, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="car-web-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield
