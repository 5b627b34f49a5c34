"""The command `car`: segment, demo, presets, evaluate, web, serve.

Exit codes: 0; 1 for images of several that failed, 2 for a user's mistake, 3 for weights that cannot be had, 130 for
Ctrl-C, each with one line on stderr.
"""

import json
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console

from clip_as_rnn import __version__
from clip_as_rnn.apps.cli.console import preset_table, presets_json, presets_table, say
from clip_as_rnn.apps.cli.evaluate import evaluate
from clip_as_rnn.apps.cli.segment import demo, segment
from clip_as_rnn.apps.cli.serve import serve
from clip_as_rnn.apps.cli.web import web
from clip_as_rnn.errors import CarError, WeightsError
from clip_as_rnn.presets import PRESETS, find_preset

Parameters = ParamSpec("Parameters")

_MISTAKE, _NO_WEIGHTS, _INTERRUPTED = 2, 3, 130
_USAGE_ERROR: Any = typer.BadParameter.__base__  # of click, which newer Typers carry under another name

app = typer.Typer(
    name="car",
    help="Find anything you can name in a picture: masks for the words that are there, a no for those that are not.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _guarded(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turn our errors into one line and an exit code, Ctrl-C into an exit code; anything else is a bug and shows."""

    @wraps(command)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except CarError as error:
            say(f"Error: {error}")
            raise typer.Exit(_NO_WEIGHTS if isinstance(error, WeightsError) else _MISTAKE) from error
        except KeyboardInterrupt as error:
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


for command in (segment, demo, presets, evaluate, web, serve):
    app.command()(_guarded(command))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code, 130 for Ctrl-C, of which nothing is said yet."""
    try:
        return app(list(arguments) or ["--help"], standalone_mode=False) or 0
    except typer.Abort:  # what older typer makes of Ctrl-C while it reads the words
        return _INTERRUPTED
    except _USAGE_ERROR as error:
        say(f"Error: {' '.join(error.format_message().split())}")
        return _MISTAKE
