"""What is shipped: the source distribution holds all that its own tests import, and one version is named everywhere."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import clip_as_rnn

ROOT = Path(__file__).parents[1]


def imported_by(path):
    """List the top-level packages that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_the_source_distribution_holds_what_its_tests_import_and_read():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    excluded = settings["tool"]["hatch"]["build"]["targets"]["sdist"]["exclude"]
    needed = {name for path in (ROOT / "tests").rglob("*.py") for name in imported_by(path) if (ROOT / name).is_dir()}
    assert "training" in needed
    needed.add("data")  # the benchmarks of scenes and clips, on which some of them run
    assert needed.isdisjoint(excluded)


def test_the_version_and_its_date_are_the_same_wherever_they_are_said():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    told = re.findall(r"^## \[(\d.+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited["version"] == clip_as_rnn.__version__
    assert told[0] == (cited["version"], str(cited["date-released"]))
    (needed,) = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").split()
    assert needed == f"clip-as-rnn[web]=={clip_as_rnn.__version__}"


def test_the_space_asks_for_the_gradio_that_is_tested():
    front = yaml.safe_load((ROOT / "space" / "README.md").read_text(encoding="utf-8").split("---")[1])
    pinned = re.search(r"^gradio==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert front["sdk_version"] == pinned[1]
    assert (ROOT / "space" / front["app_file"]).is_file()


@pytest.mark.parametrize("name", ["ci", "publish"])
def test_workflows_run_only_what_the_makefile_has(name):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    made = {word for command in commands for word in re.findall(r"make ([\w-]+)", command)}
    assert made
    assert made <= targets


def test_only_the_job_that_publishes_may_ask_for_an_identity():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8"))["jobs"]
    assert [name for name, job in jobs.items() if "id-token" in job["permissions"]] == ["publish"]
    assert not [step for step in jobs["publish"]["steps"] if "run" in step]  # nothing of ours runs beside it


def test_the_job_that_checks_releases_has_every_python_that_they_name():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    given = {
        word for step in jobs["hostile"]["steps"] for word in step.get("with", {}).get("python-version", "").split()
    }
    script = (ROOT / ".ci" / "release-check").read_text(encoding="utf-8")
    assert given == set(re.findall(r"version=(3\.\d+)", script))


def test_the_tools_that_build_and_check_a_release_are_pinned():
    script = (ROOT / ".ci" / "release-check").read_text(encoding="utf-8")
    (tools,) = re.findall(r"install -q --constraint constraints\.txt (.+)$", script, re.MULTILINE)
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert tools.split() == ["build", "twine"]
    assert all(re.search(rf"^{tool}==", pinned, re.MULTILINE) for tool in tools.split())


def test_the_lowest_versions_are_those_of_the_project():
    script = [sys.executable, str(ROOT / ".ci" / "lowest.py"), "torch"]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
    assert "numpy==2.0.*" in lines
    assert "numba==0.61.*" in lines
    assert "schemathesis==4.20.*" in lines
    assert not [line for line in lines if line.startswith("torch==")]
    assert all(re.fullmatch(r"[\w.-]+(==[\d.]+\.\*|~=\d+\.0)", line) for line in lines)
