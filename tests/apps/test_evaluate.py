"""`car evaluate` as it is typed: what it prints, what it writes, and how it ends."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from clip_as_rnn import loading
from clip_as_rnn.apps.cli.commands import app
from clip_as_rnn.errors import WeightsError
from clip_as_rnn.evaluation.datasets.registry import find_dataset
from evaluation_trees import FakeSegmenter, box, rectangle, reference, write_referring_tree, write_tree

SIZE = (4, 4)


@pytest.fixture
def loaded(monkeypatch):
    """Load a fake in place of models, and remember what was asked for."""
    asked = []

    def load(config, **places):
        asked.append((config, places))
        return FakeSegmenter({SIZE: {"aeroplane": box(SIZE, slice(0, 2)), "left": box(SIZE, slice(0, 2))}}, config)

    monkeypatch.setattr(loading, "load_segmenter", load)
    return asked


@pytest.fixture
def voc(tmp_path):
    write_tree("voc", tmp_path / "data", {name: np.ones(SIZE, dtype=int) for name in ("a", "b", "c")})
    return tmp_path / "data"


def car(*words):
    result = CliRunner().invoke(app, ["evaluate", *map(str, words)], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(re.sub(r"[│┃\s]+", " ", result.output).split())


def test_a_run_ends_well_with_its_scores_beside_the_papers(voc, tmp_path, loaded):
    code, said = car("voc", "--root", voc, "-o", tmp_path / "out")
    assert code == 0
    assert "mIoU with background 67.60 50.00" in said
    assert "present texts that were kept - 100.00" in said
    assert "absent texts that were rejected - 100.00" in said
    assert re.search(r"0\.\d{3} s per image \(median 0\.\d{3}\) over 3 images\.", said)
    assert f"Report: {tmp_path / 'out/report.md'}" in said
    assert (tmp_path / "out/report.md").is_file()


@pytest.mark.parametrize("dataset", ["scenes", "scenes-referring"])
def test_the_bundled_scenes_are_scored_with_the_bundled_clip(tmp_path, dataset):
    """Nothing made up here: the committed images, the model, and the numbers of every image in the report."""
    code, said = car(dataset, "--preset", "tiny", "--limit", "2", "-o", tmp_path)
    assert code == 0, said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["coverage"]["evaluated"] == report["coverage"]["asked"] == 2
    assert report["comparisons"][0]["ours"] > 0.3
    assert report["run"]["models"]["model"] == "tiny"
    page = (tmp_path / "report.md").read_text()
    assert page.startswith(f"# {find_dataset(dataset).title}, split heldout")
    assert "## Beside the paper" in page
    assert json.loads((tmp_path / "timing.json").read_text())["images"] == 2


def test_the_papers_preset_of_the_data_set_is_the_default_and_options_reach_the_settings(voc, tmp_path, loaded):
    options = "--set cam_threshold=0.3 --set visual_prompts=blur,circle --model tiny --device cpu --dtype float32"
    code, _ = car("voc", "--root", voc, "-o", tmp_path / "out", *options.split())
    ((config, places),) = loaded
    assert code == 0
    assert (config.classify.score_threshold, config.propose.cam_threshold, config.propose.model) == (0.6, 0.3, "tiny")
    assert config.classify.visual_prompts == ("blur", "circle")
    assert places == {"device": "cpu", "dtype": "float32"}


@pytest.mark.parametrize("preset", ["official-voc", "paper-voc", "default"])
def test_official_presets_come_with_the_official_passes(voc, tmp_path, loaded, preset):
    car("voc", "--root", voc, "-o", tmp_path / "out", "--preset", preset)
    protocol = json.loads((tmp_path / "out/run.json").read_text())["protocol"]
    assert protocol["passes"] == ("official" if preset == "official-voc" else "paper")


def test_own_names_are_asked_when_wanted(voc, tmp_path, loaded):
    car("voc", "--root", voc, "-o", tmp_path / "out", "--texts", "own")
    rows = json.loads((tmp_path / "out/report.json").read_text())["body"]["classes"]
    assert rows[15]["text"] == "person"


def test_asking_only_what_is_there_leaves_nothing_to_reject(voc, tmp_path, loaded):
    _, said = car("voc", "--root", voc, "-o", tmp_path / "out", "--ask", "present")
    assert "present texts that were kept - 100.00 absent texts that were rejected - -" in said


def test_referring_data_sets_are_asked_in_referring_mode(tmp_path, loaded):
    write_referring_tree(
        tmp_path / "data", "refs(unc).p", [reference(1, 9, ["Left"])], {9: SIZE}, {1: [rectangle(0, 0, 4, 2)]}
    )
    code, said = car("refcoco", "--root", tmp_path / "data", "-o", tmp_path / "out", "--preset", "tiny")
    assert (code, loaded[0][0].mode) == (0, "referring")
    assert "mIoU, all sentences together, the authors' masks 33.57 100.00" in said
    assert "mIoU, each sentence by itself, union of the polygons - 100.00" in said


def test_scenes_need_no_root_where_the_repository_is_at_hand(tmp_path, loaded, monkeypatch):
    write_tree("scenes", tmp_path / "data/scenes", {"a": np.ones(SIZE, dtype=int)})
    monkeypatch.chdir(tmp_path)
    code, said = car("scenes", "-o", tmp_path / "out")
    assert code == 0
    assert "Scenes of pictographs (bundled), split heldout" in said


def test_scenes_that_are_not_at_hand_are_asked_for_with_root(tmp_path, loaded, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = car("scenes", "-o", tmp_path / "out")
    assert code == 2
    assert "Error: There is no folder data/scenes here" in said
    assert "--root" in said


def test_a_limited_run_says_that_the_longer_report_stays(voc, tmp_path, loaded):
    car("voc", "--root", voc, "-o", tmp_path / "out")
    code, said = car("voc", "--root", voc, "-o", tmp_path / "out", "--limit", "1")
    assert code == 0
    assert "is about more images and stays as it is." in said


def test_an_output_that_is_a_file_ends_in_2_before_models_are_loaded(voc, tmp_path, loaded):
    (tmp_path / "out").write_text("in the way")
    code, said = car("voc", "--root", voc, "-o", tmp_path / "out")
    assert (code, loaded) == (2, [])
    assert "Error: Expected an output folder that can be written, but got" in said


def test_shards_say_what_is_left_and_the_last_one_reports(voc, tmp_path, loaded):
    code, said = car("voc", "--root", voc, "-o", tmp_path / "out", "--shard", "1/2")
    assert (code, "1 images are left to other shards" in said) == (0, True)
    code, said = car("voc", "--root", voc, "-o", tmp_path / "out", "--shard", "2/2")
    assert (code, "Report:" in said) == (0, True)


def test_a_broken_image_ends_in_1_with_a_report_that_names_it(voc, tmp_path, loaded):
    (voc / "SegmentationClass/b.png").unlink()
    code, said = car("voc", "--root", voc, "-o", tmp_path / "out")
    assert code == 1
    assert "Not evaluated, b: No annotation for the image b: expected" in said
    assert "1 of 3 could not be evaluated and are in no score" in said
    assert json.loads((tmp_path / "out/report.json").read_text())["coverage"]["evaluated"] == 2


@pytest.mark.parametrize("words", [[], ["--ablate", "crf"]])
def test_a_shard_with_a_broken_image_ends_in_1(voc, tmp_path, loaded, words):
    (voc / "SegmentationClass/b.png").unlink()
    code, said = car("voc", "--root", voc, "-o", tmp_path / "out", "--shard", "2/2", *words)
    assert code == 1
    assert "left to other shards" in said
    assert car("voc", "--root", voc, "-o", tmp_path / "other", "--shard", "1/2", *words)[0] == 0


def test_folders_are_named_as_they_are(voc, tmp_path, loaded):
    _, said = car("voc", "--root", voc, "-o", tmp_path / "out[red]x")
    assert f"Report: {tmp_path / 'out[red]x/report.md'}" in said


def test_an_ablation_prints_its_table(voc, tmp_path, loaded):
    code, said = car("voc", "--root", voc, "-o", tmp_path / "out", "--ablate", "crf,recurrence", "--limit", "1")
    assert code == 0
    assert "crf off 50.00 0.00 100.00 100.00" in said
    assert (tmp_path / "out/recurrence-one-filter/report.json").is_file()


def test_two_runs_are_compared_without_loading_a_model(voc, tmp_path, loaded):
    for name in ("A", "B"):
        car("voc", "--root", voc, "-o", tmp_path / name, "--save-predictions")
    loaded.clear()
    words = ("--compare", tmp_path / "A", tmp_path / "B", "--limit", "1")
    code, said = car("voc", "--root", voc, "-o", tmp_path / "out", *words)
    assert (code, loaded) == (0, [])
    assert "3 images compared" in said
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vox", "--root", "x"], "Error: No data set named 'vox'. Did you mean 'voc'?"),
        (["voc"], "Error: Expected --root, the folder that holds Pascal VOC 2012. Pascal VOC 2012 comes from"),
        (["voc", "--root", "nowhere"], "Error: There is no folder nowhere, expected to hold Pascal VOC 2012."),
        (["voc", "--root", "DATA", "--split", "test"], "(splits found: val). Pascal VOC 2012 comes from"),
        (["voc", "--root", "DATA", "--shard", "3/2"], "Error: Expected a shard as i/n with i from 1 to n,"),
        (["voc", "--root", "DATA", "--limit", "0"], "Error: Expected a limit of at least 1 image, but got 0."),
        (
            ["voc", "--root", "DATA", "--compare", "A", "B", "--limit", "0"],
            "Error: Expected a limit of at least 1 image,",
        ),
        (["voc", "--root", "DATA", "--compare", "A", "B", "--ablate", "crf"], "evaluates nothing; leave out --ablate."),
        (["voc", "--root", "DATA", "--compare", "A", "B", "--shard", "1/2"], "evaluates nothing; leave out --shard."),
        (["voc", "--root", "DATA", "--passes", "both"], "Error: Expected --passes to be one of official, paper,"),
        (["voc", "--root", "DATA", "--texts", "any"], "Error: Expected --texts to be one of paper, own, but"),
        (["voc", "--root", "DATA", "--dtype", "int8"], "Error: Expected --dtype to be one of auto, float32, bfloat16"),
        (["voc", "--root", "DATA", "--preset", "paper-vox"], "Error: No preset named 'paper-vox'. Did you mean"),
        (["voc", "--root", "DATA", "--set", "crff=1"], "Error: No setting named 'crff'. Did you mean 'crf'?"),
        (
            ["voc", "--root", "DATA", "--ablate", "crv"],
            "Error: No part named 'crv' to ablate. Did you mean 'crf'? Known:",
        ),
        (["voc", "--root", "DATA", "--compare", "A", "B"], "Error: Expected the output folder of `car evaluate`,"),
    ],
)
def test_a_mistake_ends_in_2_with_one_sentence(voc, tmp_path, loaded, words, message):
    code, said = car(*(str(voc) if word == "DATA" else word for word in words), "-o", tmp_path / "out")
    assert code == 2
    assert message in said
    assert "Traceback" not in said


def test_missing_weights_end_in_3(voc, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise WeightsError("No weights here.")

    monkeypatch.setattr(loading, "load_segmenter", refuse)
    assert car("voc", "--root", voc, "-o", tmp_path / "out") == (3, "Error: No weights here.")


def test_help_names_every_data_set_and_option():
    _, said = car("--help")
    for word in ("voc", "grefcoco", "--root", "--shard", "--save-predictions", "--ablate", "--compare", "--passes"):
        assert word in said
