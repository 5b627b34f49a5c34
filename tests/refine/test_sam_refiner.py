"""The last stage with SAM: what replaces what, on fakes that answer as told and on small random models."""

import tracemalloc

import numpy as np
import pytest
import torch

from clip_as_rnn.refine.base import MaskReplacer
from clip_as_rnn.refine.sam import match_masks
from clip_as_rnn.refine.sam.automatic import AutomaticRules, generate_masks
from clip_as_rnn.refine.sam.frame import Preprocessing, place
from clip_as_rnn.refine.sam.matching import MatchRules
from clip_as_rnn.refine.sam.model import Sam, SamImage, SamMasks
from clip_as_rnn.refine.sam.refiner import SamRefiner, SamRules
from clip_as_rnn.refine.sam.weights import load_sam
from random_sam import FAMILIES, save_random_sam

CPU = torch.device("cpu")
MATCHING = MatchRules(0.6, 0.05, 0.7)
GRID = AutomaticRules(4, -9, -9, 1.0)
PROMPTS = SamRules("prompts", MATCHING, GRID, parts=8, at_once=32)
AUTOMATIC = SamRules("automatic", MATCHING, GRID, parts=8, at_once=32)
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


class FakeSam(Sam):
    """Answers each box by the box itself, moved to the right, as its best mask; remembers what it was asked."""

    def __init__(self, moved=0):  # loads nothing
        self.moved = moved
        self.preprocessing = Preprocessing(48, 48, True, (0, 0, 0), (1, 1, 1))
        self.batches = []
        self.encoded = 0
        self.prompted = []

    def encode(self, image):
        self.encoded += 1
        return SamImage(place(image.shape[:2], self.preprocessing), torch.zeros(1, 1, 1, 1))

    def decode_boxes(self, image, boxes, logits):
        self.batches.append(len(boxes))
        self.prompted.extend(logits)
        masks = torch.full((len(boxes), 3, 48, 48), -1.0)
        for i, (left, top, right, bottom) in enumerate(boxes.round().astype(int)):
            masks[i, 1, top : bottom + 1, left + self.moved : right + self.moved + 1] = 1
        return SamMasks(masks, torch.tensor([[0.1, 0.9, 0.2]]).expand(len(boxes), 3))


def refine(refiner, image, *masks, **options):
    """Refine with an image that SAM has not seen."""
    return refiner.refine(refiner.encode_image(image), *masks, **options)


