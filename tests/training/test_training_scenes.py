"""What the scene generator promises: exact masks, true captions, the same scenes from the same seed."""

import random

import numpy as np
import pytest
import torch
from training.concepts import BACKGROUND_TEXTS, COLORS, CONCEPTS, CORE_CONCEPTS
from training.hands import draw_by_other_hands
from training.losses import concept_shares, edge_loss, masks_target, named, owner_shares, whole_target
from training.marks import choose_masks, choose_patches, mark_images
from training.restyle import redraw
from training.scenes import SceneRules, SpriteSheet, compose
from training.sprites import HELD_OUT_STYLES, SPRITE_SIDE_PX, STYLES, Sprites
from training.texts import scene_caption, table_texts

RULES = SceneRules(max_objects=3, single_share=0.3, several_size=(0.3, 0.5), empty_share=0.1)


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    """Opaque squares, one color a concept: what is drawn can be read off the picture."""
    side = SPRITE_SIDE_PX
    rgba = np.full((8, side, side, 4), 255, dtype=np.uint8)
    rgba[..., :3] = np.random.default_rng(0).integers(0, 256, (8, 1, 1, 3))
    styles = np.array([0, 1, 2, 3, 0, 1, STYLES.index("mono"), STYLES.index("noto")])
    return Sprites(rgba, np.arange(8), styles)


@pytest.fixture(scope="module")
def sheet(sprites: Sprites) -> SpriteSheet:
    return SpriteSheet(sprites.of_styles(held_out=False), torch.ones(len(CONCEPTS)), torch.device("cpu"))


def _draw(sheet: SpriteSheet, seed: int = 3, size_hw: tuple[int, int] = (64, 96)):
    return compose(sheet, 24, size_hw, RULES, torch.Generator().manual_seed(seed))


def test_the_held_out_drawing_is_never_drawn(sprites: Sprites, sheet: SpriteSheet):
    held_out = set(sprites.of_styles(held_out=True).concept.tolist())
    assert held_out == {7}
    assert not held_out & set(_draw(sheet).concepts.unique().tolist())


def test_every_mask_belongs_to_an_object_and_no_pixel_to_two(sheet: SpriteSheet):
    scenes = _draw(sheet)
    masks = scenes.masks()
    assert masks.sum(1).max() == 1
    assert not masks[(scenes.concepts < 0)].any()
    assert scenes.images.shape == (24, 3, 64, 96)
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1


def test_a_mask_covers_exactly_the_pixels_that_the_object_changed(sprites: Sprites):
    """Squares of one flat color: inside its mask an object has one color, and the mask is a filled quadrilateral."""
    flat = Sprites(sprites.rgba[:1], sprites.concept[:1], sprites.style[:1])
    sheet = SpriteSheet(flat, torch.ones(len(CONCEPTS)), torch.device("cpu"))
    rules = SceneRules(max_objects=1, single_share=1.0, single_size=(0.5, 0.6), tint_share=0.0, empty_share=0.0)
    scenes = compose(sheet, 8, (96, 96), rules, torch.Generator().manual_seed(0))
    for image, mask in zip(scenes.images, scenes.masks()[:, 0], strict=True):
        core = torch.nn.functional.avg_pool2d(mask[None].float(), 3, 1, 1)[0] == 1
        assert image[:, core].std(1).max() < 0.02
        side = mask.sum().sqrt() / 96
        assert 0.45 < side < 0.65


def test_the_same_seed_draws_the_same_scenes(sheet: SpriteSheet):
    assert torch.equal(_draw(sheet, 5).images, _draw(sheet, 5).images)
    assert not torch.equal(_draw(sheet, 5).images, _draw(sheet, 6).images)


def test_one_color_icons_always_have_a_color(sheet: SpriteSheet):
    scenes = _draw(sheet)
    assert (scenes.colors[scenes.concepts == 6] >= 0).all()


