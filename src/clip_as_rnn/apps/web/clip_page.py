"""The part of the page that takes a short clip: what stands where, and what happens on which click."""

import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from clip_as_rnn.apps.web import components
from clip_as_rnn.apps.web.clip_handler import MOST_FRAMES, ClipRequest, ClipResponse, handle_clip
from clip_as_rnn.apps.web.controls import MODES
from clip_as_rnn.apps.web.run import run_for_visitor
from clip_as_rnn.apps.web.uploads import VisitorFiles
from clip_as_rnn.apps.web.workers import Job, Workers
from clip_as_rnn.segmenter import Segmenter

_log = logging.getLogger(__name__)
_LENGTH = f"At most {MOST_FRAMES} frames."


@dataclass(frozen=True, slots=True, eq=False)
class ClipPart:
    """The components of this part."""

    clip: gr.File
    texts: gr.HTML
    mode: gr.Radio
    find: gr.Button
    stop: gr.Button
    status: gr.HTML
    more: gr.Column
    overlay: gr.Video
    timeline: gr.Image
    labels: gr.DownloadButton
    records: gr.DownloadButton

    @property
    def request(self) -> list[Any]:
        """What a visitor fills."""
        return [self.clip, self.texts, self.mode]

    @property
    def results(self) -> list[Any]:
        """What a response fills."""
        return [self.status, self.more, self.overlay, self.timeline, self.labels, self.records]

    def filled(self, response: ClipResponse) -> dict[Any, Any]:
        """Show a response."""
        return {
            self.status: components.status_line(response.summary, "done"),
            self.more: gr.Column(visible=True),
            self.overlay: str(response.overlay),
            self.timeline: str(response.timeline),
            self.labels: str(response.labels),
            self.records: str(response.records),
        }


def draw_clip_part(mode: str) -> ClipPart:
    """Lay out this part; the mode is that with which the page opens."""
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            clip = gr.File(label="Clip", file_types=["video"], type="filepath", elem_id="clip")
            texts = components.text_tags(
                "clip-texts", "What to look for", hint="Type a word, press Enter", info=f"In every frame. {_LENGTH}"
            )
            with gr.Row():
                find = gr.Button("Find in the clip", variant="primary", scale=3, min_width=120)
                stop = gr.Button("Stop", interactive=False, scale=1, min_width=90)
            chosen = gr.Radio(list(MODES), value=mode, label="Mode")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(elem_id="clip-status", elem_classes="car-part")
            with gr.Column(visible=False) as more:
                overlay = gr.Video(label="Found", interactive=False, autoplay=True, loop=True, elem_id="clip-overlay")
                timeline = gr.Image(label="When", interactive=False, elem_id="clip-timeline")
                with gr.Row():
                    labels = gr.DownloadButton("Label maps (ZIP)", size="sm", min_width=120)
                    records = gr.DownloadButton("Records (JSON lines)", size="sm", min_width=120)
    return ClipPart(clip, texts, chosen, find, stop, status, more, overlay, timeline, labels, records)


@dataclass(frozen=True, slots=True, eq=False)
class _Callbacks:
    """What happens when something is clicked. Nothing of one visitor is kept for another."""

    segmenter: Segmenter
    preset: str
    files: VisitorFiles
    workers: Workers
    part: ClipPart

    async def find(self, request: gr.Request, clip: Any, texts: Any, mode: Any) -> AsyncGenerator[dict[Any, Any], None]:
        """Run the segmenter over the clip, telling how many frames are done, and fill the page."""
        status, session = self.part.status, str(request.session_hash)

        def prepare() -> Callable[[Job], ClipResponse]:
            wanted = ClipRequest(clip=self.files.admit(session, clip), texts=texts, mode=mode)
            new_folder = partial(self.files.new_results, session, "clip")
            return partial(handle_clip, wanted, self.segmenter, self.preset, new_folder)

        yield {status: components.status_line("Waiting for a free place"), self.part.more: gr.Column(visible=False)}
        async for shown in run_for_visitor(self.workers, session, prepare, status, self.part.filled):
            yield shown


def connect_clip_part(
    part: ClipPart, segmenter: Segmenter, preset: str, files: VisitorFiles, workers: Workers, *, at_once: int
) -> None:
    """Say what happens on which click."""
    callbacks, buttons = _Callbacks(segmenter, preset, files, workers, part), [part.find, part.stop]
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    run = part.find.click(partial(_buttons, busy=True), None, buttons, **quiet).then(
        callbacks.find,
        part.request,
        part.results,
        concurrency_limit=at_once,
        preprocess=False,
        show_progress="hidden",
        api_name="find_clip",
        api_visibility="undocumented",
    )
    run.then(partial(_buttons, busy=False), None, buttons, **quiet)
    part.stop.click(_stopped, None, [part.status, *buttons], cancels=[run], **quiet)


def _buttons(*, busy: bool) -> tuple[gr.Button, gr.Button]:
    return gr.Button(interactive=not busy), gr.Button(interactive=busy)


def _stopped() -> tuple[Any, ...]:
    return components.status_line("Stopped.", "done"), *_buttons(busy=False)
