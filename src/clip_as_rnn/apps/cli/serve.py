"""The command `car serve`: an HTTP endpoint that stock clients can call."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated

import typer

from clip_as_rnn.apps.cli.console import say
from clip_as_rnn.apps.cli.options import Assignments, CacheDir, Device, DtypeName, Judge, Model, Preset, SamModel
from clip_as_rnn.apps.cli.parsing import choose, parse_settings
from clip_as_rnn.config import with_settings
from clip_as_rnn.errors import DependencyError
from clip_as_rnn.presets import find_preset

# What loads torch or FastAPI is imported inside the command, for --help must not wait for it.

PORT = 8000
TOKEN_VARIABLE = "CAR_SERVER_TOKEN"
_NEEDED = ("fastapi", "uvicorn", "prometheus_client")
_SIDE_PX = 1024  # for presets without a limit of their own, which strangers' pictures must have

Port = Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Where to listen; 0 takes a free port.")]
Host = Annotated[
    str, typer.Option(metavar="NAME", help=f"127.0.0.1: this machine alone; any other needs {TOKEN_VARIABLE}.")
]
Texts = Annotated[
    list[str] | None,
    typer.Option("--text", "-t", metavar="TEXT", help="What to look for where a request names nothing; repeat."),
]
Origins = Annotated[
    list[str] | None, typer.Option("--cors", metavar="ORIGIN", help="A page that browsers may call from; repeat.")
]
ImageHosts = Annotated[
    list[str] | None,
    typer.Option("--image-host", metavar="HOST", help="A public host that images may be fetched from by URL; repeat."),
]
Seconds = Annotated[float, typer.Option(metavar="S", help="How long a request may take from its last byte.")]
Waiting = Annotated[int, typer.Option(metavar="N", help="How many pictures may wait; more are refused (503).")]
Batch = Annotated[int, typer.Option(metavar="N", help="How many pictures with the same texts are done side by side.")]


def serve(  # noqa: PLR0913 - one parameter per option
    *,
    port: Port = PORT,
    host: Host = "127.0.0.1",
    text: Texts = None,
    preset: Preset = "default",
    model: Model = None,
    classifier: Judge = None,
    sam: SamModel = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    cache_dir: CacheDir = None,
    set_: Assignments = None,
    cors: Origins = None,
    image_host: ImageHosts = None,
    seconds: Seconds = 60.0,
    waiting: Waiting = 32,
    batch: Batch = 4,
) -> None:
    """Serve segmentation over HTTP: Hugging Face's image segmentation at /, everything known at /v1/segment."""
    named = (("model", model), ("classifier", classifier), ("sam", sam))
    chosen = {name: value for name, value in named if value is not None}
    config = with_settings(find_preset(preset), {**parse_settings(set_ or ()), **chosen})
    if config.max_side_px is None:
        config = with_settings(config, {"max_side_px": _SIDE_PX})
        say(
            f"Note: Pictures larger than {_SIDE_PX} pixels are segmented at {_SIDE_PX}; --set max_side_px=N changes it."
        )
    _check_parts(_NEEDED)
    from clip_as_rnn import loading
    from clip_as_rnn.apps.server import run
    from clip_as_rnn.apps.server.limits import Limits
    from clip_as_rnn.apps.server.service import Service

    limits = Limits(seconds=seconds, waiting=waiting, images_at_once=batch)
    address = run.Address(host=host, port=port, token=os.environ.get(TOKEN_VARIABLE), origins=cors or ())
    chosen_dtype = choose("dtype", dtype, loading.DType)

    def load() -> Service:
        say("Loading the models")
        segmenter = loading.load_segmenter(
            config, device=device, dtype=chosen_dtype, cache_dir=cache_dir, text_cache=False
        )  # it would hold visitors' words
        segmenter.check_texts(text or ())
        return Service(segmenter, preset=preset, limits=limits, texts=text or (), image_hosts=image_host or ())

    run.serve(address, load, say)


def _check_parts(names: Sequence[str]) -> None:
    """Raise DependencyError if a part of the server is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"The server needs {', '.join(missing)}; install it with: pip install 'clip-as-rnn[server]'."
        )
