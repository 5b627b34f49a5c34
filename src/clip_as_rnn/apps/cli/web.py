"""The command `car web`: a page on which to try pictures and texts."""

from importlib.util import find_spec
from typing import Annotated

import typer

from clip_as_rnn.apps.cli.console import say
from clip_as_rnn.apps.cli.options import Device, DtypeName, Judge, Model, Preset, SamModel
from clip_as_rnn.apps.cli.parsing import choose
from clip_as_rnn.config import with_settings
from clip_as_rnn.errors import DependencyError
from clip_as_rnn.presets import find_preset

# What loads torch or Gradio is imported inside the command, for --help must not wait for it.

PORT = 7860
PASSWORD_VARIABLE = "CAR_WEB_PASSWORD"

Port = Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Where to listen.")]
Host = Annotated[str, typer.Option(metavar="NAME", help="127.0.0.1: this machine alone; 0.0.0.0: every network.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="NAME", help="A name besides --host that browsers may use, as of a proxy. Repeat."),
]
User = Annotated[str | None, typer.Option(metavar="NAME", help="Let in only this user, by password.")]
Password = Annotated[
    str | None,
    typer.Option(
        metavar="WORD", envvar=PASSWORD_VARIABLE, help="Better by the environment: command lines can be read by others."
    ),
]


def web(  # noqa: PLR0913 - one parameter per option
    *,
    port: Port = PORT,
    host: Host = "127.0.0.1",
    name: Names = None,
    user: User = None,
    password: Password = None,
    preset: Preset = "default",
    model: Model = None,
    classifier: Judge = None,
    sam: SamModel = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
) -> None:
    """Serve a page on which to try pictures and texts, and to see what the recurrence sees."""
    chosen = {
        name: value for name, value in (("model", model), ("classifier", classifier), ("sam", sam)) if value is not None
    }
    config = with_settings(find_preset(preset), chosen)
    if find_spec("gradio") is None:
        raise DependencyError("The web page needs Gradio; install it with: pip install 'clip-as-rnn[web]'.")
    from clip_as_rnn.apps.web.server import Address, serve
    from clip_as_rnn.loading import DType, load_segmenter

    address = Address(host=host, port=port, user=user, password=password, names=name or ())
    say("Loading the models")
    chosen_dtype = choose("dtype", dtype, DType)
    segmenter = load_segmenter(config, device=device, dtype=chosen_dtype, text_cache=False)  # it holds visitors' words
    serve(segmenter, address, say)
