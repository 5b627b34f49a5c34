"""Reads the documents: the commands and programs that a reader would type, the links, what stands in code."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
    "training/README.md",
    "space/README.md",
    "data/scenes/README.md",
    "data/clips/README.md",
    "src/clip_as_rnn/assets/tiny/README.md",
)
PAGES = tuple(page for page in DOCUMENTS if (ROOT / page).exists())  # a source distribution leaves some out
PROGRAMS = ("car", "make", "python", "pip", "curl", "docker", "cvat-cli", "ray", "export", "split", "hf")
COMMAND = re.compile(rf"((?:(?:[A-Z_]+=(?:\$\(.*?\)|\S+)|chrt -f \d+) +)*)((?:{'|'.join(PROGRAMS)}) .+)")


@dataclass(frozen=True)
class Command:
    """One command as it is typed, without its comment.

    Attributes:
        page: where it stands, from the repository's root.
        line: the line of its block.
        text: as it stands there, on one line.
        mentioned: it stands within a sentence, where `car segment` may be a name and no whole command.
    """

    page: str
    line: int
    text: str
    mentioned: bool

    @property
    def bare(self) -> str:
        """The program and its arguments, without variables of the environment and the like."""
        return _match(self.text)[2]

    @property
    def words(self) -> list[str]:
        """The program and its arguments."""
        return shlex.split(self.bare)

    @property
    def environment(self) -> dict[str, str]:
        """The variables set in front of the program."""
        return dict(re.findall(r"(\w+)=(\S+)", _match(self.text)[1]))

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Block:
    """A block of code: its commands, or its text where it holds none."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands, if it is a block of commands; every line of such a block is one."""
        lines = [line for line in re.sub(r"\\\n\s*", "", self.text).splitlines() if line.strip()]
        if self.language or not any(COMMAND.match(_without_comment(line)) for line in lines):
            return ()
        return tuple(Command(self.page, self.line, _without_comment(line), mentioned=False) for line in lines)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def _without_comment(line: str) -> str:
    return re.sub(r"\s+# .*", "", line.strip())


def _match(text: str) -> re.Match[str]:
    match = COMMAND.fullmatch(text)
    assert match, f"no command: {text}"
    return match


@cache
def read_tokens(page: str) -> tuple[Token, ...]:
    """Parse a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    front_matter = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    text = text[front_matter.end() :] if front_matter else text
    return tuple(MarkdownIt("commonmark").enable("table").parse(text))


def read_blocks() -> list[Block]:
    """List all blocks of code, fenced and indented."""
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for page in PAGES
        for token in read_tokens(page)
        if token.type in ("fence", "code_block") and token.map
    ]


def _inline(page: str) -> Iterator[tuple[int, Token]]:
    for token in read_tokens(page):
        for child in token.children or ():
            yield (token.map[0] + 1 if token.map else 0), child


def read_mentions() -> list[Command]:
    """List the commands within sentences."""
    return [
        Command(page, line, " ".join(token.content.split()), mentioned=True)
        for page in PAGES
        for line, token in _inline(page)
        if token.type == "code_inline" and COMMAND.fullmatch(" ".join(token.content.split()))
    ]


def read_names() -> list[tuple[str, str]]:
    """List what stands in code within sentences, with its page."""
    return [(page, token.content) for page in PAGES for _, token in _inline(page) if token.type == "code_inline"]


def read_links(pages: tuple[str, ...]) -> list[tuple[str, str]]:
    """List the targets of links and images that point into this repository, with their page."""
    targets = [
        (page, str(token.attrGet("href") or token.attrGet("src")))
        for page in pages
        for _, token in _inline(page)
        if token.type in ("link_open", "image")
    ]
    return [(page, target) for page, target in targets if not re.match(r"\w+:", target)]


def read_anchors(page: str) -> set[str]:
    """List the anchors of a page's headings as GitHub makes them."""
    tokens = read_tokens(page)
    headings = [tokens[i + 1].children or () for i, token in enumerate(tokens) if token.type == "heading_open"]
    titles = ["".join(child.content for child in children) for children in headings]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
