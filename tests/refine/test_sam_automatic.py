"""Automatic masks against the pieces of transformers' pipeline, and how they are held and kept."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamHQModel, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.pipelines import MaskGenerationPipeline

from clip_as_rnn.refine.sam.automatic import AutomaticMasks, AutomaticRules, generate_masks, point_grid
from clip_as_rnn.refine.sam.boxes import mask_box, suppress_boxes
from clip_as_rnn.refine.sam.mask_cache import cache_name, mask_cache_folder, read_masks, write_masks
from clip_as_rnn.refine.sam.runs import run_lengths
from clip_as_rnn.refine.sam.weights import load_sam
from random_sam import save_random_sam

CPU = torch.device("cpu")
LOOSE = AutomaticRules(points_per_side=4, predicted_iou=-9, stability=-9, box_nms=1.0)


def photo(size_hw=(40, 60), seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    rows, columns = (np.arange(side) * 5 // side for side in size_hw)
    return coarse[rows][:, columns]


@pytest.fixture(scope="module", params=["sam", "sam_hq", "sam2"])
def sam(request, tmp_path_factory):
    return load_sam(save_random_sam(tmp_path_factory.mktemp("sam"), request.param), device=CPU, dtype=torch.float32)


def generate(sam, image, rules=LOOSE, at_once=64):
    return generate_masks(sam, sam.encode(image), rules, points_at_once=at_once)


def of_the_pipeline(model, image, rules):
    """Run transformers' mask generation but for its last step, which needs torchvision; ours takes its place."""
    processor = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    pipeline = MaskGenerationPipeline(model=model, image_processor=processor)
    filters = {"pred_iou_thresh": rules.predicted_iou, "stability_score_thresh": rules.stability}
    masks, scores, boxes = [], [], []
    for batch in pipeline.preprocess(Image.fromarray(image), points_per_crop=rules.points_per_side):
        with torch.inference_mode():
            answer = pipeline._forward(batch, **filters)
        masks += answer["masks"]
        scores.append(answer["iou_scores"])
        boxes.append(answer["boxes"])
    scores, boxes = torch.cat(scores), torch.cat(boxes)
    kept = suppress_boxes(boxes, scores, rules.box_nms)
    return [decode_columns(masks[i]) for i in kept], scores[kept], boxes[kept]


def decode_columns(rle):
    """Decode uncompressed run lengths, column by column."""
    values = np.repeat(np.arange(len(rle["counts"])) % 2 == 1, rle["counts"])
    return values.reshape(rle["size"][::-1]).T


@pytest.mark.parametrize("rules", [LOOSE, AutomaticRules(5, 0.2, 0.3, 0.7)])
@pytest.mark.parametrize(("kind", "model_class"), [("sam", SamModel), ("sam_hq", SamHQModel)])
def test_equals_the_pipeline_of_transformers(tmp_path, monkeypatch, kind, model_class, rules):
    folder = save_random_sam(tmp_path, kind)
    found = generate(load_sam(folder, device=CPU, dtype=torch.float32), photo(), rules)
    model = model_class.from_pretrained(folder)
    if kind == "sam_hq":  # transformers' draws three masks per point, the best one first; HQ-SAM's own that one alone
        forward = model.forward

        def draw_one(**inputs):
            answer = forward(**inputs)
            return {"pred_masks": answer.pred_masks[:, :, :1], "iou_scores": answer.iou_scores[:, :, :1]}

        monkeypatch.setattr(model, "forward", draw_one)
    masks, scores, boxes = of_the_pipeline(model, photo(), rules)
    assert len(found) == len(masks) > 0
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert np.mean([(found[i] == mask).mean() for i, mask in enumerate(masks)]) > 0.999
    np.testing.assert_allclose(found.boxes, boxes, atol=1)


def test_points_lie_half_a_step_from_the_borders():
    grid = point_grid(2, (40, 60))
    assert grid.tolist() == [[15, 10], [45, 10], [15, 30], [45, 30]]


def test_masks_fall_in_predicted_iou_and_carry_their_boxes(sam):
    found = generate(sam, photo())
    assert (np.diff(found.scores) <= 0).all()
    for i in range(len(found)):
        np.testing.assert_array_equal(found.boxes[i], mask_box(found[i]))


def test_the_batch_changes_nothing(sam):
    together, apart = generate(sam, photo()), generate(sam, photo(), at_once=3)
    np.testing.assert_allclose(together.scores, apart.scores, atol=1e-5)
    assert np.mean([(together[i] == apart[i]).mean() for i in range(len(together))]) > 0.99


def test_filters_of_zero_or_less_are_off(sam):
    """Even masks without a pixel survive then, as in transformers."""
    per_point = 1 if sam.family == "sam_hq" else 3
    assert len(generate(sam, photo(), AutomaticRules(3, 0.0, 0.0, 1.0))) == 9 * per_point


def test_a_filter_that_nothing_passes_leaves_no_masks(sam):
    found = generate(sam, photo(), AutomaticRules(3, 1e6, 0.0, 0.7))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


