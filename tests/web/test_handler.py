"""One request from its check to what the page shows, on the made-up stages of the page's tests."""

import json

import numpy as np
import pytest
from made_up_stages import made_up_segmenter
from PIL import Image

from clip_as_rnn.apps.web.controls import CONTROLS, offered_presets
from clip_as_rnn.apps.web.handler import Request, handle, reporter
from clip_as_rnn.apps.web.workers import Job, StoppedError
from clip_as_rnn.config import with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.presets import find_preset
from clip_as_rnn.stages import Progress

DEFAULT = find_preset("default")
TEXTS = ["dog", "ghost"]


@pytest.fixture
def ask(tmp_path):
    """Return a function that handles a request as the page would make it, but for what is given."""
    picture = tmp_path / "gray.png"
    Image.fromarray(np.full((60, 80, 3), 120, np.uint8)).save(picture)

    def asked(job, **changes):
        controls = [control.value(DEFAULT) for control in CONTROLS]
        given = {"picture": picture, "texts": TEXTS, "preset": "default", "mode": "semantic", "controls": controls}
        folder = tmp_path / "results"
        folder.mkdir()
        presets = offered_presets(DEFAULT)
        return handle(Request(**{**given, **changes}), made_up_segmenter(DEFAULT), presets, lambda: folder, job)

    return asked


def test_every_stage_is_told_in_order(ask):
    told = []
    ask(Job(told.append))
    assert list(dict.fromkeys(told)) == [
        "Loading the picture",
        "Encoding the picture and the texts",
        "Step 1 of at most 2: proposing 2 masks",
        "Judging 2 masks",
        "Step 2 of at most 2: proposing 1 mask",
        "Judging 1 mask",
        "Refining the edges (CRF)",
        "Drawing and writing the results",
    ]


def test_a_response_holds_what_the_segmenter_says(ask):
    response = ask(Job(lambda _: None))
    segmentation = made_up_segmenter(DEFAULT).segment(np.full((60, 80, 3), 120, np.uint8), TEXTS, trace=True)
    assert [one["text"] for one in response.result["found"]] == list(segmentation.texts) == ["dog"]
    assert [one["text"] for one in response.result["rejected"]] == ["ghost"]
    assert [len(step["cells"]) for step in response.steps["steps"]] == [2, 1]
    assert response.summary == ("Found 1 of 2 texts in 2 steps. Masks judged by visual prompts (blur, circle).")
    with Image.open(response.labels) as labels:
        assert (np.asarray(labels) == segmentation.label_map()).all()
    record = json.loads(response.json.read_text())
    assert (record["image"], record["preset"], record["models"]) == ("gray.png", "default", {"model": "made up"})
    assert response.command == "car segment gray.png -t dog -t ghost --preset default --figure"


@pytest.mark.parametrize("stage", ["Loading", "Encoding", "Step 1", "Judging", "Step 2", "Refining"])
def test_a_stopped_job_ends_before_its_next_piece_of_work(ask, stage):
    told = []

    def tell(message):
        told.append(message)
        if message.startswith(stage):
            job.stop.set()

    job = Job(tell)
    with pytest.raises(StoppedError):
        ask(job)
    assert told[-1].startswith(stage)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": [f"thing {i}" for i in range(41)]}, "at most 40 texts of your own as 'What to look for'"),
        ({"texts": ["x" * 301]}, "at most 300 characters"),
        ({"texts": None}, "at least one text to look for, but got none"),
        ({"texts": 5}, "a list of texts as 'What to look for'"),
        ({"preset": "nope"}, "one of the presets"),
        ({"preset": ["default"]}, "one of the presets"),
        ({"mode": {}}, "setting `mode`"),
    ],
)
def test_what_cannot_be_used_is_an_error_of_input(ask, changes, message):
    with pytest.raises(InputError, match=message):
        ask(Job(lambda _: None), **changes)


def test_the_bound_on_steps_holds_for_every_kind_of_recurrence():
    for settings, bound in (({}, 3), ({"repeat_first_step": True}, 4), ({"max_steps": 1}, 1), ({"max_steps": 0}, 1)):
        told = []
        reporter(Job(told.append), 3, with_settings(DEFAULT, settings))(Progress("propose", 1, 3))
        assert told == [f"Step 1 of at most {bound}: proposing 3 masks"]
