"""Our SAM against transformers' own pieces, on small random models of every family."""

import numpy as np
import pytest
import torch
from transformers import SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from clip_as_rnn.errors import InputError
from clip_as_rnn.refine.sam.frame import Preprocessing, place, prepare_pixels
from clip_as_rnn.refine.sam.model import Sam, explain_lack_of_memory
from clip_as_rnn.refine.sam.weights import load_sam
from random_sam import FAMILIES, random_model, save_random_sam

CPU = torch.device("cpu")
SIZES = [
    (40, 60),
    (61, 33),
    (64, 64),
    (7, 200),
    (1, 5),
    (130, 97),
    (100, 100),
]  # the last one is square, and no side of SAM's
SIDES = {"sam": 64, "sam_hq": 64, "sam2": 128}


def processor(side_px):
    sizes = {"size": {"longest_edge": side_px}, "pad_size": {"height": side_px, "width": side_px}}
    return SamProcessor(SamImageProcessorPil(**sizes))


def photo(size_hw=(40, 60), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """Our model and transformers' of the same weights."""
    folder = save_random_sam(tmp_path_factory.mktemp(request.param), request.param)
    return load_sam(folder, device=CPU, dtype=torch.float32), random_model(request.param)


def prompts_for(sam, count, size_hw=(40, 60)):
    generator = np.random.default_rng(1)
    corners = np.sort(generator.uniform(0, 1, (count, 2, 2)), axis=1) * np.array(size_hw[::-1])
    side = sam.preprocessing.mask_side_px
    return corners.reshape(count, 4), torch.from_numpy(generator.normal(0, 5, (count, side, side))).float()


@pytest.mark.parametrize("size_hw", SIZES)
def test_images_are_prepared_as_transformers_does(size_hw):
    preprocessing = Preprocessing(64, 16, True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    theirs = processor(64)(photo(size_hw), return_tensors="pt", input_data_format="channels_last")
    torch.testing.assert_close(prepare_pixels(photo(size_hw), preprocessing), theirs["pixel_values"], atol=2e-6, rtol=0)
    assert place(size_hw, preprocessing).inner_hw == tuple(theirs["reshaped_input_sizes"][0].tolist())


@pytest.mark.parametrize("size_hw", SIZES)
def test_boxes_and_points_are_scaled_as_transformers_does(size_hw):
    preprocessing = Preprocessing(64, 16, True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    box = [[0.0, 0.0, size_hw[1] - 1.0, size_hw[0] / 2]]
    given = {"input_boxes": [box], "input_points": [[[box[0][2:]]]], "input_data_format": "channels_last"}
    theirs = processor(64)(photo(size_hw), **given, return_tensors="pt")
    ours = place(size_hw, preprocessing).scale_positions(np.array(box).reshape(-1, 2))
    torch.testing.assert_close(ours.reshape(1, 1, 4), theirs["input_boxes"].float())
    torch.testing.assert_close(ours[1:].reshape(1, 1, 1, 2), theirs["input_points"].float())


@pytest.mark.parametrize("size_hw", SIZES)
def test_logits_are_grown_as_transformers_does(size_hw):
    preprocessing = Preprocessing(64, 16, True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    frame = place(size_hw, preprocessing)
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    sizes = [list(frame.size_hw)], [list(frame.inner_hw)]
    theirs = processor(64).image_processor.post_process_masks(logits[None, None], *sizes, binarize=False)[0][0]
    torch.testing.assert_close(frame.grow_logits(logits), theirs)


@pytest.mark.parametrize("size_hw", SIZES)
def test_sam_2_squeezes_the_image_into_its_square(size_hw):
    """Its processor needs torchvision; the filter is that of torch, whose rounding differs by a gray level at most."""
    preprocessing = Preprocessing(64, 16, False, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    image = torch.from_numpy(photo(size_hw)).permute(2, 0, 1)[None]
    squeezed = torch.nn.functional.interpolate(image.float(), (64, 64), mode="bilinear", antialias=True) / 255
    torch.testing.assert_close(prepare_pixels(photo(size_hw), preprocessing), squeezed, atol=1.01 / 255, rtol=0)
    frame = place(size_hw, preprocessing)
    corner = frame.scale_positions(np.array([[size_hw[1], size_hw[0]]], dtype=float))
    assert corner.tolist() == [[64, 64]]
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.functional.interpolate(logits[None], size_hw, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(frame.grow_logits(logits), theirs)


def test_a_soft_mask_is_averaged_where_the_image_lies():
    frame = place((32, 64), Preprocessing(64, 16, True, (0, 0, 0), (1, 1, 1)))
    soft = np.zeros((16, 32), np.float32)
    soft[:8, :16] = 1
    square = frame.shrink_map(soft, outside=-3.0)
    assert square.shape == (16, 16)
    assert (square[8:] == -3).all()
    np.testing.assert_array_equal(square[:8], np.pad(np.ones((4, 8)), ((0, 4), (0, 8))))


def reference(model, sam, image, **prompts):
    """Run transformers' model as its documentation says, from pixels."""
    pixels = prepare_pixels(image, sam.preprocessing)
    with torch.inference_mode():
        return model(pixel_values=pixels, **prompts)


def test_points_give_the_logits_of_transformers(pair):
    sam, model = pair
    points = np.array([[3.0, 4.0], [30.0, 20.0], [59.0, 39.0]])
    answer = sam.decode_points(sam.encode(photo()), points)
    positions = place((40, 60), sam.preprocessing).scale_positions(points)
    theirs = reference(model, sam, photo(), input_points=positions[None, :, None])
    kept = 1 if sam.family == "sam_hq" else 3
    torch.testing.assert_close(answer.logits, theirs.pred_masks[0, :, :kept], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answer.scores, theirs.iou_scores[0, :, :kept], atol=1e-5, rtol=1e-4)


def test_a_box_with_a_mask_gives_the_logits_of_transformers(pair):
    sam, model = pair
    boxes, logits = prompts_for(sam, 1)
    answer = sam.decode_boxes(sam.encode(photo()), boxes, logits)
    corners = place((40, 60), sam.preprocessing).scale_positions(boxes.reshape(-1, 2)).reshape(1, 1, 4)
    theirs = reference(model, sam, photo(), input_boxes=corners, input_masks=logits[:, None])
    kept = 1 if sam.family == "sam_hq" else 3
    torch.testing.assert_close(answer.logits, theirs.pred_masks[0, :, :kept], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answer.scores, theirs.iou_scores[0, :, :kept], atol=1e-5, rtol=1e-4)


def test_embeddings_are_those_of_transformers(pair):
    sam, model = pair
    encoded = sam.encode(photo())
    theirs = model.get_image_embeddings(prepare_pixels(photo(), sam.preprocessing))
    if sam.family == "sam_hq":
        torch.testing.assert_close(encoded.details[0], theirs[1][0])
    if sam.family == "sam2":
        torch.testing.assert_close(list(encoded.details), theirs[:-1])
    features = {"sam": lambda: theirs, "sam_hq": lambda: theirs[0], "sam2": lambda: theirs[-1]}[sam.family]()
    torch.testing.assert_close(encoded.features, features)


def test_boxes_with_masks_in_one_batch_equal_one_by_one(pair):
    sam, _ = pair
    encoded = sam.encode(photo())
    boxes, logits = prompts_for(sam, 5)
    together = sam.decode_boxes(encoded, boxes, logits)
    for i in range(5):
        alone = sam.decode_boxes(encoded, boxes[i : i + 1], logits[i : i + 1])
        torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.scores[i], alone.scores[0], atol=1e-5, rtol=1e-4)


def test_hq_sam_draws_the_one_mask_of_its_own_decoder(tmp_path):
    """The best of SAM's three by predicted IoU, plus the logits of the HQ token (SysCV/sam-hq, mask_decoder_hq.py)."""
    sam = load_sam(save_random_sam(tmp_path, "sam_hq"), device=CPU, dtype=torch.float32)
    model = random_model("sam_hq")
    points = np.array([[3.0, 4.0], [30.0, 20.0]])
    positions = place((40, 60), sam.preprocessing).scale_positions(points)[None, :, None]
    every = reference(model, sam, photo(), input_points=positions, multimask_output=True)
    hq_alone = reference(model, sam, photo(), input_points=positions, hq_token_only=True).pred_masks
    answer = sam.decode_points(sam.encode(photo()), points)
    assert answer.logits.shape[1] == 1
    best = every.iou_scores[0].argmax(1)
    chosen = (every.pred_masks - hq_alone)[0, torch.arange(2), best] + hq_alone[0, :, 0]
    torch.testing.assert_close(answer.logits[:, 0], chosen, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answer.scores[:, 0], every.iou_scores[0].amax(1))


def test_half_precision_changes_few_pixels(pair, tmp_path):
    precise, _ = pair
    sam = load_sam(save_random_sam(tmp_path, precise.family), device=CPU, dtype=torch.bfloat16)
    assert sam.dtype == torch.bfloat16
    points = np.array([[3.0, 4.0], [30.0, 20.0]])
    half, full = (one.decode_points(one.encode(photo()), points) for one in (sam, precise))
    assert half.logits.dtype == torch.float32
    assert (half.logits - full.logits).abs().mean() < 0.05 * full.logits.std()
    assert ((half.logits > 0) == (full.logits > 0)).float().mean() > 0.97


def test_an_image_leaves_no_trace_in_the_model(pair):
    sam, _ = pair
    boxes, logits = prompts_for(sam, 2)
    first = sam.encode(photo())
    before = sam.decode_boxes(first, boxes, logits).logits
    sam.decode_boxes(sam.encode(photo((61, 33), seed=5)), boxes, logits)
    torch.testing.assert_close(sam.decode_boxes(first, boxes, logits).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)."),
    ],
)
def test_too_little_memory_names_the_setting_to_lower(pair, monkeypatch, error):
    sam, _ = pair
    encoded = sam.encode(photo())

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(sam._model.mask_decoder, "forward", fail)
    with pytest.raises(
        InputError, match=r"^There is too little memory for 2 prompts .* lower `sam_prompts_at_once`\.$"
    ):
        sam.decode_boxes(encoded, *prompts_for(sam, 2))


def test_other_errors_show():
    with pytest.raises(RuntimeError, match="a bug"), explain_lack_of_memory("nothing"):
        raise RuntimeError("a bug")


def test_the_encoder_says_so_when_memory_is_short(pair, monkeypatch):
    sam, _ = pair

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sam._model, "get_image_embeddings", fail)
    with pytest.raises(
        InputError, match=r"too little memory for the image encoder of this SAM on cpu; .* \(--dtype bfloat16\)"
    ):
        sam.encode(photo())
    assert isinstance(sam, Sam)