@pytest.mark.parametrize("size_hw", [(1, 50), (50, 1), (1, 1)])
def test_images_of_one_line_work(sam, size_hw):
    found = generate(sam, photo(size_hw))
    assert all(found[i].shape == size_hw for i in range(len(found)))


def test_a_large_image_never_holds_many_masks_at_once(sam):
    """48 masks of 2000x1500 would take 144 MB as booleans and 576 MB as logits."""
    image = photo((1500, 2000))
    encoded = sam.encode(image)
    tracemalloc.start()
    found = generate_masks(sam, encoded, LOOSE, points_at_once=16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) > 10
    assert peak < 40e6


def test_masks_return_from_the_disk_as_they_were(sam, tmp_path):
    found = generate(sam, photo())
    file = tmp_path / "deep" / cache_name(sam, photo(), LOOSE)
    assert read_masks(file, (40, 60)) is None
    write_masks(file, found)
    again = read_masks(file, (40, 60))
    np.testing.assert_array_equal(again.boxes, found.boxes)
    np.testing.assert_array_equal(again.scores, found.scores)
    for i in range(len(found)):
        np.testing.assert_array_equal(again[i], found[i])


def test_what_the_masks_depend_on_names_the_file(sam, tmp_path):
    names = {
        cache_name(sam, photo(), LOOSE),
        cache_name(sam, photo(seed=1), LOOSE),
        cache_name(sam, photo().reshape(60, 40, 3), LOOSE),
        cache_name(sam, photo(), AutomaticRules(5, -9, -9, 1.0)),
        cache_name(load_sam(save_random_sam(tmp_path, "sam", seed=7), device=CPU, dtype=torch.float32), photo(), LOOSE),
    }
    assert len(names) == 5
    assert cache_name(sam, photo(), LOOSE) in names


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_damaged_file_is_ignored(sam, tmp_path, keep):
    file = tmp_path / "masks.npz"
    write_masks(file, generate(sam, photo()))
    assert read_masks(file, (40, 60)) is not None
    file.write_bytes(file.read_bytes()[:keep])
    assert read_masks(file, (40, 60)) is None


def test_a_file_whose_lists_differ_is_ignored(tmp_path):
    file = tmp_path / "masks.npz"
    one = {"size_hw": (1, 4), "counts": np.array([1]), "runs": np.array([4]), "boxes": np.zeros((1, 4), np.int64)}
    np.savez(file, **one, scores=np.ones(1))
    assert len(read_masks(file, (1, 4))) == 1
    np.savez(file, **one, scores=np.ones(2))
    assert read_masks(file, (1, 4)) is None


@pytest.mark.parametrize(("runs", "size_hw"), [([3], (1, 4)), ([4], (2, 2)), ([-1, 5], (1, 4))])
def test_a_file_whose_masks_are_not_of_the_images_size_is_ignored(tmp_path, runs, size_hw):
    file = tmp_path / "masks.npz"
    one = {"size_hw": (1, 4), "counts": np.array([len(runs)]), "runs": np.array(runs)}
    np.savez(file, **one, boxes=np.zeros((1, 4), np.int64), scores=np.ones(1))
    assert read_masks(file, size_hw) is None


def test_a_flipped_byte_is_ignored_or_changes_nothing(tmp_path):
    file = tmp_path / "masks.npz"
    mask = np.random.default_rng(0).random((12, 15)) > 0.5
    write_masks(file, AutomaticMasks((12, 15), (run_lengths(mask),), np.zeros((1, 4), np.int64), np.ones(1)))
    whole = file.read_bytes()
    for i in range(0, len(whole), 3):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        known = read_masks(file, (12, 15))
        assert known is None or (known[0] == mask).all()


def test_a_pickle_is_not_opened(tmp_path):
    file = tmp_path / "masks.npz"
    np.savez(file, size_hw=(4, 4), counts=np.array([1]), runs=np.array([{}]), boxes=[], scores=[])
    assert read_masks(file, (40, 60)) is None


def test_no_masks_return_as_none(sam, tmp_path):
    write_masks(tmp_path / "masks.npz", generate(sam, photo(), AutomaticRules(2, 1e6, 0.0, 0.7)))
    assert len(read_masks(tmp_path / "masks.npz", (40, 60))) == 0


def test_a_folder_that_cannot_be_written_costs_time_only(sam, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file, no folder")
    with caplog.at_level("INFO"):
        write_masks(tmp_path / "taken" / "masks.json", generate(sam, photo()))
    assert "were not written" in caplog.text


def test_nothing_is_kept_unless_a_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("CLIP_AS_RNN_SAM_CACHE", raising=False)
    assert mask_cache_folder() is None
    monkeypatch.setenv("CLIP_AS_RNN_SAM_CACHE", str(tmp_path))
    assert mask_cache_folder() == tmp_path
    monkeypatch.setenv("CLIP_AS_RNN_SAM_CACHE", "off")
    assert mask_cache_folder() is None
