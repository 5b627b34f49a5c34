"""The page itself: what stands where, and what happens on which click."""

import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from clip_as_rnn.apps.web import components
from clip_as_rnn.apps.web.clip_page import connect_clip_part, draw_clip_part
from clip_as_rnn.apps.web.controls import EXAMPLES, MODES, Control, base_preset, offered_controls, offered_presets
from clip_as_rnn.apps.web.handler import Request, Response, handle
from clip_as_rnn.apps.web.payload import data_url
from clip_as_rnn.apps.web.run import run_for_visitor
from clip_as_rnn.apps.web.uploads import VisitorFiles, open_picture
from clip_as_rnn.apps.web.workers import Job, Workers
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import CarError
from clip_as_rnn.segmenter import Segmenter

_log = logging.getLogger(__name__)
QUEUE_LIMIT = 64  # visitors who may wait
_SWEEP_S = (600, 7200)  # every ten minutes, files that are older than two hours go, whoever's they are
_TITLE = "Find anything you can name in a picture"
_SEVERAL = "Several at once: separate them by commas, or paste a list."
_SAME_MODELS = "A set of settings; the models stay the same."
_ABOUT = "Masks for the words that are there, a no for those that are not. CLIP as RNN: no training, any words."


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """The components that a visitor fills."""

    picture: gr.Image
    texts: gr.HTML
    mode: gr.Radio
    preset: gr.Dropdown
    controls: list[Any]
    find: gr.Button
    cancel: gr.Button

    @property
    def request(self) -> list[Any]:
        return [self.picture, self.texts, self.preset, self.mode, *self.controls]


@dataclass(frozen=True, slots=True, eq=False)
class _Outputs:
    """The components that a response fills."""

    status: gr.HTML
    result: gr.HTML
    more: gr.Column
    steps: gr.HTML
    seconds: gr.HTML
    labels: gr.DownloadButton
    json: gr.DownloadButton
    masks: gr.DownloadButton
    figure: gr.DownloadButton
    command: gr.Code
    python: gr.Code

    @property
    def all(self) -> list[Any]:
        return [getattr(self, name) for name in self.__slots__]

    def filled(self, response: Response) -> dict[Any, Any]:
        files = ("labels", "json", "masks", "figure")
        return {
            self.status: components.status_line(response.summary, "done"),
            self.result: response.result,
            self.more: gr.Column(visible=True),
            self.steps: response.steps,
            self.seconds: components.seconds_table(response.seconds),
            **{getattr(self, file): str(getattr(response, file)) for file in files},
            self.command: response.command,
            self.python: response.python,
        }

    def emptied(self) -> dict[Any, Any]:
        waiting = components.status_line("Waiting for a free place")
        return {self.status: waiting, self.result: None, self.more: gr.Column(visible=False)}


class _Blocks(gr.Blocks):
    """Blocks that make one line of the log out of values that no browser would send."""

    async def preprocess_data(self, *args: Any, **options: Any) -> list[Any]:
        """Check what a browser sends.

        Raises:
            gr.Error: it is not what the page's components hold.
        """
        try:
            return list(await super().preprocess_data(*args, **options))
        except Exception as error:
            _log.warning("Refused values: %s", repr(error)[:200].replace("\n", " "))
            raise gr.Error("The page did not understand this; please load it again.", print_exception=False) from error


