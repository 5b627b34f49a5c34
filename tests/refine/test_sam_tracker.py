"""Masks followed by our SAM 2 against transformers' own propagation, on a small random model."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from clip_as_rnn.errors import InputError, WeightsError
from clip_as_rnn.refine.base import MaskTracker
from clip_as_rnn.refine.sam.frame import prepare_pixels
from clip_as_rnn.refine.sam.model import Sam
from clip_as_rnn.refine.sam.refiner import ImageForSam
from clip_as_rnn.refine.sam.tracker import SamTracker, prompt_of
from clip_as_rnn.refine.sam.weights import load_sam
from random_sam import random_model, save_random_sam

CPU = torch.device("cpu")
SIZE_HW = (40, 60)
COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_sam(tmp_path_factory.mktemp("sam2"), "sam2_video")


@pytest.fixture(scope="module")
def sam(folder):
    return load_sam(folder, device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def photos():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8) for _ in range(COUNT)]


def images_of(sam, photos):
    return [ImageForSam(photo, sam, lambda _: pytest.fail("asked for a grid")) for photo in photos]


MASK = np.zeros(SIZE_HW, bool)
MASK[10:25, 20:40] = True


def propagate(model, sam, photos, start, *, reverse):
    """Let transformers go through a clip from one frame; the frames behind the first, in the order gone through."""
    video = torch.cat([prepare_pixels(photo, sam.preprocessing) for photo in photos])
    padding = video[:1].expand(16, -1, -1, -1)  # with fewer frames it would see how few there are
    session = Sam2VideoInferenceSession(video=torch.cat([video, padding]), dtype=torch.float32)
    session.add_mask_inputs(session.obj_id_to_idx(1), start, prompt_of(MASK, sam.preprocessing.side_px))
    session.obj_with_new_inputs = [1]
    model(session, frame_idx=start)
    most = start if reverse else len(photos) - 1 - start
    answers = model.propagate_in_video_iterator(session, start, max_frame_num_to_track=most, reverse=reverse)
    grown = [
        torch.nn.functional.interpolate(answer.pred_masks, SIZE_HW, mode="bilinear", align_corners=False)[0, 0]
        for answer in answers
    ]
    return [(one > 0).numpy() for one in grown[1:]]


@pytest.mark.parametrize(("start", "order"), [(1, range(1, COUNT)), (4, range(4, -1, -1))])
def test_masks_are_followed_as_transformers_propagates_them(sam, photos, start, order):
    theirs = propagate(random_model("sam2_video"), sam, photos, start, reverse=order.step < 0)
    ours = list(SamTracker(sam).follow((images_of(sam, photos)[t] for t in order), MASK))
    assert len(ours) == len(theirs) == len(order) - 1
    for one, other in zip(ours, theirs, strict=True):
        assert other.any()
        np.testing.assert_array_equal(one, other)


def test_every_frame_is_encoded_once_and_when_its_mask_is_asked_for(sam, photos, monkeypatch):
    encoded, encode = [], Sam.encode
    monkeypatch.setattr(Sam, "encode", lambda sam, image: encoded.append(1) or encode(sam, image))
    images = images_of(sam, photos)
    followed = SamTracker(sam).follow(images, MASK)
    next(followed)
    assert len(encoded) == 2
    assert len(list(followed)) == COUNT - 2
    list(SamTracker(sam).follow(images, MASK))
    assert len(encoded) == COUNT


def test_following_leaves_nothing_behind(sam, photos):
    first, second = (list(SamTracker(sam).follow(images_of(sam, photos), MASK)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_what_is_out_of_sight_has_no_mask(sam, photos, monkeypatch):
    decide = type(sam.memory.mask_decoder).forward

    def see_nothing(decoder, *arguments, **named):
        masks, scores, tokens, there = decide(decoder, *arguments, **named)
        return masks, scores, tokens, torch.full_like(there, -1.0)

    monkeypatch.setattr(type(sam.memory.mask_decoder), "forward", see_nothing)
    assert list(SamTracker(sam).follow(images_of(sam, photos), MASK)) == [None] * (COUNT - 1)


def test_what_is_kept_of_the_frames_does_not_grow(sam, photos, monkeypatch):
    monkeypatch.setattr(sam.memory.config, "max_object_pointers_in_encoder", 3)
    monkeypatch.setattr(sam.memory, "num_maskmem", 3)
    sessions, forward = [], type(sam.memory).forward

    def watch(model, session, **named):
        sessions.append(session)
        return forward(model, session, **named)

    monkeypatch.setattr(type(sam.memory), "forward", watch)
    for _ in SamTracker(sam).follow(images_of(sam, photos * 3), MASK):
        outputs = sessions[-1].output_dict_per_obj[0]
        held = [*outputs["cond_frame_outputs"].values(), *outputs["non_cond_frame_outputs"].values()]
        assert len(held) <= 1 + 4
        assert sum("high_res_masks" in one for one in held) <= 1
        assert len(sessions[-1].processed_frames) <= 1
    assert len(sessions) == 3 * COUNT
    assert sessions[0].inference_state_device == sam.device  # not on the CPU and back


def test_half_precision_follows_too(folder, photos):
    half = load_sam(folder, device=CPU, dtype=torch.bfloat16)
    masks = list(SamTracker(half).follow(images_of(half, photos), MASK))
    exact = load_sam(folder, device=CPU, dtype=torch.float32)
    wanted = list(SamTracker(exact).follow(images_of(exact, photos), MASK))
    assert np.mean(np.stack(masks[:2]) == np.stack(wanted[:2])) > 0.9


def test_a_prompt_has_the_pixels_that_are_half_covered_or_the_best_there_are():
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    assert prompt_of(mask, 16)[0, 0].sum() == pytest.approx(64, abs=8)
    speck = np.zeros((64, 64), bool)
    speck[30, 30] = True
    assert prompt_of(speck, 8).sum() == 1
    assert prompt_of(mask, 8).unique().tolist() == [0, 1]


def test_an_empty_mask_is_an_empty_prompt():
    assert prompt_of(np.zeros((8, 8), bool), 16).sum() == 0


def test_only_a_model_for_clips_has_a_memory(tmp_path, sam):
    assert isinstance(SamTracker(sam), MaskTracker)
    for family in ("sam", "sam2"):
        assert load_sam(save_random_sam(tmp_path / family, family), device=CPU, dtype=torch.float32).memory is None


def copy_of(folder, target, **changes):
    save_random_sam(target, "sam2_video")
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory_fuser_embed_dim": 64}, "has the memory_fuser_embed_dim 64, but the other parts of this SAM want 128"),
        ({"image_size": 64}, "has the image_size 64, but the other parts of this SAM want 128"),
        ({"image_size": [128, 64]}, r"has the image_size \[128, 64\], but the other parts of this SAM want 128"),
        ({"image_size": []}, "cannot be read"),
        (
            {"sigmoid_scale_for_mem_enc": float("nan")},
            "has the sigmoid_scale_for_mem_enc nan, but no SAM has one beyond",
        ),
        ({"sigmoid_bias_for_mem_enc": 1e39}, r"has the sigmoid_bias_for_mem_enc 1e\+39, but no SAM has one beyond"),
        ({"rope_parameters": {"rope_theta": 0}}, "has the rope_theta 0.0, but no SAM 2 has one below 1 or above"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "has the rope_theta nan, but no SAM 2 has one"),
        ({"max_object_pointers_in_encoder": 1}, "max_object_pointers_in_encoder 1, but it must be 0, or 2 and more"),
        (
            {"memory_attention_num_layers": 1},
            r"it holds the weight memory_attention\.layers\.1\.\S+ and \d+ more, which",
        ),
        (
            {"memory_fuser_num_layers": 0},
            r"it holds the weight memory_encoder\.memory_fuser\.layers\.0\.\S+ and \d+ more",
        ),
        (
            {"enable_occlusion_spatial_embedding": False},
            "it holds the weight occlusion_spatial_embedding_parameter, which",
        ),
        (
            {"mask_downsampler_kernel_size": 5, "mask_downsampler_padding": 2},
            "has the size 4 x 1 x 3 x 3, but config.json asks for 4 x 1 x 5 x 5",
        ),
        ({"memory_attention_rope_feat_sizes": [64, 64]}, r"sizes \[64, 64\], but the other parts of this SAM want \[8"),
        ({"memory_encoder_output_channels": 32}, "output_channels 32, but the other parts of this SAM want 64"),
        ({"memory_attention_num_layers": 0}, "memory_attention_num_layers 0, but the other parts of this SAM want 1"),
        ({"memory_attention_num_attention_heads": 3}, "attention_heads 3, but the other parts of this SAM want 1"),
        ({"memory_fuser_padding": 1}, "memory_fuser_padding 1, but the other parts of this SAM want 3"),
        ({"memory_attention_num_layers": 10**6}, "memory_attention_num_layers 1000000, but no SAM has one"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters that no SAM 2 has"),
        ({"num_maskmem": "many"}, "cannot be read"),
    ],
)
def test_a_memory_that_does_not_fit_is_told_before_the_first_frame(folder, tmp_path, changes, said):
    with pytest.raises(WeightsError, match=said):
        load_sam(copy_of(folder, tmp_path, **changes), device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("changes", [{"image_size": [128, 128]}, {"max_object_pointers_in_encoder": 0}])
def test_what_transformers_allows_besides_follows_masks_too(folder, tmp_path, photos, changes):
    odd = load_sam(copy_of(folder, tmp_path, **changes), device=CPU, dtype=torch.float32)
    assert all(mask.any() for mask in SamTracker(odd).follow(images_of(odd, photos[:3]), MASK))


def test_a_memory_that_lacks_weights_is_told_before_the_first_frame(folder, tmp_path):
    copy_of(folder, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("memory_attention")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"it lacks the weight memory_attention\.\S+ and \d+ more\.$"):
        load_sam(tmp_path, device=CPU, dtype=torch.float32)


def test_too_little_memory_is_one_sentence(sam, photos, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(sam.memory.memory_attention), "forward", fail)
    with pytest.raises(
        InputError, match=r"^There is too little memory for following a mask with this SAM on cpu; take"
    ):
        list(SamTracker(sam).follow(images_of(sam, photos), MASK))
