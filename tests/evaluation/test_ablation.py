"""One part changed at a time: which variants there are, and the table they make."""

import json

import numpy as np
import pytest

from clip_as_rnn.config import with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.ablation import ablate
from clip_as_rnn.evaluation.ablation_variants import PARTS, plan_variants
from clip_as_rnn.evaluation.datasets.registry import find_dataset
from clip_as_rnn.evaluation.datasets.semantic import read_vocabulary
from clip_as_rnn.evaluation.protocol import EvaluationProtocol
from clip_as_rnn.evaluation.runner import RunOptions, Shard
from clip_as_rnn.presets import PRESETS
from evaluation_trees import FakeSegmenter, box, write_tree

SIZE = (4, 4)


class WithoutRefinement(FakeSegmenter):
    """Finds half of what it would find with the CRF."""

    def segment(self, image, texts, *, trace=False):
        answers = self.answers if self.config.refine.crf else {SIZE: {"aeroplane": box(SIZE, slice(0, 2))}}
        return FakeSegmenter(answers, self.config, self.calls).segment(image, texts)

    def replace(self, **settings):
        changed = super().replace(**settings)
        return WithoutRefinement(changed.answers, changed.config, changed.calls)


def no_reload(dtype):
    raise AssertionError(f"nothing asked for {dtype}")


def run(folder, parts, options=RunOptions()):  # noqa: B008 - frozen
    write_tree("voc", folder / "data", {"a": np.ones(SIZE, dtype=int), "b": np.zeros(SIZE, dtype=int)})
    segmenter = WithoutRefinement({SIZE: {"aeroplane": box(SIZE, slice(0, 4))}})
    protocol = EvaluationProtocol(dataset=find_dataset("voc"), root=folder / "data", preset="paper-voc")
    table = ablate(protocol, segmenter, folder / "out", parts, options, no_reload)
    return table.rows, segmenter.calls


def test_the_table_says_what_each_part_gives(tmp_path):
    rows, _ = run(tmp_path, ["crf"])
    assert [(row.part, row.variant) for row in rows] == [("base", "as set"), ("crf", "off"), ("crf", "on")]
    base, off, on = rows
    assert base.miou == on.miou == pytest.approx(np.mean([0, 1 / 2]))
    assert off.miou == pytest.approx(np.mean([8 / 24, 8 / 24]))
    assert off.difference == pytest.approx(8 / 24 - 1 / 4)
    assert (off.changes, on.changes) == ({"crf": False}, {})
    table = (tmp_path / "out/ablation.md").read_text()
    assert "| crf | off | 33.33 | 8.33 |" in table
    assert "| crf | on (base) | 25.00 | 0.00 |" in table
    assert json.loads((tmp_path / "out/ablation.json").read_text())[1]["miou"] == off.miou


def test_a_variant_that_changes_nothing_is_not_run_again(tmp_path):
    _, calls = run(tmp_path, ["crf"])
    assert len(calls) == 2 * 2  # two images, base and one variant


def test_an_ablation_goes_on_where_it_was_left(tmp_path):
    run(tmp_path, ["crf"])
    rows, calls = run(tmp_path, ["crf", "recurrence"])
    assert len(calls) == 2 * 2  # only the two new variants
    assert len(rows) == 6


def test_a_shard_of_an_ablation_waits_for_the_others(tmp_path):
    first, _ = run(tmp_path, ["crf"], RunOptions(shard=Shard(1, 2)))
    assert first == ()
    second, _ = run(tmp_path, ["crf"], RunOptions(shard=Shard(2, 2)))
    assert len(second) == 3


def test_an_unknown_part_is_an_input_error():
    with pytest.raises(
        InputError,
        match=r"No part named 'crv' to ablate\. Did you mean 'crf'\? Known: recurrence, background, classifier",
    ):
        plan_variants(PRESETS["tiny"], ["crv"])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_part_has_variants_for_every_preset_and_no_two_share_a_folder(preset):
    variants = plan_variants(with_settings(PRESETS[preset], {"sam": "a/sam"}), list(PARTS))
    folders = [variant.folder for variant in variants if variant.folder != "base"]
    assert len(folders) == len(set(folders))
    assert {variant.part for variant in variants if variant.folder != "base"} == set(PARTS)


