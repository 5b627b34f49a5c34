"""The command `car`: segment, demo, presets, evaluate, web.

Exit codes: 0; 2 for a user's mistake, 3 for weights that cannot be had, 130 for Ctrl-C, each with one line on stderr.
"""

import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console

from clip_as_rnn import __version__
from clip_as_rnn.apps.cli.console import preset_table, presets_json, presets_table, say
from clip_as_rnn.apps.cli.evaluate import evaluate
from clip_as_rnn.apps.cli.options import Assignments, CacheDir, Device, DtypeName, Judge, Model, Output, Preset
from clip_as_rnn.apps.cli.parsing import gather_texts, parse_settings
from clip_as_rnn.apps.cli.web import web
from clip_as_rnn.config import with_settings
from clip_as_rnn.errors import CarError, WeightsError
from clip_as_rnn.presets import PRESETS, find_preset

# `segment` is imported inside the commands: it loads torch, which takes seconds that --help must not.

Parameters = ParamSpec("Parameters")

DEMO_IMAGE = Path(__file__).parents[2] / "assets" / "demo" / "park.jpg"  # also in examples/
DEMO_TEXTS = ("dog", "car", "tree", "cat", "banana")  # the last two are not in the picture

_FORMATS = ("overlay", "labels", "masks", "json")
_MISTAKE, _NO_WEIGHTS, _INTERRUPTED = 2, 3, 130
_USAGE_ERROR: Any = typer.BadParameter.__base__  # of click, which newer Typers carry under another name

app = typer.Typer(
    name="car",
    help="Find anything you can name in a picture: masks for the words that are there, a no for those that are not.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of pictures.")]
Texts = Annotated[
    list[str] | None, typer.Option("--text", "-t", metavar="TEXT", help="What to look for; may be repeated.")
]
TextsFile = Annotated[
    Path | None, typer.Option("--texts-file", metavar="FILE", help="Texts, one per line; # begins a comment.")
]
FormatNames = Annotated[
    list[str] | None,
    typer.Option(
        *("--format", "-f"),
        metavar="NAME",
        help="overlay, figure, labels, masks, json, npz; may be repeated, or joined by commas.",
        show_default="overlay,labels,masks,json",
    ),
]


def _ending_well(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turn our errors and Ctrl-C into one line and an exit code; anything else is a bug and shows."""

    @wraps(command)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except CarError as error:
            say(f"Error: {error}")
            raise typer.Exit(_NO_WEIGHTS if isinstance(error, WeightsError) else _MISTAKE) from error
        except KeyboardInterrupt as error:
            say("Interrupted; every file that was written is complete.")
            raise typer.Exit(_INTERRUPTED) from error

    return guarded


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"clip-as-rnn {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hold the options of `car` itself; the help text is the app's."""


@app.command()
@_ending_well
def segment(  # noqa: PLR0913, PLR0917 - one parameter per option
    images: Images,
    text: Texts = None,
    texts_file: TextsFile = None,
    preset: Preset = "default",
    model: Model = None,
    classifier: Judge = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    cache_dir: CacheDir = None,
    set_: Assignments = None,
    output: Output = Path("out"),
    format_: FormatNames = None,
    figure: Annotated[bool, typer.Option("--figure", help="Also draw the figure of the recurrence.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out images done with these texts and settings.")
    ] = False,
) -> None:
    """Segment pictures by texts: an overlay, a label map, masks and JSON for each."""
    texts = gather_texts(text or (), texts_file)
    chosen = {name: value for name, value in (("model", model), ("classifier", classifier)) if value is not None}
    config = with_settings(find_preset(preset), {**parse_settings(set_ or ()), **chosen})
    from clip_as_rnn.apps.cli.segment import Job, run

    job = Job(
        images=images,
        texts=texts,
        preset=preset,
        config=config,
        device=device,
        dtype=dtype,
        folder=output,
        formats=[*(format_ or _FORMATS), *(["figure"] if figure else [])],
        cache_dir=cache_dir,
        skip_existing=skip_existing,
    )
    if not run(job):
        raise typer.Exit(_MISTAKE)


@app.command()
@_ending_well
def demo(
    preset: Preset = "tiny",
    model: Model = None,
    classifier: Judge = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.")] = Path(
        "out/demo"
    ),
) -> None:
    """Segment a bundled picture with the bundled CLIP, offline: the overlay, the recurrence, a label map and JSON."""
    segment(
        images=[DEMO_IMAGE],
        text=list(DEMO_TEXTS),
        preset=preset,
        model=model,
        classifier=classifier,
        output=output,
        format_=["overlay", "figure", "labels", "json"],
    )


@app.command()
@_ending_well
def presets(
    name: Annotated[str | None, typer.Argument(help="Show all settings of this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the presets, or all settings of one."""
    if as_json:
        chosen = PRESETS if name is None else {name: find_preset(name)}
        typer.echo(json.dumps(presets_json(chosen), ensure_ascii=False, indent=2))
    else:
        Console().print(presets_table() if name is None else preset_table(name, find_preset(name)))


app.command()(_ending_well(evaluate))
app.command()(_ending_well(web))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    try:
        return app(list(arguments) or ["--help"], standalone_mode=False) or 0
    except _USAGE_ERROR as error:
        say(f"Error: {' '.join(error.format_message().split())}")
        return _MISTAKE
