"""The command line on a segmenter that is made up, for the tests of it: `car(*arguments)` says how a run ended."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.apps.cli import main
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import InputError
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.stages import Stages
from clip_as_rnn.state import EncodedTexts
from fake_results import fake_segmentation
from fake_stages import FakeClassifier, FakeProposer, FakeRefiner

GHOST = "ghost"  # the fake rejects this text at step 1


class FakeSegmenter(Segmenter):
    """Finds every text but the ghost, in every picture that is not too wide for it."""

    def __init__(self, config: SegmenterConfig) -> None:
        self.config = config
        self.stages = Stages(FakeProposer(), FakeClassifier(None), FakeRefiner())

    def check_texts(self, texts: tuple[str, ...]) -> None:
        if any(len(text) > 300 for text in texts):
            raise InputError("Expected texts of at most 77 tokens, but 'long' has 400.")

    def segment(self, image: np.ndarray, texts: EncodedTexts, *, trace: bool = False) -> Segmentation:
        if image.shape[1] > 500:
            raise InputError("The image has too many patches.")
        return fake_segmentation(image.shape[:2], texts.queries, {GHOST: 1}, trace=trace)

    def encode_texts(self, texts: tuple[str, ...]) -> EncodedTexts:
        return EncodedTexts(texts, None, None, self.stages, 0.0)

    def encode_each(self, images: Sequence[np.ndarray]) -> list[np.ndarray | InputError]:
        wide = InputError("The image has too many patches.")
        return [wide if image.shape[1] > 500 else image for image in images]

    def describe(self) -> dict[str, str]:
        return {"model": self.config.propose.model, "device": "cpu"}


@dataclass
class Ending:
    """How a run of the command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SegmenterConfig, str, str]]:
    """Replace the loading of models, and list what was loaded."""
    calls = []

    def load(preset: SegmenterConfig, *, device: str, dtype: str, cache_dir: Path | None) -> FakeSegmenter:
        calls.append((preset, device, dtype))
        return FakeSegmenter(preset)

    monkeypatch.setattr("clip_as_rnn.loading.load_segmenter", load)
    return calls


@pytest.fixture
def car(
    loads: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Ending]:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Ending:
        monkeypatch.setattr(sys, "argv", ["car", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        captured = capsys.readouterr()
        return Ending(end.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def whole_car(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command with the models that it loads; return its exit code and what it said on stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["car", *map(str, arguments)])
        capsys.readouterr()  # what was said before
        with pytest.raises(SystemExit) as end:
            main.main()
        return end.value.code or 0, capsys.readouterr().err

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (64, 48), "teal").save(path)
    return path


def files_in(folder: Path) -> list[str]:
    """List the files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
