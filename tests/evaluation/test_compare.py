"""Two runs side by side: where they differ most, and the pictures of it."""

import json

import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.compare import compare_runs
from clip_as_rnn.evaluation.datasets.registry import find_dataset
from clip_as_rnn.evaluation.protocol import EvaluationProtocol
from clip_as_rnn.evaluation.runner import RunOptions, evaluate
from evaluation_trees import FakeSegmenter, box, write_tree

SIZES = {"a": (4, 4), "b": (4, 8), "c": (4, 12)}


@pytest.fixture
def protocol(tmp_path):
    write_tree("voc", tmp_path / "data", {name: np.ones(size, dtype=int) for name, size in SIZES.items()})
    return EvaluationProtocol(dataset=find_dataset("voc"), root=tmp_path / "data", preset="paper-voc")


def run(protocol, folder, rows, *, save=True, **settings):
    """Find so many of the four rows of each image."""
    answers = {SIZES[name]: {"aeroplane": box(SIZES[name], slice(0, count))} for name, count in rows.items()}
    fake = FakeSegmenter(answers).replace(**settings)
    evaluate(protocol, fake, folder, RunOptions(save_predictions=save))
    return folder


def test_images_are_listed_by_how_much_they_differ(protocol, tmp_path):
    first = run(protocol, tmp_path / "A", {"a": 4, "b": 1, "c": 2})
    second = run(protocol, tmp_path / "B", {"a": 3, "b": 4, "c": 2}, cam_threshold=0.5)
    comparison = compare_runs(protocol, first, second, tmp_path / "out", count=2)
    assert [(d.name, d.first, d.second) for d in comparison.largest] == [("b", 0.25, 1.0), ("a", 1.0, 0.75)]
    assert (comparison.compared, comparison.only_one) == (3, 0)
    assert comparison.mean_gain == pytest.approx((0.75 - 0.25 + 0) / 3)
    assert comparison.changes == ("settings.cam_threshold: 0.4 / 0.5",)
    assert sorted(path.name for path in (tmp_path / "out/pictures").iterdir()) == ["a.png", "b.png"]
    page = (tmp_path / "out/comparison.md").read_text()
    assert "| [b](pictures/b.png) | 25.00 | 100.00 | 75.00 |" in page
    assert json.loads((tmp_path / "out/comparison.json").read_text())["largest"][0]["name"] == "b"


def test_images_that_only_one_run_evaluated_are_counted(protocol, tmp_path):
    first = run(protocol, tmp_path / "A", {"a": 4})
    (tmp_path / "data/SegmentationClass/c.png").rename(tmp_path / "c.png")
    second = run(protocol, tmp_path / "B", {"a": 3})
    (tmp_path / "c.png").rename(tmp_path / "data/SegmentationClass/c.png")
    comparison = compare_runs(protocol, first, second, tmp_path / "out", count=5)
    assert (comparison.compared, comparison.only_one) == (2, 1)


def test_a_folder_without_a_run_and_a_run_on_other_data_are_input_errors(protocol, tmp_path):
    first = run(protocol, tmp_path / "A", {"a": 4})
    with pytest.raises(InputError, match=r"Expected the output folder of `car evaluate`, but cannot read .*run\.json"):
        compare_runs(protocol, first, tmp_path / "none", tmp_path / "out", count=5)
    assert not (tmp_path / "none").exists()
    description = json.loads((first / "run.json").read_text())
    description["protocol"]["split"] = "train"
    (first / "run.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="is on voc, split train, but the comparison is asked on voc, split val"):
        compare_runs(protocol, first, first, tmp_path / "out", count=5)


def test_runs_that_saved_no_predictions_are_compared_without_their_pictures(protocol, tmp_path):
    first = run(protocol, tmp_path / "A", {"a": 4}, save=False)
    second = run(protocol, tmp_path / "B", {"a": 3}, save=False)
    compare_runs(protocol, first, second, tmp_path / "out", count=1)
    with Image.open(tmp_path / "out/pictures/a.png") as picture:
        assert picture.width == 4 * SIZES["a"][1] + 3 * 6
