"""From the files of every data set to the numbers of its report, all of them worked out by hand."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from clip_as_rnn.config import flat_settings, with_settings
from clip_as_rnn.evaluation.datasets.registry import DATASETS, SemanticDataset, find_dataset
from clip_as_rnn.evaluation.datasets.semantic import read_vocabulary
from clip_as_rnn.evaluation.protocol import EvaluationProtocol
from clip_as_rnn.evaluation.runner import RunOptions, evaluate
from clip_as_rnn.presets import find_preset
from evaluation_trees import (
    REFERENCE_FILES,
    FakeSegmenter,
    Listener,
    box,
    rectangle,
    reference,
    write_referring_tree,
    write_tree,
)

A, B = (4, 4), (4, 8)
SEMANTIC = [name for name, row in DATASETS.items() if isinstance(row, SemanticDataset)]
BYTE_INDEX = {"background": 0, "first": 1, "void": 255}
VALUES = {  # how each data set writes background, its first class and pixels to leave out
    "pc459": {"background": 65535, "first": 0, "void": 65535},
    "ade847": {"background": 65535, "first": 0, "void": 847},
    "coco-stuff": {"background": 255, "first": 0, "void": 255},
}
# Image a: a row of background, taken for the second class; two rows of the first, of which two pixels are missed; a row
# of void, taken for the first. Image b: four columns of the first class, found; four of background, found. So:
#   background: 16 right, 4 lost to the second class, 2 of the first taken for it    16 / 22
#   first class: 6 + 16 right, 2 missed                                              22 / 24
WITH_BACKGROUND = {
    # where void is background, 4 pixels of it are lost to the first class, and the background has 4 pixels more
    "ade847": np.mean([16 / 26, 22 / 28]),
    # where background cannot be written, nothing of it counts
    "pc459": 22 / 24,
    "coco-stuff": 22 / 24,
}


@pytest.mark.parametrize("name", SEMANTIC)
def test_every_semantic_data_set_scores_by_hand(tmp_path, name):
    values = VALUES.get(name, BYTE_INDEX)
    first, void, background = values["first"], values["void"], values["background"]
    image_a = np.repeat([[background], [first], [first], [void]], 4, axis=1)
    image_b = np.repeat([[first] * 4 + [background] * 4], 4, axis=0)
    dataset = write_tree(name, tmp_path / "data", {"a": image_a, "b": image_b})
    texts = read_vocabulary(dataset, tmp_path / "data", dataset.split).texts
    found = box(A, slice(1, 4)) & ~box(A, slice(2, 3), slice(2, 4))
    fake = FakeSegmenter(
        {A: {texts[0]: found, texts[1]: box(A, slice(0, 1))}, B: {texts[0]: box(B, slice(None), slice(4))}}
    )
    report = run(dataset, tmp_path, fake)
    scores = {row["counting"]: row["miou"] for row in report["body"]["scores"]}
    assert scores["with_background"] == pytest.approx(WITH_BACKGROUND.get(name, np.mean([16 / 22, 22 / 24])))
    assert scores["without_background_released"] == pytest.approx(1)
    assert scores["without_background_counted"] == pytest.approx(22 / 24)
    counts = report["body"]["presence"]["counts"]
    assert counts == {"present": 2, "present_kept": 2, "absent": 2 * len(texts) - 2, "absent_kept": 1}
    row = report["body"]["classes"][1]
    assert (row["text"], row["pixels"], row["presence"]["present"]) == (texts[0], 24, 2)
    assert report["coverage"]["evaluated"] == report["coverage"]["asked"] == 2
    papers = {entry["measure"]: entry["paper"] for entry in report["comparisons"]}
    assert papers == {counting: dataset.paper.get(counting) for counting in scores}


QUOTED = {name: "with_background" for name in SEMANTIC} | {
    name: "without_background_released" for name in ("pc459", "ade150", "ade847")
}


@pytest.mark.parametrize("name", SEMANTIC)
def test_the_number_that_the_paper_quotes_is_watched_and_comes_first(tmp_path, name):
    """Half of the object is taken for background, which costs nothing where that is not counted."""
    values = VALUES.get(name, BYTE_INDEX)
    dataset = write_tree(name, tmp_path / "data", {"a": np.full(A, values["first"])})
    texts = read_vocabulary(dataset, tmp_path / "data", dataset.split).texts
    listener = Listener()
    protocol = EvaluationProtocol(dataset=dataset, root=tmp_path / "data", preset=dataset.preset)
    fake = FakeSegmenter({A: {texts[0]: box(A, slice(0, 2))}})
    result = evaluate(protocol, fake, tmp_path / "out", RunOptions(progress=listener))
    ours = 0.5 if QUOTED[name] == "with_background" else 1.0
    assert (result.report.headline.measure, result.report.headline.ours) == (QUOTED[name], ours)
    assert listener.headlines == [ours]
    assert QUOTED[name] in dataset.paper or not dataset.paper


def run(dataset, folder, fake, **options):
    protocol = EvaluationProtocol(dataset=dataset, root=folder / "data", preset=dataset.preset)
    evaluate(protocol, fake, folder / "out", RunOptions(**options))
    return json.loads((folder / "out/report.json").read_text())


def test_the_last_class_of_ade847_counts_only_where_the_release_does_not_forget_it(tmp_path):
    dataset = write_tree("ade847", tmp_path / "data", {"a": np.array([[0, 0, 846, 846]])})
    texts = read_vocabulary(dataset, tmp_path / "data", dataset.split).texts
    fake = FakeSegmenter({(1, 4): {texts[0]: box((1, 4), slice(None), slice(0, 2))}})
    scores = {row["counting"]: row["miou"] for row in run(dataset, tmp_path, fake)["body"]["scores"]}
    assert scores["without_background_released"] == pytest.approx(1)
    assert scores["without_background_counted"] == pytest.approx(0.5)


SIZE = (10, 10)
OBJECT = [rectangle(0, 0, 4, 4), rectangle(2, 0, 6, 4)]  # 24 pixels, 8 of them in both polygons


@pytest.mark.parametrize("name", REFERENCE_FILES)
def test_every_referring_data_set_scores_by_hand(tmp_path, name):
    """The first sentence is found 2 columns too narrow, the second one is another place; the first one's score wins."""
    references = [reference(1, 9, ["Left", '"Right"'])]
    write_referring_tree(tmp_path / "data", REFERENCE_FILES[name], references, {9: SIZE}, {1: OBJECT})
    left, right = box(SIZE, slice(0, 4), slice(0, 4)), box(SIZE, slice(6, 10), slice(6, 10))
    body = run(find_dataset(name), tmp_path, FakeSegmenter({SIZE: {"left": left, "right": right}}))["body"]
    released, merged, sentences = (row["scores"] for row in body["rows"])
    assert released["miou"] == pytest.approx(8 / 24)  # of 16 true pixels, 8 are found, beside 8 in the hole
    assert merged["miou"] == pytest.approx(16 / 24)
    assert sentences["count"] == 2
    assert sentences["miou"] == pytest.approx((16 / 24 + 0) / 2)
    assert sentences["oiou"] == pytest.approx(16 / (24 + 40))
    assert [entry["share"] for entry in merged["precisions"]] == [1, 1, 0, 0, 0]
    assert body["gres"] is None


