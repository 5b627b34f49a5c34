"""What the generator of clips promises: exact masks, expressions that fit one object, one clip from one seed."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from training.clip_benchmark import ANNOTATORS, describe_clip, write_clip
from training.clips import FRAMES, Actor, cast_actors, draw_clip
from training.concepts import COLORS, CONCEPTS, CORE_CONCEPTS, CORE_COUNT
from training.paths import CLIPS
from training.scenes import SpriteSheet
from training.sprites import SPRITE_SIDE_PX, STYLES, Sprites, draw_tuning_sprites

SIZE_HW = (48, 64)
RED, BLUE = list(COLORS).index("red"), list(COLORS).index("blue")


@pytest.fixture(scope="module")
def sheet() -> SpriteSheet:
    """Opaque squares, one of each concept."""
    rgba = np.full((CORE_COUNT, SPRITE_SIDE_PX, SPRITE_SIDE_PX, 4), 255, dtype=np.uint8)
    rgba[..., :3] = np.random.default_rng(0).integers(0, 256, (CORE_COUNT, 1, 1, 3))
    return SpriteSheet(
        Sprites(rgba, np.arange(CORE_COUNT), np.zeros(CORE_COUNT, int)), torch.ones(len(CONCEPTS)), torch.device("cpu")
    )


def draw(sheet, seed):
    return draw_clip(sheet, SIZE_HW, random.Random(seed), torch.Generator().manual_seed(seed))


def test_the_same_seed_gives_the_same_clip(sheet):
    one, other = draw(sheet, 1), draw(sheet, 1)
    assert np.array_equal(one.frames, other.frames)
    assert np.array_equal(one.owners, other.owners)
    assert one.actors == other.actors


def test_every_object_shows_itself_in_the_first_frame_and_its_mask_is_where_it_is(sheet):
    for seed in range(4):
        clip = draw(sheet, seed)
        assert clip.frames.shape == (FRAMES, *SIZE_HW, 3)
        assert set(np.unique(clip.owners[0])) - {0} == set(range(1, len(clip.actors) + 1))
        top = clip.owners == len(clip.actors)  # nothing lies over it, so it has one color, but for noise and its edge
        inside = top & np.roll(top, 1, 1) & np.roll(top, -1, 1) & np.roll(top, 1, 2) & np.roll(top, -1, 2)
        shown = clip.frames[0][inside[0]].astype(float)
        assert (shown.std(axis=0) < 12).all()


def test_things_move(sheet):
    changes = [float((clip.owners[1:] != clip.owners[:-1]).mean()) for clip in (draw(sheet, seed) for seed in range(4))]
    assert max(changes) > 0.01


def test_an_expression_fits_one_object_alone():
    for seed in range(200):
        actors = cast_actors(random.Random(seed))
        said = describe_clip(actors, random.Random(seed))
        for annotator in range(ANNOTATORS):
            words = [
                (entry["exp"], int(entry["obj_id"]))
                for number, entry in said["expressions"].items()
                if int(number) % ANNOTATORS == annotator
            ]
            assert [k for _, k in words] == list(range(1, len(actors) + 1))
            assert len({text for text, _ in words} | set(said["absent"][annotator])) == len(words) + len(
                said["absent"][annotator]
            )
            for text, k in words:
                actor = actors[k - 1]
                if [one.concept for one in actors].count(actor.concept) > 1:
                    assert text.split()[1] == list(COLORS)[actor.color]


def test_two_of_a_kind_have_an_absent_third():
    said = describe_clip((Actor(0, RED), Actor(0, BLUE)), random.Random(0))
    assert said["expressions"]["0"] == {"exp": "the red dog", "obj_id": "1"}
    assert said["expressions"]["2"] == {"exp": "the blue dog", "obj_id": "2"}
    third = said["absent"][0][-1].split()
    assert third[2] == "dog"
    assert third[1] not in ("red", "blue")


def test_label_maps_are_written_as_they_are(sheet, tmp_path):
    clip = draw(sheet, 2)
    write_clip(tmp_path, "one", clip)
    with Image.open(tmp_path / "Annotations" / "one" / "00005.png") as labels:
        assert np.array_equal(np.asarray(labels), clip.owners[5])


def test_the_committed_clips_are_whole():
    videos = json.loads((CLIPS / "meta_expressions" / "valid" / "meta_expressions.json").read_text())["videos"]
    kinds = json.loads((CLIPS / "valid" / "meta.json").read_text())["videos"]
    assert len(videos) == 24
    for name, video in videos.items():
        assert len(video["expressions"]) == ANNOTATORS * len(kinds[name]["objects"])
        for frame in video["frames"]:
            assert (CLIPS / "valid" / "JPEGImages" / name / f"{frame}.jpg").is_file()
            assert (CLIPS / "valid" / "Annotations" / name / f"{frame}.png").is_file()
        with Image.open(CLIPS / "valid" / "Annotations" / name / "00000.png") as labels:
            assert int(np.asarray(labels).max()) == len(kinds[name]["objects"])


def test_tuning_drawings_are_of_the_core_concepts_and_of_no_style_trained_on_or_held_out(tmp_path, monkeypatch):
    codes = [code for concept in CORE_CONCEPTS for code in concept.codes]
    labels = tmp_path / "packages" / "emojibase-data" / "en" / "data.json"
    labels.parent.mkdir(parents=True)
    labels.write_text(json.dumps([{"hexcode": code.upper(), "label": f"Thing {code}"} for code in codes]))
    drawn = {"openmoji": codes, "noto-v1": codes[:1]}
    for package, known in drawn.items():
        path = tmp_path / "packages" / f"iconify-json-{package}" / "icons.json"
        path.parent.mkdir()
        path.write_text(
            json.dumps({"icons": {f"thing-{code}": {"body": ""} for code in known} | {"logo": {"body": ""}}})
        )
    monkeypatch.setattr("training.sprites._render_svg", lambda _: Image.new("RGBA", (8, 4), "red"))
    sprites = draw_tuning_sprites(tmp_path)
    numbers = [number for number, concept in enumerate(CORE_CONCEPTS) for _ in concept.codes]
    assert sorted(sprites.concept.tolist()) == sorted([0, *numbers])
    assert set(sprites.style.tolist()) == {len(STYLES)}
    assert not sprites.of_styles(held_out=True).concept.size
