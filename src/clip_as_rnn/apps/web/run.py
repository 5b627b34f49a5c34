"""One visitor's run: its work is prepared and done, and whatever comes of it is told on the page."""

from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import gradio as gr

from clip_as_rnn.apps.web import components
from clip_as_rnn.apps.web.workers import Job, StoppedError, Workers
from clip_as_rnn.errors import CarError

Answer = TypeVar("Answer")
_BUG = "Something went wrong inside; the server's log says what."


async def run_for_visitor(
    workers: Workers,
    session: str,
    prepare: Callable[[], Callable[[Job], Answer]],
    status: gr.HTML,
    fill: Callable[[Answer], dict[Any, Any]],
) -> AsyncGenerator[dict[Any, Any], None]:
    """Yield what the page shows: progress in the status line, then the answer or one line on what is wrong."""
    try:
        async for update in workers.run(session, prepare()):
            yield {status: components.status_line(update)} if isinstance(update, str) else fill(update)
    except StoppedError:
        return  # the visitor has left
    except CarError as error:
        yield {status: components.status_line(str(error), "error")}
    except Exception:  # a bug: the visitor is told that there is one, and the log shows it
        yield {status: components.status_line(_BUG, "error")}
        raise
