"""The official presets against recorded runs of the authors' released code on two small random CLIPs."""

import json
from pathlib import Path

import numpy as np
import pytest

from clip_as_rnn.loading import load_segmenter
from clip_as_rnn.refine.crf import wrap_colors

GOLDEN = Path(__file__).parent / "golden"


def replay(name, preset, **others):
    """Segment a recorded case with the recorded settings; return it and our result."""
    recorded = np.load(GOLDEN / f"{name}.npz")
    meta = json.loads(str(recorded["meta"]))
    settings = meta["settings"]
    segmenter = load_segmenter(
        preset,
        model=GOLDEN / "generator",
        classifier=GOLDEN / "classifier",
        device="cpu",
        dtype="float32",
        mask_threshold=settings["mask_threshold"],
        score_threshold=settings["confidence_threshold"],
        cam_threshold=settings["clipes_threshold"],
        visual_prompts=settings["visual_prompt_type"],
        templates=settings["semantic_templates"],
        background_texts=settings["bg_cls"],
        **others,
    )
    return recorded, meta, segmenter.segment(recorded["image"], meta["texts"], trace=True)


CASES = [("open_semantic", "official-voc"), ("open_refer", "official-refcoco")]


@pytest.fixture(scope="module", params=CASES, ids=[name for name, _ in CASES])
def case(request):
    return replay(*request.param)


def test_the_same_texts_are_kept_at_every_step(case):
    _, meta, result = case
    assert [list(step.kept) for step in result.trace.steps] == [step["kept"] for step in meta["steps"]]


def test_scores_agree_to_1e_4_at_every_step(case):
    _, meta, result = case
    for step, theirs in zip(result.trace.steps, meta["steps"], strict=True):
        np.testing.assert_allclose(step.scores, theirs["scores"], atol=1e-4)


def test_cams_agree_to_1e_4_before_the_affinity(case):
    recorded, _, result = case
    for k, step in enumerate(result.trace.steps):
        np.testing.assert_allclose(step.cams.numpy(), recorded[f"step{k}_cam_lowres"], atol=1e-4)


def test_proposals_agree_to_2e_3_at_pixel_size(case):
    recorded, _, result = case
    for k, step in enumerate(result.trace.steps):
        theirs = recorded[f"step{k}_proposals"].astype(np.float32)
        np.testing.assert_allclose(step.proposals.numpy(), theirs, atol=2e-3)


def test_final_masks_agree_on_9995_of_10000_pixels(case):
    recorded, meta, result = case
    shape = tuple(recorded["final_shape"])
    theirs = np.unpackbits(recorded["final_masks"])[: np.prod(shape)].reshape(shape).astype(bool)
    assert result.texts
    for text, mask in zip(result.texts, result.masks, strict=True):
        assert (mask == theirs[meta["texts"].index(text)]).mean() >= 0.9995


def test_the_label_map_agrees_on_9995_of_10000_pixels():
    recorded, meta, result = replay(*CASES[0])
    ids = np.array([0, *(meta["texts"].index(text) + 1 for text in result.texts)])
    assert (ids[result.label_map()] == recorded["labels"]).mean() >= 0.9995


def test_the_distorted_colors_of_the_crf_are_theirs():
    recorded = np.load(GOLDEN / "open_semantic.npz")
    np.testing.assert_array_equal(wrap_colors(recorded["image"]), recorded["crf_image_bgr_u8"])


def test_without_their_distortion_labels_change():
    """The setting does something: undistorted colors move more pixels than rounding may."""
    recorded, meta, result = replay(*CASES[0], crf_image="rgb")
    ids = np.array([0, *(meta["texts"].index(text) + 1 for text in result.texts)])
    assert (ids[result.label_map()] == recorded["labels"]).mean() < 0.9995
