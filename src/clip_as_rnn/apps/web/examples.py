"""The pictures that the page offers, each with texts of which some are not in it."""

from collections.abc import Sequence
from pathlib import Path

Example = tuple[Path, Sequence[str]]

_BUNDLED = Path(__file__).parents[2] / "assets" / "demo"
_CHECKOUT = Path(__file__).parents[4] / "examples"
_TEXTS = {
    "park.jpg": ("dog", "car", "tree", "cat", "banana"),
    "kitchen.jpg": ("apple", "banana", "pizza", "guitar"),
}


def find_examples() -> list[Example]:
    """List the examples that are at hand: those of the package, and with a checkout those of the repository."""
    places = {name: [folder / name for folder in (_BUNDLED, _CHECKOUT)] for name in _TEXTS}
    found = {name: [path for path in paths if path.is_file()] for name, paths in places.items()}
    return [(paths[0], _TEXTS[name]) for name, paths in found.items() if paths]
