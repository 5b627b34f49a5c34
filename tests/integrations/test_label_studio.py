"""Label Studio's contract: configurations in, predictions out, and the endpoints that speak it."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from clip_as_rnn import InputError
from clip_as_rnn.export.label_studio import encode_brush
from clip_as_rnn.integrations.label_studio import prediction, read_controls, texts_of
from clip_as_rnn.result import Segmentation
from serving import Client, made_up, picture, serving

CONFIG = """<View>
  <Image name="photo" value="$url" zoom="true"/>
  <BrushLabels name="tag" toName="photo"><Label value="Cat" hint="a tabby cat"/><Label value="cup"/></BrushLabels>
  <RectangleLabels name="box" toName="photo"><Label value="cup"/></RectangleLabels>
</View>"""
URL = "data:image/png;base64," + base64.b64encode(picture()).decode()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(made_up()) as running:
        yield running


def body(**changes: Any) -> dict[str, Any]:
    """Return what Label Studio 1.x sends to have one task labeled."""
    asked = {
        "tasks": [{"id": 7, "data": {"url": URL}, "annotations": [], "meta": {}}],
        "project": "3.1700000000",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }
    return {**asked, **changes}


def test_texts_are_the_labels_or_their_hints():
    controls = read_controls(CONFIG)
    assert [(one.kind, one.from_name, one.to_name, one.data_key) for one in controls] == [
        ("brushlabels", "tag", "photo", "url"),
        ("rectanglelabels", "box", "photo", "url"),
    ]
    assert texts_of(controls) == ["a tabby cat", "cup"]


@pytest.mark.parametrize(
    "config",
    [
        "",
        "<View>",
        "<View/>",
        "<View><BrushLabels name='a' toName='b'><Label value='c'/></BrushLabels></View>",
        "<View><Image name='b' value='$x'/><BrushLabels name='a' toName='b'/></View>",
        "<!DOCTYPE a [<!ENTITY b 'bb'>]><View>&b;</View>",
        "<View>" * 100_000,
        "x" * 1_000_001,
    ],
    ids=["empty", "cut", "bare", "no image", "no labels", "entities", "deep", "long"],
)
def test_a_configuration_without_masks_or_boxes_is_refused(config: str):
    with pytest.raises(InputError, match="labeling configuration"):
        read_controls(config)


def test_regions_name_their_tag_image_label_size_and_score():
    masks = np.zeros((2, 10, 20), dtype=bool)
    masks[0, 2:4, 5:10] = masks[1, 5:, :4] = True
    scores = np.array([0.75, 0.25], np.float32)
    found = Segmentation(("a tabby cat", "dog", "cup"), ("a tabby cat", "cup"), masks, scores)
    answer = prediction(read_controls(CONFIG), found, masks, "v1")
    size = {"original_width": 20, "original_height": 10, "image_rotation": 0, "to_name": "photo"}
    cat = {"format": "rle", "rle": encode_brush(masks[0]), "brushlabels": ["Cat"]}
    cup = {"format": "rle", "rle": encode_brush(masks[1]), "brushlabels": ["cup"]}
    box = {"x": 0.0, "y": 50.0, "width": 20.0, "height": 50.0, "rotation": 0, "rectanglelabels": ["cup"]}
    assert answer == {
        "model_version": "v1",
        "score": 0.5,
        "result": [
            {"id": "car1", "type": "brushlabels", "from_name": "tag", "score": 0.75, "value": cat, **size},
            {"id": "car2", "type": "brushlabels", "from_name": "tag", "score": 0.25, "value": cup, **size},
            {"id": "car3", "type": "rectanglelabels", "from_name": "box", "score": 0.25, "value": box, **size},
        ],
    }
    assert json.loads(json.dumps(answer)) == answer


def test_a_project_is_connected_and_its_tasks_are_labeled(client: Client):
    assert client.get("/health").json["status"] == "UP"
    setup = {"project": "3.1700000000", "schema": CONFIG, "extra_params": None, "hostname": "", "access_token": ""}
    version = client.post("/setup", setup).json["model_version"]
    assert version.startswith("clip-as-rnn ")
    (result,) = client.post("/predict", body()).json["results"]
    assert (result["model_version"], len(result["result"])) == (version, 3)
    brush = result["result"][1]["value"]  # the made-up masks cover all; the last one is on top
    assert (brush["brushlabels"], brush["rle"]) == (["cup"], encode_brush(np.ones((24, 32), dtype=bool)))
    assert client.post("/webhook", {"action": "ANNOTATION_CREATED"}).status == 201


def test_every_task_has_its_result_in_order(client: Client):
    tasks = [{"id": i, "data": {"url": URL}} for i in range(5)]
    assert len(client.post("/predict", body(tasks=tasks)).json["results"]) == 5
    assert client.post("/predict", body(tasks=[])).json == {"results": []}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label_config": "<View/>"}, "Expected <BrushLabels> or <RectangleLabels> with labels"),
        ({"tasks": [{"id": 9, "data": {"image": URL}}]}, "Task 9 has no image under 'url'."),
        ({"tasks": [{"id": 9, "data": {"url": "/data/upload/1/a.png"}}]}, "The image lies in Label Studio itself; "),
        ({"tasks": [{"id": 9, "data": {"url": "http://127.0.0.1/a.png"}}]}, "Images by URL are refused from this host"),
        ({"tasks": 3}, "This request cannot be read: tasks: "),
    ],
)
def test_what_cannot_be_labeled_is_said_in_a_sentence(client: Client, changes: dict[str, Any], words: str):
    answer = client.post("/predict", body(**changes))
    assert (answer.status, answer.error[: len(words)]) == (422, words)


def test_the_token_may_be_the_password_of_basic_authentication():
    with serving(made_up(), token="secret") as client:
        for word, status in (("user:secret", 200), ("user:wrong", 401), ("secret", 401)):
            basic = "Basic " + base64.b64encode(word.encode()).decode()
            assert client.post("/predict", body(), Authorization=basic).status == status
