"""The CAM that training differentiates is the one that the package computes frozen, and its loss tells maps apart."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from test_training_run import PLAN, _size
from training.cam import cam_loss, cam_maps, merge_namesakes
from training.checkpoint import load_progress
from training.concepts import CONCEPTS
from training.export import export_clip
from training.run import take_step
from training.scenes import SpriteSheet
from training.sprites import SPRITE_SIDE_PX, Sprites
from training.texts import make_tokenizer
from training.towers import Clip

from clip_as_rnn.encoders.hub import load_encoder
from clip_as_rnn.proposals.grad_cam import differentiate_logits

DEVICE = torch.device("cpu")


def test_the_trained_cam_is_the_one_of_the_package(tmp_path: Path):
    tokenizer = make_tokenizer(tmp_path / "words")
    torch.manual_seed(0)
    model = Clip(_size(tokenizer)).eval()
    export_clip(model, tmp_path / "words", tmp_path / "clip")
    model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    frozen = load_encoder(tmp_path / "clip", device=DEVICE, dtype=torch.float32)
    image = torch.rand(1, 3, 48, 32)
    texts = torch.nn.functional.normalize(torch.randn(3, 64), dim=-1)
    features = model.vision(image)
    padded = 10 * torch.cat([texts, texts[:1]])[None]  # the last is not asked and must not count
    asked = torch.tensor([[True, True, True, False]])
    ours = cam_maps(model.vision, features.last_input, padded, asked)[0, :3]
    view = frozen.encode_patches(image, attention_layers=0)[0]
    _, directions = differentiate_logits(view.pooled, texts, 10.0)
    relative = (directions - directions.mean(0)).float()
    theirs = frozen.pooled_gradient(view, relative) @ view.activations.T * len(view.activations)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_the_loss_is_small_where_maps_lie_on_their_objects():
    owners = torch.zeros(1, 6, 3)
    owners[0, :2, 1] = owners[0, 2:4, 2] = owners[0, 4:, 0] = 1
    right = torch.tensor([[[1.0, 1, -1, -1, -1, -1], [-1, -1, 1, 1, -1, -1]]])
    present = torch.ones(1, 2, dtype=torch.bool)
    assert cam_loss(right, owners, present) < 0.3 < cam_loss(right.flip(1), owners, present)


def test_texts_that_are_not_there_do_not_count():
    owners = torch.zeros(1, 6, 3)
    owners[0, :2, 1] = owners[0, 2:, 0] = 1
    maps = torch.tensor([[[1.0, 1, -1, -1, -1, -1]]])
    alone = cam_loss(maps, owners[..., :2], torch.tensor([[True]]))
    padded = cam_loss(torch.cat([maps, 100 * maps.flip(2)], 1), owners, torch.tensor([[True, False]]))
    torch.testing.assert_close(padded, alone)


def test_a_scene_that_shows_nothing_has_no_slope():
    maps = torch.randn(1, 2, 6, requires_grad=True)
    owners = torch.zeros(1, 6, 3)
    owners[..., 0] = 1
    cam_loss(maps, owners, torch.zeros(1, 2, dtype=torch.bool)).backward()
    assert maps.grad is not None
    assert not maps.grad.any()


def test_two_objects_of_one_name_are_one():
    owners = torch.tensor([[[0.5, 0.2, 0.0, 0.3, 0.0]]])  # one patch, four slots
    merged, present = merge_namesakes(owners, torch.tensor([[7, 9, 7, -1]]))
    torch.testing.assert_close(merged, torch.tensor([[[0.5, 0.5, 0.0, 0.0, 0.0]]]))
    assert present.tolist() == [[True, True, False, False]]


def test_a_step_with_the_cam_loss_moves_the_last_block(tmp_path: Path):
    rgba = np.random.default_rng(0).integers(0, 256, (4, SPRITE_SIDE_PX, SPRITE_SIDE_PX, 4), dtype=np.uint8)
    sheet = SpriteSheet(Sprites(rgba, np.arange(4), np.zeros(4, dtype=int)), torch.ones(len(CONCEPTS)), DEVICE)
    tokenizer = make_tokenizer(tmp_path)
    plan = dataclasses.replace(PLAN, cam_weight=1.0, patch_weight=0.0)
    progress = load_progress(tmp_path, plan, _size(tokenizer), DEVICE)
    before = progress.model.vision.blocks[-1].qkv.weight.clone()
    found = take_step(progress, plan, sheet, tokenizer)
    assert np.isfinite(found["cam"])
    assert not torch.equal(progress.model.vision.blocks[-1].qkv.weight, before)
