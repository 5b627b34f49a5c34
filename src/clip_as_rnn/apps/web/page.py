"""The page itself: what stands where, and which part fills which. Everything else is asked of its neighbours."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from clip_as_rnn.apps.web import parts
from clip_as_rnn.apps.web.answer import Answer, Asked, answer
from clip_as_rnn.apps.web.controls import CONTROLS, MODES, Control, offered_presets
from clip_as_rnn.apps.web.examples import Example
from clip_as_rnn.apps.web.files import VisitorFiles, open_picture
from clip_as_rnn.apps.web.watching import StoppedError, Workers
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import CarError, InputError
from clip_as_rnn.segmenter import Segmenter, View

QUEUE_LIMIT = 64  # visitors who may wait
_SWEEP_S = (600, 7200)  # every ten minutes, files that are older than two hours go, whoever's they are
_TITLE = "Find anything you can name in a picture"
_SEVERAL = "Several at once: separate them by commas, or paste a list."
_SAME_MODELS = "A set of settings; the models stay the same."
_ABOUT = "Masks for the words that are there, a no for those that are not. CLIP as RNN: no training, any words."


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """The parts that a visitor fills."""

    picture: gr.Image
    texts: gr.HTML
    mode: gr.Radio
    preset: gr.Dropdown
    controls: list[Any]
    find: gr.Button
    cancel: gr.Button

    @property
    def asked(self) -> list[Any]:
        return [self.picture, self.texts, self.preset, self.mode, *self.controls]


@dataclass(frozen=True, slots=True, eq=False)
class _Outputs:
    """The parts that an answer fills."""

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

    def filled(self, given: Answer) -> dict[Any, Any]:
        return {
            self.status: parts.status_line(given.summary, "done"),
            self.result: given.result,
            self.more: gr.Column(visible=True),
            self.steps: given.steps,
            self.seconds: parts.seconds_table(given.seconds),
            self.labels: str(given.files.labels),
            self.json: str(given.files.json),
            self.masks: str(given.files.masks),
            self.figure: str(given.files.figure),
            self.command: given.command,
            self.python: given.python,
        }

    def emptied(self) -> dict[Any, Any]:
        waiting = parts.status_line("Waiting for a free place")
        return {self.status: waiting, self.result: None, self.more: gr.Column(visible=False)}


def create_demo(segmenter: Segmenter[View], *, examples: Sequence[Example] = (), at_once: int = 1) -> gr.Blocks:
    """Build the page around a loaded segmenter, which all visitors share.

    Args:
        segmenter: the models and the settings with which the page opens; visitors change theirs, never its.
        examples: pictures on offer, each with texts for it.
        at_once: how many runs may work at the same time; others wait in a queue.
    """
    presets = offered_presets(segmenter.config)
    gr.set_static_paths([path for path, _ in examples])
    demo = gr.Blocks(title="CLIP as RNN", analytics_enabled=False, delete_cache=_SWEEP_S)
    with demo:
        gr.HTML(f"<div class='car-title'><h1>{_TITLE}</h1><p>{_ABOUT}</p></div>", elem_classes="car-part")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                inputs = _draw_inputs(presets, examples)
            with gr.Column(scale=3, min_width=320):
                outputs = _draw_outputs()
        files, shown = VisitorFiles(Path(get_upload_folder())), frozenset(path for path, _ in examples)
        desk = _Desk(segmenter, presets, files, Workers(at_once), shown, outputs)
        _connect(demo, desk, inputs, at_once)
    demo.queue(max_size=QUEUE_LIMIT)
    return demo


def _draw_inputs(presets: dict[str, SegmenterConfig], examples: Sequence[Example]) -> _Inputs:
    first = next(iter(presets))
    picture = gr.Image(
        label="Picture", type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"], height=300
    )
    texts = parts.text_tags(
        "texts",
        "What to look for",
        hint="Type a word, press Enter",
        info=_SEVERAL,
    )
    if examples:
        _draw_examples(examples, picture, texts)
    with gr.Row():
        find = gr.Button("Find", variant="primary", scale=3, min_width=120)
        cancel = gr.Button("Cancel", interactive=False, scale=1, min_width=90)
    mode = gr.Radio(list(MODES), value=presets[first].mode, label="Mode")
    preset = gr.Dropdown(list(presets), value=first, label="Preset", info=_SAME_MODELS)
    with gr.Accordion("Advanced", open=False):
        controls = [_draw_control(control, presets[first]) for control in CONTROLS]
    preset.input(lambda name: _filled(presets[name]), preset, [mode, *controls], queue=False, api_visibility="private")
    return _Inputs(picture, texts, mode, preset, controls, find, cancel)


def _draw_examples(examples: Sequence[Example], picture: gr.Image, texts: gr.HTML) -> None:
    samples = [[str(path)] for path, _ in examples]
    shelf = gr.Dataset(components=[gr.Image(visible=False)], samples=samples, type="index", label="Examples")
    shelf.click(
        lambda index: (str(examples[index][0]), list(examples[index][1])),
        shelf,
        [picture, texts],
        queue=False,
        api_visibility="private",
    )


def _draw_control(control: Control, preset: SegmenterConfig) -> Any:
    value, info = control.value(preset), control.info(preset)
    match control.kind:
        case "share":
            return gr.Slider(0, 1, value, step=0.01, label=control.label, info=info)
        case "choices":
            return gr.CheckboxGroup(list(control.choices), value=value, label=control.label, info=info)
        case "switch":
            return gr.Checkbox(value, label=control.label, info=info)
        case "texts":
            return parts.text_tags(control.setting, control.label, info=info, value=value)


def _filled(preset: SegmenterConfig) -> list[Any]:
    """Fill the controls with a preset's values and explanations."""
    kinds = {"share": gr.Slider, "choices": gr.CheckboxGroup, "switch": gr.Checkbox, "texts": gr.HTML}
    return [
        preset.mode,
        *(kinds[one.kind](value=one.value(preset), info=one.info(preset)) for one in CONTROLS),
    ]


