"""What is shipped: the source distribution holds all that its own tests import."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imported_by(path):
    """List the top-level packages that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_the_source_distribution_holds_what_its_tests_import():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    excluded = settings["tool"]["hatch"]["build"]["targets"]["sdist"]["exclude"]
    needed = {name for path in (ROOT / "tests").rglob("*.py") for name in imported_by(path) if (ROOT / name).is_dir()}
    assert "training" in needed
    assert needed.isdisjoint(excluded)