def test_shares_of_a_patch_add_up_to_one(sheet: SpriteSheet):
    scenes = _draw(sheet)
    shares = owner_shares(scenes.owners, 3, 16)
    target = concept_shares(shares, scenes.concepts, len(CONCEPTS))
    assert target.shape == (24, 4 * 6, len(CONCEPTS) + 1)
    torch.testing.assert_close(target.sum(-1), torch.ones(24, 24))
    for marked in (True, False):
        whole = whole_target(target, torch.full((24,), marked))
        torch.testing.assert_close(whole.sum(-1), torch.ones(24))


def test_a_small_object_counts_on_a_plain_image_but_not_in_a_mark_that_shows_mostly_ground():
    target = torch.zeros(2, 36, 3)  # patches, two concepts and the background
    target[..., 2] = 1
    target[:, :2, 2] = 0
    target[:, :2, 1] = 1  # 2 of 36 patches
    whole = whole_target(target, torch.tensor([True, False]))
    assert whole.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_another_tone_curve_keeps_the_hue_of_a_tinted_object():
    gray = torch.full((40, 4, 8, 8), 0.5)
    gray[:, 3] = 1
    color = torch.arange(40) % 2 - 1  # every other one is tinted
    curved = redraw(gray, color, 1.0, torch.Generator().manual_seed(3))
    middle = curved[:, :3, 4, 4]
    assert middle[1::2].std(1).max() < 1e-5 < middle[::2].std(1).min()


def test_background_texts_count_as_one_class():
    logits = torch.zeros(1, 2 + 23)
    torch.testing.assert_close(named(logits, 2).exp(), torch.tensor([[1.0, 1.0, 23.0]]) / 25)
    fewer = torch.zeros(1, 2 + 10)  # stand for all 23
    torch.testing.assert_close(named(fewer, 2), named(logits, 2))


def test_a_mark_leaves_the_inside_of_the_mask_as_it_is(sheet: SpriteSheet):
    scenes = _draw(sheet)
    generator = torch.Generator().manual_seed(1)
    masks = choose_masks(scenes.owners, 3, 16, generator)
    marked = mark_images(scenes.images, masks, generator)
    inside = masks[:, None].expand_as(marked)
    assert torch.equal(marked[inside], scenes.images[inside])
    assert not torch.equal(marked[~inside], scenes.images[~inside])


@pytest.mark.parametrize("seed", range(30))
def test_a_caption_names_what_is_drawn_and_nothing_else(seed: int):
    rng = random.Random(seed)
    concepts = rng.sample(range(len(CORE_CONCEPTS)), rng.randint(1, 3))
    colors = [rng.randint(-1, len(COLORS) - 1) for _ in concepts]
    centers = [(rng.random(), rng.random()) for _ in concepts]
    caption = scene_caption(concepts, colors, centers, rng)
    named_ones = [c for c in concepts if any(name in caption for name in (CONCEPTS[c].name, *CONCEPTS[c].synonyms))]
    is_relation = any(words in caption for words in ("left of", "right of", "above", "below"))
    assert len(named_ones) >= (2 if is_relation else len(concepts))


def test_relations_in_captions_are_true():
    cat, dog = 1, 0
    captions = {scene_caption([cat, dog], [-1, -1], [(0.1, 0.5), (0.9, 0.5)], random.Random(s)) for s in range(200)}
    stated = [caption for caption in captions if "to the left of" in caption or "to the right of" in caption]
    assert stated
    cats = [name for name in (CONCEPTS[cat].name, *CONCEPTS[cat].synonyms)]
    for caption in stated:
        begins_with_cat = any(caption.startswith(f"a {name} to") for name in cats)
        assert ("to the left of" in caption) == begins_with_cat


def test_nothing_is_called_so():
    assert scene_caption([], [], [], random.Random(0)) in BACKGROUND_TEXTS


