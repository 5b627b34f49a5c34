"""Parses a command with the real parser behind it, and runs nothing."""

import argparse
import re
import subprocess
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
import typer

from clip_as_rnn.apps.cli import commands
from clip_as_rnn.apps.cli.parsing import parse_settings
from clip_as_rnn.presets import find_preset
from documents import ROOT, Command

USAGE_ERROR = typer.BadParameter.__base__  # of click, which newer Typers carry under another name


class ParsedError(Exception):
    """A module's own parser took its arguments."""


def parse_car(command: Command) -> None:
    """Parse a command of ours, its settings and the name of its preset; a bare name in a sentence must be a command."""
    name, *arguments = command.words[1:]
    group = typer.main.get_command(commands.app)
    if name.startswith("-"):
        assert name in {option for parameter in group.params for option in parameter.opts} | {"--help"}
        return
    assert name in group.commands, f"there is no command `car {name}`"
    if command.mentioned and not arguments:
        return
    try:
        values = group.commands[name].make_context(name, arguments).params
    except USAGE_ERROR as error:
        pytest.fail(f"{command}: {error.format_message()}")
    parse_settings(values.get("set_") or ())
    if values.get("preset"):
        find_preset(values["preset"])


def parse_module(command: Command) -> None:
    """Run a module up to where its parser took the arguments."""
    module, *arguments = command.words[2:]
    assert find_spec(module), f"there is no module {module}"
    if not arguments:
        return
    main = import_module(module).main
    with ExitStack() as patches:
        patches.enter_context(mock.patch("sys.argv", [module, *arguments]))
        for name in ("parse_args", "parse_intermixed_args"):
            patches.enter_context(mock.patch.object(argparse.ArgumentParser, name, _stop_after(name)))
        with pytest.raises(ParsedError):
            main()


def _stop_after(name: str) -> Callable[[argparse.ArgumentParser], None]:
    parse = getattr(argparse.ArgumentParser, name)

    def stop(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise ParsedError

    return stop


def find_extras(command: Command) -> None:
    """Look up the extras of this package."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for names in re.findall(r"(?:clip-as-rnn|\.)\[(.*?)\]", command.text):
        assert set(names.split(",")) <= set(extras), command


def make_dry(command: Command) -> None:
    """Ask make what it would do."""
    done = subprocess.run(
        ["make", "--dry-run", *command.words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def find_files(command: Command) -> None:
    """See that the files are there."""
    assert all(Path(ROOT, word).exists() for word in command.words if "/" in word), command


PARSERS: dict[str, Callable[[Command], None]] = {
    "car ": parse_car,
    "python -m training": parse_module,
    "python -m benchmarks": parse_module,
    "python -m pytest": find_files,
    "pip install": find_extras,
    "make ": make_dry,
}


def parse(command: Command) -> bool:
    """Parse a command if there is a parser for it."""
    parser = next((parser for beginning, parser in PARSERS.items() if command.bare.startswith(beginning)), None)
    if parser:
        parser(command)
    return parser is not None
