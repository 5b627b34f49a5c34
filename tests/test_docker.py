"""The container's files, as far as they can be held without Docker: what they copy, start, ask and publish."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import command
from command import Ending
from serving import made_up, serving

car, loads = command.car, command.loads  # fixtures

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name}\s+(.*)$", DOCKERFILE, re.MULTILINE)


def words(name: str) -> list[str]:
    return json.loads(instructions(name)[-1])


def test_what_is_copied_is_there_and_not_ignored():
    copied = [word for line in instructions("COPY") if "--from" not in line for word in shlex.split(line)[:-1]]
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    }
    assert set(copied) == admitted
    assert all((ROOT / name).exists() for name in copied)


def test_what_the_build_needs_of_this_folder_is_copied():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    copied = " ".join(instructions("COPY")).split()
    assert {project["readme"], *project["license-files"], "src", "pyproject.toml", "constraints.txt"} <= set(copied)


def test_it_starts_a_server_for_other_machines(car: Callable[..., Ending], monkeypatch: pytest.MonkeyPatch):
    started: list[Any] = []
    monkeypatch.setattr("clip_as_rnn.apps.server.run.serve", lambda address, *_: started.append(address))
    monkeypatch.setenv("CAR_SERVER_TOKEN", "a secret")
    program, *options = words("ENTRYPOINT") + words("CMD")
    assert (program, car(*options).code) == ("car", 0)
    assert (started[0].host, str(started[0].port), started[0].token) == (
        "0.0.0.0",
        instructions("EXPOSE")[0],
        "a secret",
    )


def test_it_does_not_start_without_a_token(car: Callable[..., Ending], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAR_SERVER_TOKEN", raising=False)
    end = car(*words("ENTRYPOINT")[1:], *words("CMD"))
    assert (end.code, end.err[:43]) == (2, "Error: Expected a token in CAR_SERVER_TOKEN")


def test_it_does_not_run_as_root_and_carries_no_secret():
    assert all(user.isdigit() and int(user) > 0 for user in instructions("USER"))
    assert instructions("USER") != []
    assert "TOKEN" not in DOCKERFILE


def test_the_health_check_tells_a_server_that_lives_from_none():
    checking = json.loads(instructions("HEALTHCHECK")[0].partition("CMD")[2])
    assert checking[:2] == ["python", "-c"]
    with serving(made_up(), token="a secret") as client:
        asked = checking[2].replace(":8000", f":{client.port}")
        assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
    gone = subprocess.run([sys.executable, "-c", asked], capture_output=True, check=False)
    assert gone.returncode != 0


def test_compose_builds_it_asks_for_a_token_and_publishes_on_this_machine_alone():
    service = COMPOSE["services"]["car"]
    assert (ROOT / "docker" / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert set(service["build"]["args"]) <= {line.partition("=")[0] for line in instructions("ARG")}
    assert service["environment"]["CAR_SERVER_TOKEN"].startswith("${CAR_SERVER_TOKEN:?")
    (port,) = service["ports"]
    assert port.startswith("127.0.0.1:")
    assert port.endswith(f":{instructions('EXPOSE')[0]}")
    volume, _, place = service["volumes"][0].partition(":")
    assert volume in COMPOSE["volumes"]
    assert f"HF_HOME={place}" in DOCKERFILE