def test_sam_is_turned_off_and_used_both_ways():
    config = with_settings(PRESETS["tiny"], {"sam": "a/sam"})
    variants = {v.name: (v.changes, v.folder) for v in plan_variants(config, ["sam"])}
    assert variants == {
        "as set": ({}, "base"),
        "off": ({"sam": None}, "sam-off"),
        "prompts": ({"sam_mode": "prompts"}, "base"),
        "all masks": ({"sam_mode": "automatic"}, "sam-all-masks"),
    }


def test_masks_of_clips_are_not_followed_where_there_is_a_sam():
    def names(**settings):
        return {v.name: v.changes for v in plan_variants(with_settings(PRESETS["tiny"], settings), ["video"])}

    assert names(sam="a/sam")["masks not followed"] == {"sam_track_frames": 1}
    assert "masks not followed" not in names()


@pytest.mark.parametrize(
    ("settings", "smooths"), [({}, True), ({"smooth_frames": 0.0}, False), ({"window_frames": 1}, False)]
)
@pytest.mark.parametrize("sam_type", ["sam2", "sam2_video"])
def test_variants_of_clips_that_cannot_act_are_left_out_and_named(tmp_path, monkeypatch, settings, smooths, sam_type):
    """A grid of patches acts on proposals that are smoothed, and only a SAM 2 for clips follows masks."""
    monkeypatch.setattr(FakeSegmenter, "describe", lambda self: {"model": "fake", "sam_type": sam_type})
    write_tree("voc", tmp_path / "data", {"a": np.ones(SIZE, dtype=int)})
    protocol = EvaluationProtocol(dataset=find_dataset("voc"), root=tmp_path / "data", preset="tiny")
    config = with_settings(PRESETS["tiny"], {"sam": "a/sam", **settings})
    table = ablate(protocol, FakeSegmenter({}, config), tmp_path / "out", ["video"], RunOptions(), no_reload)
    acts = {
        "proposals smoothed over patches": smooths,
        "masks not followed": sam_type == "sam2_video",
    }
    assert {variant.name for variant in table.idle} == {name for name, does in acts.items() if not does}
    assert {row.variant for row in table.rows} & acts.keys() == {name for name, does in acts.items() if does}


def test_without_a_sam_its_part_says_how_to_name_one():
    with pytest.raises(InputError, match=r"^The part 'sam' needs a SAM to change; name one with --sam\.$"):
        plan_variants(PRESETS["tiny"], ["sam"])


def test_the_recurrence_is_turned_off_cut_after_one_filter_and_left_to_run():
    variants = {v.name: v.changes for v in plan_variants(PRESETS["paper-voc"], ["recurrence"])}
    assert variants["off"] == {"max_steps": 0}
    assert variants["one filter"] == {"max_steps": 1}
    assert variants["until stable"] == {"max_steps": None}


@pytest.mark.parametrize(("order", "acts"), [("paper", False), ("official", True), ("single", True)])
def test_variants_that_the_passes_never_ask_with_are_left_out_and_named(tmp_path, order, acts):
    """Under the paper's passes things and stuff are each other's background."""
    write_tree("context", tmp_path / "data", {"a": np.ones(SIZE, dtype=int)})
    protocol = EvaluationProtocol(
        dataset=find_dataset("context"), root=tmp_path / "data", preset="paper-context", passes=order
    )
    table = ablate(protocol, FakeSegmenter({}), tmp_path / "out", ["background"], RunOptions(), no_reload)
    names = {"none", "112 texts"}
    assert {variant.name for variant in table.idle} == (set() if acts else names)
    assert {row.variant for row in table.rows} == {"as set", "23 texts"} | (names if acts else set())
    page = (tmp_path / "out/ablation.md").read_text()
    assert ("never use what would change: background none, background 112 texts." in page) != acts


