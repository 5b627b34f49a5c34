"""The page's own components, of HTML, whose looks and behavior lie in `static/`, and small pieces of HTML."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

_STATIC = Path(__file__).parent / "static"


def text_tags(name: str, title: str, *, info: str = "", hint: str = "", value: list[str] | None = None) -> gr.HTML:
    """Make a field of removable tags; its value is a list of texts."""
    return _component("texts", value or [], name=name, title=title, info=info, hint=hint)


def result_viewer() -> gr.HTML:
    """Make the picture with its masks and the table of texts; its value comes from `payload.result_payload`."""
    return _component("result", None)


def steps_viewer() -> gr.HTML:
    """Make the figure of the recurrence to step through; its value comes from `payload.steps_payload`."""
    return _component("steps", None)


def status_line(message: str, kind: str = "busy") -> str:
    """Say what goes on (`busy`), what came of it (`done`), or what went wrong (`error`)."""
    role = "alert" if kind == "error" else "status"
    bar = "<progress aria-label='Working'></progress>" if kind == "busy" else ""
    return f"<div class='car-status {kind}' role='{role}'>{escape(message)}{bar}</div>"


def seconds_table(seconds: Mapping[str, float]) -> str:
    """Lay out the time per stage, with a bar for its share."""
    total = sum(seconds.values())
    rows = "".join(
        f"<tr><td>{escape(stage)}</td><td class='number'>{spent:.2f} s</td>"
        f"<td class='bar'><i style='width:{100 * spent / max(total, 1e-9):.1f}%'></i></td></tr>"
        for stage, spent in seconds.items()
    )
    sum_row = f"<tr><td>In all</td><td class='number'>{total:.2f} s</td><td></td></tr>"
    return f"<table class='car-seconds'>{rows}{sum_row}</table>"


def css() -> str:
    """Return the looks of the page as a whole."""
    return (_STATIC / "page.css").read_text(encoding="utf-8")


def _component(kind: str, value: Any, **props: Any) -> gr.HTML:
    template, looks, behavior = (
        (_STATIC / f"{kind}.{ending}").read_text(encoding="utf-8") for ending in ("html", "css", "js")
    )
    return gr.HTML(
        value,
        html_template=template,
        css_template=looks,
        js_on_load=behavior,
        apply_default_css=False,
        elem_id=props.get("name", kind),
        elem_classes="car-part",
        **props,
    )
