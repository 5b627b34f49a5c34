"""CVAT's contract: its own loader, its checks of what a function says of itself and returns, its run over a task."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk.auto_annotation import BadFunctionError, DetectionFunctionSpec, driver
from cvat_sdk.masks import decode_mask
from PIL import Image

from clip_as_rnn import InputError, Segmentation, load_segmenter
from clip_as_rnn.integrations import cvat
from serving import made_up

PARK = Path(__file__).parents[2] / "examples" / "park.jpg"
MODULE = "clip_as_rnn.integrations.cvat"
LABELS = "Dog=dog,Automobile=car,tree,cat"
TINY = {"preset": "tiny", "crf": False, "text_cache": False}
IDS = {"Dog": 40, "tree": 30, "Automobile": 20, "cat": 10}  # of the labels in the task


@pytest.fixture(scope="module")
def function() -> Any:
    return FunctionLoader(MODULE, None, {"labels": LABELS, **TINY}).load()


@pytest.fixture(scope="module")
def found() -> Segmentation:
    return load_segmenter(**TINY).segment(PARK, ["dog", "car", "tree", "cat"])


def annotate(monkeypatch: pytest.MonkeyPatch, function: Any, kind: str, **options: Any) -> list[Any]:
    """Let CVAT's own driver annotate a task of two pictures, whose server is made up; return what it uploads."""
    labels = [
        SimpleNamespace(name=name, id=number, type=kind, attributes=[], sublabels=[]) for name, number in IDS.items()
    ]
    samples = [
        SimpleNamespace(frame_name="a", frame_index=0, media=SimpleNamespace(load_image=lambda: Image.open(PARK))),
        SimpleNamespace(
            frame_name="b", frame_index=1, media=SimpleNamespace(load_image=lambda: Image.new("L", (50, 40), 90))
        ),
    ]
    dataset = SimpleNamespace(labels=labels, samples=samples)
    monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: dataset)
    uploaded: list[Any] = []
    api = SimpleNamespace(
        partial_update_annotations=lambda _, __, patched_labeled_data_request: uploaded.append(
            patched_labeled_data_request
        )
    )
    client = SimpleNamespace(logger=logging.getLogger("test"), tasks=SimpleNamespace(api=api))
    driver.annotate_task(client, 1, function, **options)
    (request,) = uploaded
    return list(request.shapes)


def test_the_loader_gets_a_function_whose_labels_are_those_asked_for(function: Any):
    assert isinstance(function.spec, DetectionFunctionSpec)
    assert [(label.name, label.id, label.type) for label in function.spec.labels] == [
        *(("Dog", 0, "mask"), ("Automobile", 1, "mask"), ("tree", 2, "mask"), ("cat", 3, "mask")),
    ]
    loaded = FunctionLoader(None, Path(cvat.__file__), {"labels": "dog", "shape": "polygon", **TINY}).load()
    assert [(label.name, label.type) for label in loaded.spec.labels] == [("dog", "polygon")]


def test_a_task_gets_the_masks_of_segment_under_its_own_labels(
    monkeypatch: pytest.MonkeyPatch, function: Any, found: Segmentation
):
    shapes = annotate(monkeypatch, function, "mask")
    names = dict(zip(("dog", "car", "tree", "cat"), ("Dog", "Automobile", "tree", "cat"), strict=True))
    height, width = found.size_hw
    first = [shape for shape in shapes if shape.frame == 0]
    assert [shape.label_id for shape in first] == [IDS[names[text]] for text in found.texts]
    assert [shape.score for shape in first] == pytest.approx(found.scores.tolist())
    for shape, mask in zip(first, found.masks, strict=True):
        decoded = decode_mask(list(shape.points), image_width=width, image_height=height)
        np.testing.assert_array_equal(decoded, mask)


def test_polygons_fill_to_the_same_masks_where_a_task_wants_them(
    monkeypatch: pytest.MonkeyPatch, function: Any, found: Segmentation
):
    shapes = annotate(monkeypatch, function, "polygon", conv_mask_to_poly=True)
    dogs = [shape for shape in shapes if shape.frame == 0 and shape.label_id == IDS["Dog"]]
    drawn = np.zeros(found.size_hw, np.uint8)
    for shape in dogs:
        cv2.fillPoly(drawn, [np.array(shape.points, np.int32).reshape(-1, 2)], 1)
    np.testing.assert_array_equal(drawn > 0, found.masks[found.texts.index("dog")])


def test_rectangles_are_the_boxes_of_segment(monkeypatch: pytest.MonkeyPatch, found: Segmentation):
    function = FunctionLoader(MODULE, None, {"labels": LABELS, "shape": "rectangle", **TINY}).load()
    shapes = annotate(monkeypatch, function, "rectangle")
    assert [list(shape.points) for shape in shapes if shape.frame == 0] == found.boxes.tolist()


def test_what_scores_less_than_the_threshold_of_cvat_is_left_out(monkeypatch: pytest.MonkeyPatch):
    function = cvat.DetectionFunction(
        made_up(lambda text, *_: 0.6 if text == "dog" else 0.9), {"Dog": "dog", "tree": "tree!"}, "mask"
    )
    for threshold, count in ((None, 2), (0.6, 2), (0.7, 0), (1.0, 0)):
        assert len(annotate(monkeypatch, function, "mask", conf_threshold=threshold)) == count


def test_the_driver_refuses_a_task_without_our_labels(monkeypatch: pytest.MonkeyPatch, function: Any):
    with pytest.raises(BadFunctionError, match="has type 'mask' in the function, but 'rectangle' in the dataset"):
        annotate(monkeypatch, function, "rectangle")
    monkeypatch.delitem(IDS, "cat")
    with pytest.raises(BadFunctionError, match="label 'cat' is not in dataset"):
        annotate(monkeypatch, function, "mask")
    assert annotate(monkeypatch, function, "mask", allow_unmatched_labels=True)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "Expected at least one text to look for"),
        ({"labels": " , "}, "Expected at least one text to look for"),
        ({"labels": "dog,dog"}, "CLIP cannot tell some apart: 'dog,dog'"),
        ({"labels": "dog,Dog"}, "CLIP cannot tell some apart: 'dog,Dog'"),
        ({"labels": "=dog"}, "Expected a label before each `=`, but got '=dog'."),
        ({"labels": "dog=\x00"}, "Expected every text to hold a word"),
        ({"labels": "dog", "shape": "points"}, "Expected shape to be one of mask, polygon, rectangle"),
        ({"labels": "dog", "preset": "tini"}, "No preset named 'tini'. Did you mean 'tiny'?"),
        ({"labels": "dog", **TINY, "crv": 1}, "No setting named 'crv'. Did you mean 'crf'?"),
    ],
)
def test_a_mistake_in_the_parameters_is_said_in_a_sentence(parameters: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        FunctionLoader(MODULE, None, parameters).load()
    assert words in str(caught.value)
