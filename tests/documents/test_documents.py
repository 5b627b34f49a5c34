"""The documents say what is there: every command is one, every link leads somewhere, every name of ours exists.

`make test-documents` runs the commands and the programs; here they are parsed only, which takes no time.
"""

import re
from inspect import getsource
from pkgutil import resolve_name
from textwrap import dedent

import pytest
from excused import EXCUSED, excuse
from parsing import parse

import clip_as_rnn
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.state import State
from documents import (
    COMMAND,
    DOCUMENTS,
    PAGES,
    ROOT,
    Block,
    Command,
    read_anchors,
    read_blocks,
    read_links,
    read_mentions,
    read_names,
)

BLOCKS = read_blocks()
COMMANDS = [command for block in BLOCKS for command in block.commands] + read_mentions()
UNIQUE = list({command.text: command for command in COMMANDS}.values())
LINKED = (*PAGES, "CHANGELOG.md")
DIRECTIVES = {"{toctree}", "{eval-rst}"}  # of Sphinx, for the site
HOMES = {
    "Segmenter": "segmenter",
    "Segmentation": "result",
    "DenseCrf": "dense_crf",
    "Job": "batch.job",
}
A_CHECKOUT = (ROOT / ".git").exists()
of_a_checkout = pytest.mark.skipif(not A_CHECKOUT, reason="the source distribution leaves out what is linked and named")


@pytest.mark.parametrize("command", UNIQUE, ids=str)
def test_every_command_is_parsed_by_its_own_parser_or_says_who_holds_it(command: Command):
    assert parse(command) or excuse(command)


def test_every_reason_is_still_needed():
    assert {excuse(command) for command in COMMANDS} - {None} == set(EXCUSED)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.commands], ids=str)
def test_a_block_of_commands_holds_nothing_else(block: Block):
    assert [line.text for line in block.commands if not COMMAND.fullmatch(line.text)] == []


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.commands], ids=str)
def test_programs_stand_in_fences_that_name_their_language(block: Block):
    assert block.language in {"python", "js", "bibtex", "text", ""} or block.language in DIRECTIVES
    if not block.language:
        assert not re.search(r"^\s*(from \w+ )?import ", block.text, re.MULTILINE)


@of_a_checkout
def test_no_document_is_forgotten():
    assert PAGES == DOCUMENTS


@of_a_checkout
@pytest.mark.parametrize(("page", "target"), read_links(LINKED))
def test_every_link_leads_somewhere(page: str, target: str):
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    assert file.exists()
    if anchor:
        assert anchor in read_anchors(str(file.resolve().relative_to(ROOT)))


def is_example(name: str) -> bool:
    """Say whether a file is one that a reader is going to make."""
    return "NAME" in name or "/.work" in name


@of_a_checkout
def test_every_file_that_is_named_exists():
    folders = "src|tests|docs|data|examples|training|benchmarks|docker|space"
    named = [(page, name) for page, name in read_names() if re.fullmatch(rf"({folders})/[\w./-]+", name)]
    assert len(named) > 30
    assert [(page, name) for page, name in named if not (ROOT / name).exists() and not is_example(name)] == []


def test_every_dotted_name_of_ours_exists():
    pattern = rf"\b(?:clip_as_rnn|{'|'.join(HOMES)})(?:\.\w+)+"
    named = {name for page in PAGES for name in re.findall(pattern, (ROOT / page).read_text(encoding="utf-8"))}
    assert len(named) > 9
    assert [name for name in sorted(named) if not is_there(name)] == []


def is_there(name: str) -> bool:
    """Say whether a module, class or function of ours has this name, from the root or from its class."""
    home = HOMES.get(name.partition(".")[0])
    try:
        resolve_name(f"clip_as_rnn.{home}:{name}" if home else name)
    except (AttributeError, ImportError):
        return False
    return True


def test_every_public_name_is_on_the_page_of_the_api():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in clip_as_rnn.__all__ if not re.search(rf":: {name}$", page, re.MULTILINE)] == []


def test_every_page_is_in_the_tables_of_contents():
    listed = [name for block in BLOCKS if block.language == "{toctree}" for name in block.text.split()]
    pages = {page.removeprefix("docs/").removesuffix(".md") for page in PAGES if page.startswith("docs/")}
    assert pages - set(listed) == {"index"}


def test_the_algorithm_on_one_screen_is_the_one_that_runs():
    shown = [block.text for block in BLOCKS if block.page == "docs/car-on-one-screen.md" and block.language == "python"]
    assert shown == [dedent(getsource(method)) for method in (Segmenter._recur, State.update)]
    assert sum(text.count("\n") for text in shown) < 60  # a screen


def test_the_settings_of_clips_are_told_as_the_presets_have_them():
    told = re.findall(
        r"^\| `(\w+)` \|.*\| ([\d.]+) \|$", (ROOT / "docs" / "video.md").read_text(encoding="utf-8"), re.M
    )
    assert len(told) >= 8
    for setting, value in told:
        assert (setting, float(value)) == (setting, getattr(PRESETS["default"].video, setting, None))