def _draw_outputs() -> _Outputs:
    status = gr.HTML(elem_id="status", elem_classes="car-part")
    result = parts.result_viewer()
    with gr.Column(visible=False) as more:
        gr.HTML("<h2>Step by step</h2>", elem_classes="car-part")
        steps = parts.steps_viewer()
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
class _Desk:
    """What the page does when something is clicked. Nothing of one visitor is kept for another."""

    segmenter: Segmenter[Any]
    presets: dict[str, SegmenterConfig]
    files: VisitorFiles
    workers: Workers
    examples: frozenset[Path]
    outputs: _Outputs

    async def find(
        self, request: gr.Request, picture: str | None, texts: list[str], preset: str, mode: str, *controls: Any
    ) -> AsyncGenerator[dict[Any, Any], None]:
        """Run the segmenter, telling the stages, and fill the page."""
        status, session = self.outputs.status, str(request.session_hash)
        yield self.outputs.emptied()
        try:
            if not picture:
                raise InputError("Please choose a picture first.")
            asked = Asked(picture=Path(picture), texts=texts or [], preset=preset, mode=mode, controls=controls)
            new_folder = partial(self.files.new_results, session)
            work = partial(answer, asked, self.segmenter, self.presets, new_folder)
            async for news in self.workers.run(session, work):
                yield {status: parts.status_line(news)} if isinstance(news, str) else self.outputs.filled(news)
        except StoppedError:
            return  # the visitor has left
        except CarError as error:
            yield {status: parts.status_line(str(error), "error")}
        except Exception:  # a bug: the visitor is told that there is one, and the log shows it
            yield {status: parts.status_line("Something went wrong inside; the server's log says what.", "error")}
            raise

    def admit(self, request: gr.Request, upload: dict[str, Any] | None) -> tuple[Any, Any]:
        """Look at a picture as soon as it is chosen; one that cannot be used is taken out again, and why is said."""
        if upload is None:
            return gr.skip(), gr.skip()
        path = Path(upload["path"])
        if path in self.examples:
            return gr.skip(), ""
        try:
            self.files.admit(str(request.session_hash), path)
            open_picture(path)
        except CarError as error:
            return None, parts.status_line(str(error), "error")
        return gr.skip(), ""

    def leave(self, request: gr.Request) -> None:
        """Stop a visitor's run and remove the visitor's files."""
        self.workers.stop(str(request.session_hash))
        self.files.leave(str(request.session_hash))


def _connect(demo: gr.Blocks, desk: _Desk, inputs: _Inputs, at_once: int) -> None:
    """Say what happens on which click."""
    buttons, status = [inputs.find, inputs.cancel], desk.outputs.status
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    run = inputs.find.click(partial(_buttons, busy=True), None, buttons, **quiet).then(
        desk.find,
        inputs.asked,
        desk.outputs.all,
        concurrency_limit=at_once,
        show_progress="minimal",
        show_progress_on=[status],
        api_name="find",
        api_visibility="undocumented",
    )
    run.then(partial(_buttons, busy=False), None, buttons, **quiet)
    inputs.cancel.click(_cancelled, None, [status, *buttons], cancels=[run], **quiet)
    inputs.picture.change(desk.admit, inputs.picture, [inputs.picture, status], preprocess=False, **quiet)
    demo.unload(desk.leave)


def _buttons(*, busy: bool) -> tuple[gr.Button, gr.Button]:
    return gr.Button(interactive=not busy), gr.Button(interactive=busy)


def _cancelled() -> tuple[Any, ...]:
    return parts.status_line("Cancelled.", "done"), *_buttons(busy=False)
