"""A visitor's way through the page, in a browser, on the bundled CLIP, against the library's own answer."""

import io
import json
import re
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from servers import EXAMPLE

from clip_as_rnn import Segmentation, load_segmenter
from clip_as_rnn.apps.cli.parsing import parse_settings
from clip_as_rnn.export.files import Result, to_json
from clip_as_rnn.io.images import read_image

pytestmark = pytest.mark.web

TEXTS = ("dog", "car", "tree", "banana")
THETA = "Least score to stay (theta)"


@dataclass(frozen=True)
class Expected:
    """What the library answers, at a threshold at which it keeps some texts and rejects some."""

    threshold: float
    segmentation: Segmentation


@pytest.fixture(scope="module")
def expected() -> Expected:
    segmenter = load_segmenter("tiny")
    scores = segmenter.replace(score_threshold=0.0).segment(EXAMPLE, TEXTS, trace=True).trace.steps[0].scores
    stretch = segmenter.config.classify.threshold(len(TEXTS)) / segmenter.config.classify.score_threshold  # few texts
    threshold = round(float(min(scores) + max(scores)) / 2 / stretch, 2)
    return Expected(threshold, segmenter.replace(score_threshold=threshold).segment(EXAMPLE, TEXTS, trace=True))


def _ask(visitor, threshold):
    """Upload the example, type the texts, lower the threshold, and await the result."""
    visitor.choose(EXAMPLE)
    visitor.type(*TEXTS)
    advanced = visitor.page.get_by_role("button", name="Advanced")
    advanced.click()
    visitor.set_number(THETA, threshold)
    advanced.click()
    visitor.find()
    visitor.await_status("Found")


@pytest.fixture
def finished(visit, bundled, expected):
    """Return a visitor who found some of the texts."""
    visitor = visit(bundled)
    _ask(visitor, expected.threshold)
    return visitor


def test_the_page_says_what_the_library_says(finished, expected, tmp_path):
    """Every text has a row, the masks can be switched off one by one, and the downloads hold the same result."""
    segmentation = expected.segmentation
    assert segmentation.texts, "nothing found"
    assert segmentation.rejections, "nothing rejected"
    found = [f"{text} {score:.2f} found" for text, score in zip(segmentation.texts, segmentation.scores, strict=True)]
    absent = [f"{one.text} {one.score:.2f} rejected at step {one.step}" for one in segmentation.rejections]
    assert len(finished.rows) == len(TEXTS)
    assert all(row.startswith(start) for row, start in zip(finished.rows, [*found, *absent], strict=True))

    _masks_can_be_toggled_and_name_themselves(finished, segmentation)
    _steps_can_be_walked(finished, segmentation)
    _downloads_hold_the_same(finished, expected, tmp_path)
    _the_snippets_lead_to_the_same_settings(finished, expected)
    assert finished.hosts == {"127.0.0.1"}


def _masks_can_be_toggled_and_name_themselves(visitor, segmentation):
    box = visitor.page.locator(".car-table input[type=checkbox]").first
    shown = visitor.canvas()
    box.uncheck()
    hidden = visitor.canvas()
    assert hidden != shown
    box.check()
    visitor.page.mouse.move(0, 0)  # a row under the pointer lights up its mask
    assert visitor.canvas() == shown
    visitor.page.get_by_label("Opacity of the masks").fill("20")
    assert visitor.canvas() not in (shown, hidden)

    height, width = segmentation.size_hw
    y, x = np.argwhere(segmentation.masks[0])[segmentation.masks[0].sum() // 2]
    canvas = visitor.page.locator(".car-picture canvas")
    size = canvas.bounding_box()
    canvas.hover(position={"x": (x + 0.5) / width * size["width"], "y": (y + 0.5) / height * size["height"]})
    said = visitor.page.locator(".car-tip").inner_text()
    assert said == f"{segmentation.texts[0]} {segmentation.scores[0]:.2f}"


def _steps_can_be_walked(visitor, segmentation):
    steps = segmentation.trace.steps
    figures = visitor.page.locator(".car-cells figure")
    for number, step in enumerate(steps, 1):
        assert visitor.page.get_by_text(f"Step {number} of {len(steps)}", exact=True).is_visible()
        assert figures.count() == len(step.texts)
        for i, text in enumerate(step.texts):
            said = " ".join(figures.nth(i).inner_text().split())
            verdict = "dropped: " if i in step.dropped else "kept"
            assert said.startswith(f"{text} {step.scores[i]:.2f}, {verdict}")
        forward = visitor.page.get_by_role("button", name="Next", exact=True)
        assert forward.is_disabled() == (number == len(steps))
        if number < len(steps):
            forward.click()


def _downloads_hold_the_same(visitor, expected, folder):
    segmentation = expected.segmentation
    given = json.loads(visitor.download("COCO JSON", folder).read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(to_json(Result(segmentation, read_image(EXAMPLE)))))
    for name in ("size", "queries", "classes"):
        assert given[name] == wanted[name]
    for name in ("found", "rejected"):  # scores are rounded in the last digit as the server's texts were batched
        assert given[name] == [{**row, "score": pytest.approx(row["score"], abs=1e-5)} for row in wanted[name]]
    assert given["image"] == "park.jpg"
    assert given["settings"]["score_threshold"] == expected.threshold

    with Image.open(visitor.download("Label map (PNG)", folder)) as labels:
        assert (np.asarray(labels) == segmentation.label_map()).all()
    with zipfile.ZipFile(visitor.download("Masks (ZIP)", folder)) as archive:
        masks = [np.asarray(Image.open(archive.open(name))) > 0 for name in sorted(archive.namelist())]
    assert (np.array(masks) == segmentation.masks).all()
    with Image.open(visitor.download("Figure (PNG)", folder)) as figure:
        assert figure.width > 300


def _the_snippets_lead_to_the_same_settings(visitor, expected):
    command, python = (" ".join(code.split()) for code in visitor.page.locator(".cm-content").all_inner_texts())
    assert command.startswith("car segment park.jpg -t dog -t car -t tree -t banana --preset tiny ")
    settings = parse_settings(re.findall(r"--set (\S+)", command))
    assert settings == {"score_threshold": expected.threshold}
    assert f"load_segmenter('tiny', score_threshold={expected.threshold})" in python


def test_an_example_is_one_click(visit, bundled):
    visitor = visit(bundled)
    visitor.page.locator(".gallery-item, .gallery button").first.click()
    visitor.page.wait_for_function("document.querySelectorAll('#texts li').length > 0")
    assert visitor.tags == ["dog", "car", "tree", "cat", "banana"]
    visitor.find()
    visitor.await_status("of 5 texts")


def test_screenshots_show_everything_at_any_width(visit, bundled, expected, screenshots):
    """At 390 pixels, too, nothing sticks out; the pictures are for people to look at."""
    for name, width in (("wide", 1280), ("narrow", 390)):
        visitor = visit(bundled, width=width)
        _ask(visitor, expected.threshold)
        visitor.page.wait_for_selector(".car-cells img")
        visitor.page.wait_for_timeout(500)
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
        path = screenshots / f"web-{name}.png"
        with Image.open(io.BytesIO(visitor.page.screenshot(full_page=True))) as picture:
            picture.convert("RGB").quantize(256, kmeans=1).save(path, optimize=True)
        assert path.stat().st_size < 400_000