def test_the_table_quotes_what_the_paper_does(tmp_path):
    dataset = write_tree("ade150", tmp_path / "data", {"a": np.ones(SIZE, dtype=int)})
    text = read_vocabulary(dataset, tmp_path / "data", dataset.split).texts[0]
    protocol = EvaluationProtocol(dataset=dataset, root=tmp_path / "data", preset="paper-ade150")
    fake = FakeSegmenter({SIZE: {text: box(SIZE, slice(0, 2))}})
    table = ablate(protocol, fake, tmp_path / "out", ["crf"], RunOptions(), no_reload)
    assert [(row.miou, row.difference, row.without_background) for row in table.rows] == [(1, 0, 0.5)] * 3
    assert "Quoted: mIoU without background, as released" in (tmp_path / "out/ablation.md").read_text()


def test_prompts_are_changed_for_things_and_stuff_alike():
    variants = plan_variants(PRESETS["paper-context"], ["prompts", "prompt-pairs"])
    assert all(variant.changes["stuff_visual_prompts"] is None for variant in variants[1:])


class InPrecision(FakeSegmenter):
    """Says in which precision it was loaded."""

    dtype = "float32"

    def describe(self):
        return {**super().describe(), "dtype": self.dtype}


class InHalfPrecision(InPrecision):
    dtype = "bfloat16"


def ablate_voc(folder, parts, segmenter, reload=no_reload):
    write_tree("voc", folder / "data", {"a": np.ones(SIZE, dtype=int)})
    protocol = EvaluationProtocol(dataset=find_dataset("voc"), root=folder / "data", preset="paper-voc")
    return ablate(protocol, segmenter, folder / "out", parts, RunOptions(), reload)


def test_contrast_texts_are_also_measured_with_each_text_alone(tmp_path):
    segmenter = FakeSegmenter({SIZE: {"aeroplane": box(SIZE, slice(0, 2))}})
    rows = ablate_voc(tmp_path, ["contrast"], segmenter).rows[1:]
    together, alone = rows[:3], rows[3:]
    assert [row.variant for row in together] == ["off", "23 grounds", "grounds and things"]
    assert [row.variant for row in alone] == [f"{row.variant}, each text alone" for row in together]
    assert [row.is_base for row in rows] == [True, False, False, False, False, False]
    assert [row.difference for row in rows] == [0, 0, 0, None, None, None]
    asked = [len(call.texts) for call in segmenter.calls]
    assert sorted(asked) == [1] * 3 * 20 + [20] * 3
    table = (tmp_path / "out/ablation.md").read_text()
    assert "| contrast | off (base) |" in table
    assert "| contrast | off, each text alone | 50.00 | - |" in table


def test_the_precision_of_the_base_is_not_run_again_and_the_other_one_is_loaded(tmp_path):
    answers = {SIZE: {"aeroplane": box(SIZE, slice(0, 4))}}
    loaded = []

    def reload(dtype):
        loaded.append(dtype)
        return InHalfPrecision({})

    rows = ablate_voc(tmp_path, ["precision"], InPrecision(answers), reload).rows
    assert loaded == ["bfloat16"]
    assert [(row.variant, row.is_base, row.miou) for row in rows[1:]] == [("float32", True, 1), ("bfloat16", False, 0)]


def test_lambda_is_measured_with_the_affinity_that_it_bounds():
    variants = {v.name: v.changes for v in plan_variants(PRESETS["tiny"], ["thresholds"])}
    assert variants["lambda 0.3 with affinity"] == {"cam_threshold": 0.3, "affinity_layers": 8}
    variants = {v.name: v.changes for v in plan_variants(PRESETS["paper-voc"], ["thresholds"])}
    assert variants["lambda 0.3"] == {"cam_threshold": 0.3}


def test_a_limited_ablation_leaves_the_table_of_a_longer_one_alone(tmp_path):
    run(tmp_path, ["crf"])
    table = (tmp_path / "out/ablation.json").read_bytes()
    rows, _ = run(tmp_path, ["crf"], RunOptions(limit=1))
    assert [row.miou for row in rows] == [1, 0.5, 1]
    assert (tmp_path / "out/ablation.json").read_bytes() == table
