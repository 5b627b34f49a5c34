"""Print as constraints the lowest versions that pyproject.toml allows: `name==version`, but for the names given."""

import re
import sys
import tomllib
from pathlib import Path

_BOUND = re.compile(r"([\w.-]+)>=([\w.]+)")


def lowest(settings: dict) -> dict[str, str]:
    """Take each package's highest lower bound over all extras: with [dev] installed, all of them hold."""
    project = settings["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["dev"], *project["optional-dependencies"]["web"]]
    bounds: dict[str, str] = {}
    for name, version in (_BOUND.match(line).groups() for line in listed):
        bounds[name] = max(bounds.get(name, "0"), version, key=lambda text: [int(part) for part in text.split(".")])
    return bounds


if __name__ == "__main__":
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    for name, version in lowest(tomllib.loads(pyproject.read_text(encoding="utf-8"))).items():
        if name not in sys.argv[1:]:
            print(f"{name}~={version}.0" if version.count(".") == 0 else f"{name}=={version}.*")
