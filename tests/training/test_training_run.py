"""What the training promises: resumable runs, and an exported model that transformers computes alike."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from training.benchmark import Scene
from training.checkpoint import load_progress, save_milestone, save_progress
from training.concepts import CONCEPTS
from training.export import export_clip, load_trained
from training.plan import Plan, Stage
from training.run import take_step
from training.scenes import SceneRules, SpriteSheet
from training.sprites import SPRITE_SIDE_PX, Sprites
from training.texts import make_tokenizer, tokenize
from training.towers import Clip, ClipSize
from training.watch import measure_car
from transformers import AutoTokenizer, CLIPModel

from clip_as_rnn.encoders.hub import load_encoder

DEVICE = torch.device("cpu")
STAGE = Stage(start=0, sizes_hw=((32, 32), (32, 48)), rules=SceneRules(max_objects=2))
PLAN = dataclasses.replace(
    Plan(), batch=8, total_images=64, warmup_images=8, cooldown_images=16, words_every=3, stages=(STAGE,)
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def sheet() -> SpriteSheet:
    rgba = np.random.default_rng(0).integers(0, 256, (4, SPRITE_SIDE_PX, SPRITE_SIDE_PX, 4), dtype=np.uint8)
    sprites = Sprites(rgba, np.arange(4), np.zeros(4, dtype=int))
    return SpriteSheet(sprites, torch.ones(len(CONCEPTS)), DEVICE)


def _size(tokenizer) -> ClipSize:
    return ClipSize(width=64, vision_layers=2, text_layers=1, patch_px=16, image_px=48, vocabulary=len(tokenizer))


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, sheet: SpriteSheet, tokenizer):
    whole = load_progress(tmp_path / "nowhere", PLAN, _size(tokenizer), DEVICE)
    halves = load_progress(tmp_path, PLAN, _size(tokenizer), DEVICE)
    for _ in range(4):
        take_step(whole, PLAN, sheet, tokenizer)
    for _ in range(2):
        take_step(halves, PLAN, sheet, tokenizer)
    save_progress(halves, tmp_path)
    resumed = load_progress(tmp_path, PLAN, _size(tokenizer), DEVICE)
    assert resumed.seen == 16
    for _ in range(2):
        take_step(resumed, PLAN, sheet, tokenizer)
    for name, value in whole.average.state_dict().items():
        torch.testing.assert_close(resumed.average.state_dict()[name], value, msg=name)


def test_two_runs_from_one_seed_lose_the_same(tmp_path: Path, sheet: SpriteSheet, tokenizer):
    plan = dataclasses.replace(PLAN, stages=(dataclasses.replace(STAGE, rules=Plan().stages[-1].rules),))
    runs = []
    for name in ("first", "second"):
        progress = load_progress(tmp_path / name, plan, _size(tokenizer), DEVICE)
        runs.append([take_step(progress, plan, sheet, tokenizer) for _ in range(4)])
    assert runs[0] == runs[1]
    assert {"mask", "edge", "patch", "cls", "caption"} <= set(runs[0][0])


def test_the_length_decides_only_when_the_rate_falls():
    short, long = Plan(total_images=1_500_000), Plan(total_images=3_000_000)
    level = range(0, short.total_images - short.cooldown_images, 10_000)
    assert [short.rate(seen) for seen in level] == [long.rate(seen) for seen in level]
    assert [short.stage(seen) for seen in level] == [long.stage(seen) for seen in level]


def test_a_milestone_can_be_exported(tmp_path: Path, tokenizer):
    progress = load_progress(tmp_path, PLAN, _size(tokenizer), DEVICE)
    progress.seen = 300_032
    save_milestone(progress, tmp_path)
    kept = load_trained(tmp_path / "average_00300k.pt")
    assert torch.equal(kept.vision.cls, progress.average.vision.cls)
    assert not (tmp_path / "milestone.partial").exists()


def test_mask_tokens_are_those_of_the_package(tmp_path: Path, tokenizer):
    torch.manual_seed(0)
    model = Clip(_size(tokenizer)).eval()
    make_tokenizer(tmp_path / "words")
    export_clip(model, tmp_path / "words", tmp_path / "clip")
    model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    encoder = load_encoder(tmp_path / "clip", device=DEVICE, dtype=torch.float32)
    images, inside = torch.rand(1, 3, 48, 48), torch.rand(4, 3, 3) > 0.5
    theirs = encoder.encode_masks(encoder.encode_keys(images, first_block=0), [inside])[0]
    with torch.no_grad():
        features = model.vision(images, inside.flatten(1)[None])
        plain = model.vision(images)
    ours = features.masks[0]
    torch.testing.assert_close(ours, torch.nn.functional.normalize(theirs, dim=-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.cls, plain.cls)
    torch.testing.assert_close(features.patches, plain.patches)
    assert not torch.allclose(ours[0], plain.cls[0], atol=1e-3)


def test_the_learning_rate_rises_stays_and_falls():
    plan = Plan()
    assert plan.rate(0) < 0.1 * plan.peak_rate
    assert plan.rate(plan.warmup_images) == pytest.approx(plan.peak_rate)
    assert plan.rate(plan.total_images) == pytest.approx(plan.floor_rate)


def test_a_run_that_is_cut_short_reaches_the_peak_too():
    plan = Plan(total_images=100_000)
    assert max(plan.rate(seen) for seen in range(0, 100_000, 128)) == pytest.approx(plan.peak_rate)


def test_the_exported_model_computes_the_same_in_transformers(tmp_path: Path, tokenizer):
    torch.manual_seed(0)
    model = Clip(_size(tokenizer)).eval()
    words = tmp_path / "words"
    make_tokenizer(words)
    export_clip(model, words, tmp_path / "clip")
    exported = CLIPModel.from_pretrained(tmp_path / "clip", dtype=torch.float32)
    model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        hidden = exported.vision_model(images)
        patches = exported.visual_projection(exported.vision_model.post_layernorm(hidden.last_hidden_state[:, 1:]))
        features = model.vision(images)
        torch.testing.assert_close(
            torch.nn.functional.normalize(exported.visual_projection(hidden.pooler_output), dim=-1),
            features.cls,
            atol=1e-3,
            rtol=0,
        )
        torch.testing.assert_close(torch.nn.functional.normalize(patches, dim=-1), features.patches, atol=1e-3, rtol=0)
        texts = ["a cat", "This is a photo of a large soccer ball."]
        numbers = AutoTokenizer.from_pretrained(tmp_path / "clip")(texts, padding=True, return_tensors="pt")
        assert torch.equal(numbers["input_ids"], tokenize(tokenizer, texts, DEVICE))
        vectors = exported.text_projection(exported.text_model(**numbers).pooler_output)
        torch.testing.assert_close(
            torch.nn.functional.normalize(vectors, dim=-1),
            model.text(tokenize(tokenizer, texts, DEVICE)),
            atol=1e-3,
            rtol=0,
        )


def test_the_end_mark_has_the_highest_number(tokenizer):
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer("zebra crossing Straße")["input_ids"][-1] == tokenizer.eos_token_id


def test_car_itself_is_measured_while_training(tmp_path: Path, tokenizer):
    torch.manual_seed(0)
    make_tokenizer(tmp_path / "words")
    owners = np.zeros((48, 64), dtype=np.int64)
    owners[:24, :32] = 1
    scene = Scene(np.zeros((48, 64, 3), dtype=np.uint8), owners, [3], [-1])
    said = measure_car(Clip(_size(tokenizer)).eval(), tmp_path / "words", tmp_path / "latest", [scene])
    assert re.fullmatch(r"mIoU +[\d.]+  present kept +(0.0|100.0)  absent kept +[\d.]+", said)
    assert sorted(path.suffix for path in (tmp_path / "latest").iterdir()).count(".safetensors") == 1