def create_demo(segmenter: Segmenter, *, at_once: int = 1) -> gr.Blocks:
    """Build the page around a loaded segmenter, which all visitors share.

    Args:
        segmenter: the models and the settings with which the page opens; visitors change theirs, never its.
        at_once: how many runs may work at the same time; others wait in a queue.
    """
    presets = offered_presets(segmenter.config)
    demo = _Blocks(title="CLIP as RNN", analytics_enabled=False, delete_cache=_SWEEP_S)
    with demo:
        gr.HTML(f"<div class='car-title'><h1>{_TITLE}</h1><p>{_ABOUT}</p></div>", elem_classes="car-part")
        files = VisitorFiles(Path(get_upload_folder()), {path.name: path for path in EXAMPLES})
        workers, first = Workers(at_once), next(iter(presets))
        with gr.Tab("Picture"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                inputs = _draw_inputs(presets)
            with gr.Column(scale=3, min_width=320):
                outputs = _draw_outputs()
        with gr.Tab("Clip"):
            clip = draw_clip_part(segmenter.config.mode)
        _connect(demo, _Callbacks(segmenter, presets, files, workers, outputs), inputs, at_once)
        connect_clip_part(clip, segmenter, base_preset(first), files, workers, at_once=at_once)
    demo.queue(max_size=QUEUE_LIMIT, api_open=False)  # no way around the queue
    return demo


def _draw_inputs(presets: dict[str, SegmenterConfig]) -> _Inputs:
    first = next(iter(presets))
    picture = gr.Image(
        label="Picture", type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"], height=300
    )
    texts = components.text_tags("texts", "What to look for", hint="Type a word, press Enter", info=_SEVERAL)
    _draw_examples(picture, texts)
    with gr.Row():
        find = gr.Button("Find", variant="primary", scale=3, min_width=120)
        cancel = gr.Button("Cancel", interactive=False, scale=1, min_width=90)
    mode = gr.Radio(list(MODES), value=presets[first].mode, label="Mode")
    preset = gr.Dropdown(list(presets), value=first, label="Preset", info=_SAME_MODELS)
    with gr.Accordion("Advanced", open=False):
        controls = [_draw_control(control, presets[first]) for control in offered_controls(presets[first])]
    filled = partial(_filled, presets)
    preset.input(filled, preset, [mode, *controls], queue=False, api_visibility="private")
    return _Inputs(picture, texts, mode, preset, controls, find, cancel)


def _draw_examples(picture: gr.Image, texts: gr.HTML) -> None:
    """Offer the examples by name, each with its pixels: nobody needs to know where their files lie."""
    shown = [{"path": path.name, "url": data_url(path.read_bytes(), "jpeg")} for path in EXAMPLES]
    choices = [(image, list(texts)) for image, texts in zip(shown, EXAMPLES.values(), strict=True)]
    dataset = gr.Dataset(components=[gr.Image(visible=False)], samples=[[None]] * len(shown), type="index")
    dataset.label, dataset.samples = "Examples", [[image] for image in shown]

    def fill(index: Any) -> Any:
        return choices[int(index)] if index in range(len(choices)) else gr.skip()

    dataset.click(fill, dataset, [picture, texts], postprocess=False, queue=False, api_visibility="private")


def _draw_control(control: Control, preset: SegmenterConfig) -> Any:
    value, info = control.value(preset), control.info(preset)
    match control.kind:
        case "share":
            return gr.Slider(0, 1, value, step=0.01, label=control.label, info=info)
        case "choices":
            return gr.CheckboxGroup(list(control.choices), value=value, label=control.label, info=info)
        case "switch" | "model":
            return gr.Checkbox(value, label=control.label, info=info)
        case "texts":
            return components.text_tags(control.setting, control.label, info=info, value=value)


def _filled(presets: dict[str, SegmenterConfig], name: Any) -> Any:
    """Fill the controls with a preset's values and explanations."""
    if name not in list(presets):
        return gr.skip()
    preset, kinds = presets[name], {"share": gr.Slider, "choices": gr.CheckboxGroup, "texts": gr.HTML}
    offered = offered_controls(preset)
    controls = (kinds.get(one.kind, gr.Checkbox)(value=one.value(preset), info=one.info(preset)) for one in offered)
    return [preset.mode, *controls]


def _draw_outputs() -> _Outputs:
    status = gr.HTML(elem_id="status", elem_classes="car-part")
    result = components.result_viewer()
    with gr.Column(visible=False) as more:
        gr.HTML("<h2>Step by step</h2>", elem_classes="car-part")
        steps = components.steps_viewer()
        gr.HTML("<h2>Download</h2>", elem_classes="car-part")
        with gr.Row():
            names = ("Label map (PNG)", "COCO JSON", "Masks (ZIP)", "Figure (PNG)")
            labels, coco, masks, figure = (gr.DownloadButton(name, size="sm", min_width=120) for name in names)
        code: dict[str, Any] = {"interactive": False, "lines": 1, "wrap_lines": True, "show_line_numbers": False}
        command = gr.Code(label="The same on the command line", language="shell", **code)
        python = gr.Code(label="The same in Python", language="python", **code)
        with gr.Accordion("Time per stage", open=False):
            seconds = gr.HTML(elem_classes="car-part")
    return _Outputs(status, result, more, steps, seconds, labels, coco, masks, figure, command, python)


@dataclass(frozen=True, slots=True, eq=False)
class _Callbacks:
    """What the page does when something is clicked. Nothing of one visitor is kept for another."""

    segmenter: Segmenter
    presets: dict[str, SegmenterConfig]
    files: VisitorFiles
    workers: Workers
    outputs: _Outputs

    async def find(
        self, request: gr.Request, picture: Any, texts: Any, preset: Any, mode: Any, *controls: Any
    ) -> AsyncGenerator[dict[Any, Any], None]:
        """Run the segmenter, telling its progress, and fill the page."""
        session = str(request.session_hash)

        def prepare() -> Callable[[Job], Response]:
            path = self.files.admit(session, picture)
            wanted = Request(picture=path, texts=texts, preset=preset, mode=mode, controls=controls)
            return partial(handle, wanted, self.segmenter, self.presets, partial(self.files.new_results, session))

        yield self.outputs.emptied()
        async for shown in run_for_visitor(self.workers, session, prepare, self.outputs.status, self.outputs.filled):
            yield shown

    def admit(self, request: gr.Request, picture: Any) -> tuple[Any, Any]:
        """Look at a picture as soon as it is chosen; one that cannot be used is taken out again, and why is said."""
        if picture is None:
            return gr.skip(), gr.skip()
        try:
            open_picture(self.files.admit(str(request.session_hash), picture))
        except CarError as error:
            return None, components.status_line(str(error), "error")
        return gr.skip(), ""

    def leave(self, request: gr.Request) -> None:
        """Stop a visitor's run and remove the visitor's files."""
        self.workers.stop(str(request.session_hash))
        self.files.leave(str(request.session_hash))


def _connect(demo: gr.Blocks, callbacks: _Callbacks, inputs: _Inputs, at_once: int) -> None:
    """Say what happens on which click."""
    buttons, status = [inputs.find, inputs.cancel], callbacks.outputs.status
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    run = inputs.find.click(partial(_buttons, busy=True), None, buttons, **quiet).then(
        callbacks.find,
        inputs.request,
        callbacks.outputs.all,
        concurrency_limit=at_once,
        preprocess=False,
        show_progress="minimal",
        show_progress_on=[status],
        api_name="find",
        api_visibility="undocumented",
    )
    run.then(partial(_buttons, busy=False), None, buttons, **quiet)
    inputs.cancel.click(_canceled, None, [status, *buttons], cancels=[run], **quiet)
    inputs.picture.change(callbacks.admit, inputs.picture, [inputs.picture, status], preprocess=False, **quiet)
    demo.unload(callbacks.leave)


def _buttons(*, busy: bool) -> tuple[gr.Button, gr.Button]:
    return gr.Button(interactive=not busy), gr.Button(interactive=busy)


def _canceled() -> tuple[Any, ...]:
    return components.status_line("Canceled.", "done"), *_buttons(busy=False)
