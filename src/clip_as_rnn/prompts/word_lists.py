"""Texts that nobody asks for but every image is compared with: background and contrast texts, one a line in text files.

The groups of background texts are those of CaR's appendix D; the 23 texts of the authors' code serve every data set.
"""

from importlib.resources import files


def _read(name: str) -> tuple[str, ...]:
    return tuple((files(__package__) / f"{name}.txt").read_text(encoding="utf-8").split("\n")[:-1])


BACKGROUND_RELEASE = _read("background_release")  # the 23 of the authors' code
BACKGROUND_GROUPS = {
    group: _read(f"background_{group}") for group in ("terrestrial", "aquatic_atmospheric", "man_made")
}
BACKGROUND_PAPER = tuple(text for group in BACKGROUND_GROUPS.values() for text in group)  # the 112 of the paper
COMMON_THINGS = _read("common_things")  # of many kinds: a text asked alone then has something like it to lose against