def test_the_table_asks_every_concept_once_and_in_order():
    texts = table_texts(random.Random(2))
    for concept, text in zip(CONCEPTS, texts, strict=False):
        assert any(name in text for name in (concept.name, *concept.synonyms))


@pytest.mark.parametrize("style", HELD_OUT_STYLES)
def test_no_held_out_style_is_trained_on(sprites: Sprites, style: str):
    styles = np.full(8, STYLES.index(style))
    assert not len(Sprites(sprites.rgba, sprites.concept, styles).of_styles(held_out=False).rgba)
    assert len(Sprites(sprites.rgba, sprites.concept, styles).of_style(style).rgba) == 8


def test_other_hands_change_the_inside_and_leave_the_outline():
    layers = torch.rand(64, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    layers[:, 3] = (layers[:, 3] > 0.3).float()
    layers[:, :3] *= layers[:, 3:]
    drawn = draw_by_other_hands(layers, 3.0, torch.Generator().manual_seed(1))
    assert torch.equal(drawn[:, 3], layers[:, 3])
    assert (drawn[:, :3] <= drawn[:, 3:]).all()
    assert drawn.min() >= 0
    assert ((drawn - layers).abs().amax((1, 2, 3)) > 0.05).float().mean() > 0.9
    again = draw_by_other_hands(layers, 3.0, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, again)


def test_redrawn_scenes_stay_in_range_and_their_masks_on_their_objects(sheet: SpriteSheet):
    rules = SceneRules(max_objects=2, hands=1.0, warp=0.15, redraw_share=0.4)
    scenes = compose(sheet, 16, (72, 96), rules, torch.Generator().manual_seed(5))
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1
    assert not scenes.masks()[scenes.concepts < 0].any()
    assert scenes.masks()[scenes.concepts >= 0].flatten(1).any(1).float().mean() > 0.9


def test_a_mask_shows_what_fills_it_and_not_what_strays_into_it():
    concepts = torch.zeros(1, 4, 3)  # four patches, two concepts and the background
    concepts[0, 0, 0], concepts[0, 1, 0], concepts[0, 2, 1], concepts[0, 3, 2] = 1, 1, 1, 1
    inside = torch.tensor([[[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]]).bool()
    target = masks_target(concepts, inside)[0]
    expected = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [2 / 3, 1 / 3, 0]])
    torch.testing.assert_close(target, expected)
    stray = torch.zeros(1, 20, 3)
    stray[0, :19, 0], stray[0, 19, 1] = 1, 1
    assert masks_target(stray, torch.ones(1, 1, 20).bool())[0, 0].tolist() == [1, 0, 0]


def test_pixels_are_named_best_where_patches_name_their_owner():
    owners = torch.zeros(1, 24, 24, dtype=torch.long)
    owners[:, :, 12:] = 1
    sure = torch.full((1, 4, 3), 0.01)  # two by two patches of 12 px; concept 1 on the right, background last
    sure[0, [0, 2], 2] = sure[0, [1, 3], 1] = 0.98
    concepts, weights = torch.tensor([[1, -1]]), (0.5, 1.0)
    right = edge_loss(sure.log(), owners, concepts, weights)
    assert right < 0.5 < edge_loss(sure.flip(1).log(), owners, concepts, weights)


def test_masks_of_patches_are_mostly_of_objects_and_some_of_none():
    objects = torch.zeros(64, 48, 2)
    objects[:, 10:14, 0] = objects[:, 30:36, 1] = 1.0
    masks = choose_patches(objects, 6, 8, torch.Generator().manual_seed(0)).float()
    assert masks.shape == (64, 8, 48)
    on_objects = (masks * objects.sum(2)[:, None]).sum(2) / masks.sum(2).clamp(min=1)
    assert 0.4 < (on_objects > 0.5).float().mean() < 0.8
    assert 0.1 < ((on_objects == 0) & masks.any(2)).float().mean() < 0.3
