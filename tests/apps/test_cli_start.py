"""How the command starts and ends in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import clip_as_rnn


@pytest.mark.parametrize(
    "code",
    [
        "import clip_as_rnn",
        "from clip_as_rnn.apps.cli import commands; commands.app(['--help'], standalone_mode=False)",
    ],
)
def test_start_is_light(code: str):
    """The package and the command's help must not wait for torch."""
    check = f"{code}; import sys; print(sorted({{'torch', 'transformers', 'cv2', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def _car(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    words = [sys.executable, "-m", "clip_as_rnn.apps.cli.main", *arguments]
    return subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("arguments", [("presets",), ("presets", "--json"), ("--help",), ("--version",)])
def test_a_full_device_ends_with_one_line_and_code_2(arguments: tuple[str, ...]):
    with Path("/dev/full").open("w") as full:
        done = _car(*arguments, stdout=full)
    line = "Error: What is to be said cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_ctrl_c_while_loading_ends_with_one_line_and_code_130(tmp_path: Path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")  # the first thing that takes time to load
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = _car("presets", stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths})
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "Interrupted; every file that was written is complete.\n"


def test_nothing_that_takes_time_is_loaded_before_ctrl_c_is_answered():
    code = f"import sys; sys.path.insert(0, {str(Path(clip_as_rnn.__file__).parents[1])!r})"
    code += "; import clip_as_rnn.apps.cli.main; print(sorted({'enum', 're', 'typing', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