def test_the_generalized_data_set_scores_by_hand(tmp_path):
    references = [
        reference(1, 9, ["both"], ann=[1, 2]),
        reference(2, 8, ["a unicorn", "nobody"], ann=[-1]),
    ]
    segmentations = {1: [rectangle(0, 0, 4, 4)], 2: [rectangle(6, 6, 10, 10)]}
    sizes = {9: SIZE, 8: (8, 9)}
    write_referring_tree(tmp_path / "data", "grefcoco/grefs(unc).json", references, sizes, segmentations)
    left = box(SIZE, slice(0, 4), slice(0, 4))
    fake = FakeSegmenter({SIZE: {"both": left}, (8, 9): {"nobody": box((8, 9), slice(0, 2))}})
    body = run(find_dataset("grefcoco"), tmp_path, fake)["body"]
    released, merged, _ = (row["scores"] for row in body["rows"])
    assert released["miou"] == pytest.approx((1 + 0 + 0) / 3)  # the first object only; no target is never right
    assert merged["miou"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert body["gres"]["giou"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert body["gres"]["ciou"] == pytest.approx(16 / (32 + 18))
    assert (body["gres"]["n_accuracy"], body["gres"]["t_accuracy"]) == (0.5, 1)


def test_run_lengths_do_for_referred_objects(tmp_path):
    mask = box(SIZE, slice(0, 5))
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
    write_referring_tree(
        tmp_path / "data", "refcoco/refs(unc).p", [reference(1, 9, ["x"])], {9: SIZE}, {1: segmentation}
    )
    body = run(find_dataset("refcoco"), tmp_path, FakeSegmenter({SIZE: {"x": mask}}))["body"]
    assert [row["scores"]["miou"] for row in body["rows"]] == [1, 1, 1]


def test_two_references_of_one_name_are_both_counted_and_not_done_again(tmp_path):
    references = [reference(1, 9, ["x"], ann=1), reference(1, 9, ["y"], ann=2)]
    parts = {1: [rectangle(0, 0, 4, 4)], 2: [rectangle(0, 0, 8, 4)]}
    write_referring_tree(tmp_path / "data", REFERENCE_FILES["refcoco"], references, {9: SIZE}, parts)
    fake = FakeSegmenter({SIZE: {text: box(SIZE, slice(0, 4), slice(0, 4)) for text in ("x", "y")}})
    first = run(find_dataset("refcoco"), tmp_path, fake)
    assert first["body"]["rows"][0]["scores"]["miou"] == pytest.approx((1 + 0.5) / 2)
    assert run(find_dataset("refcoco"), tmp_path, fake) == first
    assert len(fake.calls) == 2


def test_broken_references_are_counted_and_named(tmp_path):
    references = [reference(1, 9, ["x"]), reference(2, 8, ["x"]), reference(3, 9, [" "]), reference(4, 9, ["x"])]
    sizes = {9: SIZE, 8: (7, 7)}
    parts = {**{i: [rectangle(0, 0, 4, 4)] for i in (1, 2, 3)}, 4: []}
    write_referring_tree(tmp_path / "data", REFERENCE_FILES["refcoco"], references, sizes, parts)
    instances = tmp_path / "data/refcoco/instances.json"
    instances.write_text(instances.read_text().replace('"height": 7', '"height": 6'))
    report = run(find_dataset("refcoco"), tmp_path, FakeSegmenter({SIZE: {"x": box(SIZE, slice(0, 4), slice(0, 4))}}))
    assert [failure["name"] for failure in report["failures"]] == ["2", "3", "4"]
    assert "to be 7 x 6 as instances.json says, but it is 7 x 7" in report["failures"][0]["reason"]
    assert "all of its sentences are blank" in report["failures"][1]["reason"]
    assert "polygons or run lengths of a 10 x 10 image, but: there is none" in report["failures"][2]["reason"]
    assert report["body"]["rows"][0]["scores"]["count"] == 1


def test_the_report_holds_every_setting_and_what_the_run_was_made_with(tmp_path):
    dataset = write_tree("voc", tmp_path / "data", {"a": np.ones(A, dtype=int)})
    config = with_settings(find_preset("official-voc"), {"cam_threshold": 0.37})
    report = run(dataset, tmp_path, FakeSegmenter({}, config))
    described = report["run"]
    assert described["settings"].keys() == flat_settings(config).keys()
    assert described["settings"]["cam_threshold"] == 0.37
    assert described["models"] == {"model": "fake, fingerprint 0123", "device": "cpu"}
    assert {"clip-as-rnn", "python", "torch", "transformers", "numpy"} <= described["software"].keys()
    assert described["protocol"] == {
        "dataset": "voc",
        "split": "val",
        "passes": "paper",
        "asked": "all",
        "texts": "paper",
    }
    page = (tmp_path / "out/report.md").read_text()
    assert "| cam_threshold | 0.37 |" in page
    assert "| mIoU with background | 67.60 | 0.00 |" in page
    assert "evaluated 1 of 1 asked (1 in the split at hand; the published split has 1449)" in page


def test_seconds_per_image_come_from_the_records_and_stand_beside_the_report(tmp_path):
    dataset = write_tree("voc", tmp_path / "data", {"a": np.ones(A, dtype=int), "b": np.ones(B, dtype=int)})
    report = run(dataset, tmp_path, FakeSegmenter({}))
    records = [json.loads(line) for line in (tmp_path / "out/records/1-of-1.ndjson").read_text().splitlines()]
    timing = json.loads((tmp_path / "out/timing.json").read_text())
    assert timing["images"] == 2
    assert timing["seconds_per_image"] == pytest.approx(np.mean([record["seconds"] for record in records]))
    assert timing["machine"].keys() == {"system", "cpu_count", "processor"}
    assert "seconds" not in json.dumps(report)