def mask_of(*boxes, size_hw=(32, 48)):
    mask = np.zeros(size_hw, bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


ROUGH = mask_of((4, 20, 4, 20)) & ~mask_of((4, 6, 4, 6))  # a square that lacks a corner
SCORES = np.array([0.5, 0.9])


def test_a_mask_that_sam_agrees_with_takes_sams_edges():
    refined, decisions = refine(SamRefiner(FakeSam(), PROMPTS), IMAGE, ROUGH[None], SCORES[:1])
    np.testing.assert_array_equal(refined[0], mask_of((4, 20, 4, 20)))
    assert list(decisions) == [0]
    decision = decisions[0]
    assert decision.replaced
    assert decision.iou == pytest.approx(252 / 256)
    assert decision.reason == "replaced: IoU 0.98 above 0.7"


def test_a_mask_that_sam_disagrees_with_stays():
    refined, decisions = refine(SamRefiner(FakeSam(moved=8), PROMPTS), IMAGE, ROUGH[None], SCORES[:1])
    np.testing.assert_array_equal(refined[0], ROUGH)
    assert not decisions[0].replaced
    assert decisions[0].reason == "kept: IoU 0.34 not above 0.7"


def test_without_a_gate_sam_has_the_last_word():
    rules = SamRules("prompts", MatchRules(0.6, 0.05, None), GRID, parts=8, at_once=32)
    refined, decisions = refine(SamRefiner(FakeSam(moved=8), rules), IMAGE, ROUGH[None], SCORES[:1])
    np.testing.assert_array_equal(refined[0], mask_of((4, 20, 12, 28)))
    assert decisions[0].reason == "replaced, IoU 0.34, no gate"


def test_empty_masks_stay_empty_and_are_not_asked_about():
    sam = FakeSam()
    found = np.stack([np.zeros((32, 48), bool), ROUGH])
    refined, decisions = refine(SamRefiner(sam, PROMPTS), IMAGE, found, SCORES)
    assert not refined[0].any()
    assert list(decisions) == [1]
    assert sam.batches == [1]


@pytest.mark.parametrize(
    "found", [np.zeros((32, 48), np.int64), np.zeros((0, 32, 48), bool), np.zeros((2, 32, 48), bool)]
)
def test_where_nothing_was_found_sam_does_not_look(found):
    sam = FakeSam()
    scores = np.zeros(2 if found.ndim == 2 else len(found))
    refined, decisions = refine(SamRefiner(sam, PROMPTS), IMAGE, found, scores)
    assert (refined.shape, decisions, sam.encoded) == (found.shape, {}, 0)


def test_one_image_pass_and_full_batches_serve_all_texts():
    sam = FakeSam()
    found = np.stack([mask_of((0, 10, 0, 10), (20, 30, 20, 30))] * 5)  # ten parts
    rules = SamRules("prompts", MATCHING, GRID, parts=8, at_once=4)
    refine(SamRefiner(sam, rules), IMAGE, found, np.linspace(0, 1, 5))
    assert sam.encoded == 1
    assert sam.batches == [4, 4, 2]


def test_texts_that_wait_for_the_decoder_hold_no_map_of_the_image():
    """Thirty texts of a large photo wait for one batch."""
    side = 600
    rows = np.arange(side) * 30 // side + 1
    found = np.repeat(rows[:, None], side, axis=1).astype(np.int16)  # a label map of stripes
    image = np.zeros((side, side, 3), np.uint8)
    refiner = SamRefiner(FakeSam(), SamRules("prompts", MATCHING, GRID, parts=8, at_once=32))
    tracemalloc.start()
    try:
        refine(refiner, image, found, np.linspace(0.1, 1, 30))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 * side * side  # bytes; labels of the parts of thirty texts would take 120


def test_refiners_of_one_sam_and_the_same_rules_are_equal():
    """What one has seen in an image serves the other."""
    sam = FakeSam()
    assert SamRefiner(sam, PROMPTS) == SamRefiner(sam, PROMPTS)
    assert SamRefiner(sam, PROMPTS) != SamRefiner(sam, AUTOMATIC)
    assert SamRefiner(sam, PROMPTS) != SamRefiner(FakeSam(), PROMPTS)


def test_several_parts_are_several_boxes():
    sam = FakeSam()
    mask = mask_of((0, 10, 0, 10), (20, 30, 20, 30))
    refined, _ = refine(SamRefiner(sam, PROMPTS), IMAGE, mask[None], SCORES[:1])
    np.testing.assert_array_equal(refined[0], mask)
    assert sam.batches == [2]


def test_parts_that_are_not_asked_about_stay():
    mask = mask_of((0, 10, 0, 10), (20, 30, 20, 30))
    rules = SamRules("prompts", MATCHING, GRID, parts=1, at_once=32)
    refined, _ = refine(SamRefiner(FakeSam(moved=1), rules), IMAGE, mask[None], SCORES[:1])
    np.testing.assert_array_equal(refined[0], mask_of((0, 10, 1, 11), (20, 30, 20, 30)))


@pytest.mark.parametrize(("scores", "winner"), [((0.5, 0.9), 2), ((0.9, 0.5), 1), ((0.7, 0.7), 2)])
def test_in_a_label_map_the_higher_score_keeps_a_pixel_that_both_claim(scores, winner):
    """Of equals the later text, as the label map of a result is painted."""
    labels = np.where(mask_of((0, 20, 0, 20)), 1, 0) + np.where(mask_of((0, 20, 20, 40)), 2, 0)
    labels[0:2, 19] = 2  # each frame now reaches into the other text
    labels[18:20, 20] = 1
    refined, _ = refine(SamRefiner(FakeSam(), PROMPTS), IMAGE, labels, np.array(scores))
    assert (refined[:20, 19:21] == winner).all()
    assert (refined[:20, :19] == 1).all()
    assert (refined[:20, 21:40] == 2).all()


def test_a_stack_of_masks_may_overlap():
    found = np.stack([mask_of((0, 20, 0, 20)), mask_of((0, 20, 10, 40))])
    refined, _ = refine(SamRefiner(FakeSam(), PROMPTS), IMAGE, found, SCORES)
    np.testing.assert_array_equal(refined, found)


def test_masks_of_a_shrunk_image_return_at_its_full_size():
    small = mask_of((2, 10, 2, 10), size_hw=(16, 24))
    refined, _ = refine(SamRefiner(FakeSam(), PROMPTS), IMAGE, small[None], SCORES[:1])
    np.testing.assert_array_equal(refined[0], mask_of((4, 20, 4, 20)))
    labels = small.astype(np.int64)
    again, _ = refine(SamRefiner(FakeSam(moved=9), PROMPTS), IMAGE, labels, SCORES[:1])
    np.testing.assert_array_equal(again, mask_of((4, 20, 4, 20)))


def test_probabilities_are_shown_as_log_odds_and_masks_without_them():
    sam = FakeSam()
    probabilities = torch.from_numpy(np.where(ROUGH, 0.9, 0.2)).float()[None]
    refine(SamRefiner(sam, PROMPTS), IMAGE, ROUGH[None], SCORES[:1], probabilities=probabilities)
    refine(SamRefiner(sam, PROMPTS), IMAGE, ROUGH[None], SCORES[:1])
    (odds, plain) = sam.prompted
    assert odds[10, 10] == pytest.approx(np.log(9), abs=1e-4)
    assert odds[30, 40] == pytest.approx(np.log(0.25), abs=1e-4)
    assert (plain[10, 10], plain[30, 40]) == (10, -10)


def test_a_trace_keeps_small_pictures_of_what_was_decided():
    image = np.zeros((640, 960, 3), np.uint8)
    mask = np.kron(ROUGH, np.ones((20, 20), bool))
    _, plain = refine(SamRefiner(FakeSam(), PROMPTS), image, mask[None], SCORES[:1])
    assert plain[0].pictures is None
    refined, decisions = refine(SamRefiner(FakeSam(), PROMPTS), image, mask[None], SCORES[:1], trace=True)
    pictures = decisions[0].pictures
    assert pictures.before.shape == pictures.after.shape == (214, 320)
    assert pictures.candidates.shape == (1, 214, 320)
    np.testing.assert_array_equal(pictures.before, mask[::3, ::3])
    np.testing.assert_array_equal(pictures.after, refined[0][::3, ::3])


@pytest.fixture(scope="module", params=FAMILIES)
def sam(request, tmp_path_factory):
    return load_sam(save_random_sam(tmp_path_factory.mktemp("sam"), request.param), device=CPU, dtype=torch.float32)


def blobs(seed=0, count=3, size_hw=(32, 48)):
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, count + 1, 5, 7))).float()
    labels = torch.nn.functional.interpolate(noise, size_hw, mode="bilinear")[0].argmax(0).numpy()
    return np.stack([labels == i + 1 for i in range(count)]), labels


