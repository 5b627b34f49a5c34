"""SAM from the name that a user gives to masks, files and messages, on small random models and the bundled CLIP."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import command
from clip_as_rnn import load_segmenter
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.vocabulary import ClassName, Vocabulary
from clip_as_rnn.evaluation.protocol import plan_passes, predict_labels
from clip_as_rnn.io.images import read_image
from clip_as_rnn.refine.sam import checkpoint
from clip_as_rnn.refine.sam.model import Sam
from random_sam import FAMILIES, save_random_sam

car = command.whole_car  # a fixture

EXAMPLE = Path(__file__).parents[1] / "examples" / "park.jpg"
TEXTS = ("dog", "car", "tree", "banana")
LOOSE = {"sam_iou_threshold": None, "sam_points_per_side": 3, "sam_predicted_iou": 0.0, "sam_stability": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_sam(tmp_path_factory.mktemp("sam"), "sam")


@pytest.fixture(scope="module")
def segmenter(folder):
    return load_segmenter("tiny", sam=folder)


def test_with_sam_unset_nothing_changes(segmenter):
    """Not by a bit, whether it was never loaded or is turned off."""
    plain = load_segmenter("tiny").segment(EXAMPLE, TEXTS)
    off = segmenter.replace(sam=None).segment(EXAMPLE, TEXTS)
    for result in (plain, off):
        assert (result.texts, result.refinements) == (plain.texts, {})
        assert "sam" not in result.seconds
        np.testing.assert_array_equal(result.scores, plain.scores)
        np.testing.assert_array_equal(result.label_map(), plain.label_map())


def test_sam_decides_about_every_mask_and_changes_no_score(segmenter):
    plain = segmenter.replace(sam=None).segment(EXAMPLE, TEXTS)
    result = segmenter.segment(EXAMPLE, TEXTS)
    assert result.texts == plain.texts
    np.testing.assert_array_equal(result.scores, plain.scores)
    assert set(result.refinements) == set(plain.texts)
    assert result.seconds["sam"] > 0
    assert set(plain.seconds) | {"sam"} == set(result.seconds)
    for one in result.refinements.values():
        assert one.replaced == (one.iou > 0.7)


def test_a_gate_that_nothing_passes_leaves_the_masks(segmenter):
    plain = segmenter.replace(sam=None).segment(EXAMPLE, TEXTS)
    gated = segmenter.replace(sam_iou_threshold=1.0).segment(EXAMPLE, TEXTS)
    np.testing.assert_array_equal(gated.label_map(), plain.label_map())
    assert not any(one.replaced for one in gated.refinements.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["prompts", "automatic"])
@pytest.mark.parametrize("mode", ["semantic", "referring"])
def test_both_ways_run_with_every_family_in_every_mode(tmp_path, family, way, mode):
    segmenter = load_segmenter("tiny", sam=save_random_sam(tmp_path, family), sam_mode=way, mode=mode, **LOOSE)
    result = segmenter.segment(EXAMPLE, TEXTS, trace=True)
    assert all(one.replaced for one in result.refinements.values())
    height, width = read_image(EXAMPLE).shape[:2]
    assert result.masks.shape == (len(result), height, width)
    pictures = [one.pictures for one in result.refinements.values()]
    assert pictures
    assert all(max(one.before.shape) <= 320 and one.before.any() for one in pictures)
    if mode == "semantic":
        assert (result.masks.sum(0) <= 1).all()


def test_half_precision_is_the_segmenters(folder):
    segmenter = load_segmenter("tiny", sam=folder, dtype="bfloat16")
    assert segmenter.describe()["sam_dtype"] == "bfloat16"
    assert segmenter.segment(EXAMPLE, TEXTS).refinements


def test_what_was_loaded_is_described(segmenter, folder):
    described = segmenter.describe()
    assert described["sam"] == str(folder)
    assert len(described["sam_fingerprint"]) == 16
    assert not any(name.startswith("sam") for name in load_segmenter("tiny").describe())
    assert not any(name.startswith("sam") for name in segmenter.replace(sam=None).describe())


def test_sam_can_be_turned_off_and_on_but_not_exchanged(segmenter, folder):
    on_again = segmenter.replace(sam=None).replace(sam=str(folder))
    assert on_again.segment(EXAMPLE, TEXTS).refinements
    for other in (segmenter, load_segmenter("tiny")):
        with pytest.raises(InputError, match="Other models need a segmenter of their own"):
            other.replace(sam="another/sam")


def test_an_image_that_was_encoded_once_is_encoded_once_by_sam(segmenter, monkeypatch):
    encoded, encode = [], Sam.encode
    monkeypatch.setattr(Sam, "encode", lambda sam, image: encoded.append(image.shape) or encode(sam, image))
    image = segmenter.encode(EXAMPLE)
    first, second = (segmenter.segment(image, TEXTS) for _ in range(2))
    assert len(encoded) == 1
    np.testing.assert_array_equal(first.label_map(), second.label_map())


def test_passes_of_things_and_stuff_share_what_sam_sees(segmenter, monkeypatch):
    """Painted as by passes that each look anew."""
    vocabulary = Vocabulary((ClassName("tree", "tree", "stuff"), ClassName("dog", "dog", "thing")))
    image = read_image(EXAMPLE)
    passes = plan_passes(segmenter.replace(sam_mode="automatic", score_threshold=0.0, **LOOSE), vocabulary, "paper")
    alone = [predict_labels([one], image) for one in passes]
    encoded, encode = [], Sam.encode
    monkeypatch.setattr(Sam, "encode", lambda sam, image: encoded.append(image.shape) or encode(sam, image))
    together = predict_labels(passes, image)
    assert len(encoded) == 1
    np.testing.assert_array_equal(together.labels, np.where(alone[1].labels > 0, alone[1].labels, alone[0].labels))
    assert together.labels.any()


def test_where_nothing_is_found_sam_is_not_asked(segmenter, monkeypatch):
    monkeypatch.setattr(Sam, "encode", lambda sam, image: pytest.fail("asked"))
    assert segmenter.segment(EXAMPLE, ["banana"]).refinements == {}


def test_progress_tells_of_sam(segmenter):
    told = []
    segmenter.segment(EXAMPLE, TEXTS, callback=lambda progress: told.append(progress.stage))
    assert told[-2:] == ["refine", "sam"]


def test_the_command_line_runs_from_picture_to_files(car, folder, tmp_path):
    code, err = car("segment", EXAMPLE, *sum((("-t", text) for text in TEXTS), ()), "--preset", "tiny", "--sam", folder,
                    "--set", "sam_iou_threshold=none", "--figure", "-o", tmp_path / "sam")  # fmt: skip
    assert (code, err) == (0, "")
    plain, _ = car("segment", EXAMPLE, *sum((("-t", text) for text in TEXTS), ()), "--preset", "tiny", "--figure",
                   "-o", tmp_path / "plain")  # fmt: skip
    assert plain == 0
    with_sam, without = (json.loads((tmp_path / name / "park.json").read_text()) for name in ("sam", "plain"))
    assert all(one["sam"]["replaced"] for one in with_sam["found"])
    assert all("sam" not in one for one in without["found"])
    assert with_sam["settings"]["sam"] == with_sam["models"]["sam"] == str(folder)
    assert with_sam["seconds"]["sam"] > 0
    heights = [len(read_image(tmp_path / name / "park_figure.png")) for name in ("sam", "plain")]
    assert heights[0] > heights[1]  # two rows of SAM


def test_the_demo_takes_a_sam(car, folder, tmp_path):
    assert car("demo", "--sam", folder, "-o", tmp_path) == (0, "")
    assert all("sam" in one for one in json.loads((tmp_path / "park.json").read_text())["found"])


def broken(tmp_path, kind):
    """Make a folder that cannot be used as a SAM."""
    folder = tmp_path / kind
    if kind == "empty":
        folder.mkdir()
        return folder
    save_random_sam(folder, "sam")
    if kind == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    if kind == "unknown":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "sam3_tracker"}))
    return folder


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("empty", 2, "is no SAM: it holds no config.json."),
        (
            "unknown",
            2,
            "is of the family 'sam3_tracker', which is not supported; known are the types sam, sam_hq, sam2",
        ),
        ("pickle", 2, "is a pickle (pytorch_model.bin), which could run any program and is not opened; take a"),
    ],
)
def test_a_sam_that_cannot_be_used_is_one_line(car, tmp_path, kind, code, said):
    ended, err = car(
        "segment", EXAMPLE, "-t", "dog", "--preset", "tiny", "--sam", broken(tmp_path, kind), "-o", tmp_path
    )
    assert ended == code
    assert err.startswith("Error: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_clip_is_no_sam_on_the_command_line(car, tmp_path):
    code, err = car("segment", EXAMPLE, "-t", "dog", "--preset", "tiny", "--sam", "tiny", "-o", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "is no SAM: its config.json says model_type 'clip'" in err


def test_a_sam_that_cannot_be_fetched_is_one_line(car, tmp_path):
    code, err = car("segment", EXAMPLE, "-t", "dog", "--preset", "tiny", "--sam", "no/such", "-o", tmp_path)
    assert (code, err.count("\n")) == (3, 1)
    assert "Fetch them where there is a network with `hf download no/such`, or give a local folder with --sam." in err


def test_without_the_extra_the_command_that_installs_it_is_named(car, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "transformers", type("Old", (), {"__version__": "4.0"}))
    code, err = car("segment", EXAMPLE, "-t", "dog", "--preset", "tiny", "--sam", folder, "-o", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "pip install --upgrade 'clip-as-rnn[sam]'" in err


def test_too_little_memory_is_one_line_that_names_the_setting(car, folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.models.sam.modeling_sam.SamMaskDecoder.forward", fail)
    code, err = car("segment", EXAMPLE, "-t", "dog", "--preset", "tiny", "--sam", folder, "-o", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(r"too little memory for \d+ prompts of SAM at once on cpu; lower `sam_prompts_at_once`\.", err)


def test_an_ablation_of_sam_compares_none_with_both_ways(car, folder, tmp_path):
    code, _ = car("evaluate", "scenes", "--preset", "tiny", "--sam", folder, "--set", "sam_points_per_side=3",
                  "--limit", "1", "--ablate", "sam", "-o", tmp_path)  # fmt: skip
    assert code == 0
    rows = json.loads((tmp_path / "ablation.json").read_text())
    assert [row["variant"] for row in rows] == ["as set", "off", "prompts", "all masks"]


def test_an_ablation_of_sam_needs_one(car, tmp_path):
    code, err = car("evaluate", "scenes", "--preset", "tiny", "--limit", "2", "--ablate", "sam", "-o", tmp_path)
    assert (code, err) == (2, "Error: The part 'sam' needs a SAM to change; name one with --sam.\n")