def test_the_papers_way_is_matching_with_all_of_sams_masks(sam):
    masks, labels = blobs()
    candidates = generate_masks(sam, sam.encode(IMAGE), GRID, points_at_once=32)
    stack = np.stack([candidates[j] for j in range(len(candidates))])
    expected = match_masks(masks, stack, iom_threshold=0.6, overlap_floor=0.05, iou_threshold=0.1)
    rules = SamRules("automatic", MatchRules(0.6, 0.05, 0.1), GRID, parts=8, at_once=32)
    scores = np.array([0.3, 0.9, 0.5])
    refined, decisions = refine(SamRefiner(sam, rules), IMAGE, masks, scores)
    np.testing.assert_array_equal(refined, expected)
    assert set(decisions) == {0, 1, 2}
    painted = np.zeros_like(labels)
    for i in (0, 2, 1):  # rising scores
        painted[expected[i]] = i + 1
    np.testing.assert_array_equal(refine(SamRefiner(sam, rules), IMAGE, labels, scores)[0], painted)


@pytest.mark.parametrize("rules", [PROMPTS, AUTOMATIC])
def test_the_order_of_the_texts_does_not_matter(sam, rules):
    masks, _ = blobs(seed=3)
    scores = np.array([0.3, 0.9, 0.5])
    order = [2, 0, 1]
    straight, _ = refine(SamRefiner(sam, rules), IMAGE, masks, scores)
    turned, _ = refine(SamRefiner(sam, rules), IMAGE, masks[order], scores[order])
    np.testing.assert_array_equal(straight[order], turned)


@pytest.mark.parametrize("rules", [PROMPTS, AUTOMATIC])
@pytest.mark.parametrize("size_hw", [(1, 40), (40, 1), (1, 1)])
def test_images_of_one_line_work(sam, rules, size_hw):
    image = np.zeros((*size_hw, 3), np.uint8)
    refined, _ = refine(SamRefiner(sam, rules), image, np.ones((1, *size_hw), bool), SCORES[:1])
    assert refined.shape == (1, *size_hw)


def test_where_sam_finds_nothing_all_masks_stay(sam):
    masks, labels = blobs()
    rules = SamRules("automatic", MATCHING, AutomaticRules(2, 1e6, 0.9, 0.7), parts=8, at_once=32)
    refined, decisions = refine(SamRefiner(sam, rules), IMAGE, masks, np.ones(3))
    np.testing.assert_array_equal(refined, masks)
    assert {one.reason for one in decisions.values()} == {"kept: SAM found no mask in this image"}
    np.testing.assert_array_equal(refine(SamRefiner(sam, rules), IMAGE, labels, np.ones(3))[0], labels)


def test_automatic_masks_are_made_once_per_image(sam, tmp_path, monkeypatch):
    masks, _ = blobs()
    first, _ = refine(SamRefiner(sam, AUTOMATIC, cache=tmp_path), IMAGE, masks, np.ones(3))
    monkeypatch.setattr(sam, "encode", lambda image: pytest.fail("encoded again"))
    again, _ = refine(SamRefiner(sam, AUTOMATIC, cache=tmp_path), IMAGE, masks, np.ones(3))
    np.testing.assert_array_equal(first, again)
    assert len(list(tmp_path.glob("*.npz"))) == 1


@pytest.mark.parametrize("rules", [PROMPTS, AUTOMATIC])
def test_an_image_is_encoded_when_it_is_first_asked_about_and_once(sam, rules, monkeypatch):
    encoded, encode = [], sam.encode
    monkeypatch.setattr(sam, "encode", lambda image: encoded.append(1) or encode(image))
    refiner = SamRefiner(sam, rules)
    image = refiner.encode_image(IMAGE)
    assert not encoded
    first, _ = refiner.refine(image, blobs()[0], np.ones(3))
    second, _ = refiner.refine(image, blobs()[0], np.ones(3))
    np.testing.assert_array_equal(first, second)
    assert len(encoded) == 1


def test_it_is_a_mask_replacer(sam):
    assert isinstance(SamRefiner(sam, PROMPTS), MaskReplacer)
