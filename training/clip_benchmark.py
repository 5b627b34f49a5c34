"""Draw the benchmark of clips: `python -m training.clip_benchmark [folder]` writes data/clips.

The layout is that of Ref-DAVIS17 as the field converts it, with two annotators. All clips show the held-out drawings,
or with `--tuning` drawings that are neither trained on nor held out: settings are chosen on those, with another seed.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from training.benchmark import benchmark_sprites, write_labels
from training.clips import FRAMES, HUES, Actor, Clip, draw_clip
from training.concepts import COLORS, CONCEPTS, CORE_COUNT
from training.paths import CLIPS, WORK
from training.scenes import SpriteSheet
from training.sprites import draw_tuning_sprites, load_sprites

SEED, COUNT = 11, 24
SIZES_HW = ((144, 192), (144, 192), (192, 144), (160, 176))
JPEG_QUALITY = 88
ANNOTATORS = 2
ABSENT = 2  # expressions about nothing in the clip, of each annotator; one more where a color tells two apart


def main() -> None:
    """Write the whole benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=CLIPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--tuning", action="store_true", help="drawings to choose settings on")
    parser.add_argument("--work", type=Path, default=WORK)
    arguments = parser.parse_args()
    if arguments.tuning:
        sprites = draw_tuning_sprites(arguments.work)
    else:
        sprites = benchmark_sprites(load_sprites(arguments.work), held_out=True)
    sheet = SpriteSheet(sprites, torch.ones(len(CONCEPTS)), torch.device("cpu"))
    generator = torch.Generator().manual_seed(arguments.seed)
    chance = random.Random(arguments.seed)
    expressions: dict[str, Any] = {}
    categories: dict[str, Any] = {}
    for number in range(arguments.count):
        name = f"clip_{number:02d}"
        clip = draw_clip(sheet, chance.choice(SIZES_HW), chance, generator)
        write_clip(arguments.folder / "valid", name, clip)
        expressions[name] = describe_clip(clip.actors, chance)
        categories[name] = {
            "objects": {
                str(k): {"category": CONCEPTS[actor.concept].name, "frames": expressions[name]["frames"]}
                for k, actor in enumerate(clip.actors, start=1)
            }
        }
    write_videos(arguments.folder / "meta_expressions" / "valid" / "meta_expressions.json", expressions)
    write_videos(arguments.folder / "valid" / "meta.json", categories)


def write_videos(path: Path, videos: dict[str, Any]) -> None:
    """Write what is said of each clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"videos": videos}, indent=1) + "\n")


def write_clip(folder: Path, name: str, clip: Clip) -> None:
    """Write the frames as JPEG and their label maps as palette images."""
    for t, (picture, owners) in enumerate(zip(clip.frames, clip.owners, strict=True)):
        path = folder / "JPEGImages" / name / f"{t:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, quality=JPEG_QUALITY)
        write_labels(folder / "Annotations" / name / f"{t:05d}.png", owners.astype(np.uint8))


def describe_clip(actors: tuple[Actor, ...], chance: random.Random) -> dict[str, Any]:
    """Word every object for each annotator (expression number: object * annotators + annotator), and absent things."""
    expressions = {
        str(k * ANNOTATORS + annotator): {"exp": _word(actor, actors, annotator, chance), "obj_id": str(k + 1)}
        for k, actor in enumerate(actors)
        for annotator in range(ANNOTATORS)
    }
    shown = {actor.concept for actor in actors}
    others = chance.sample([number for number in range(CORE_COUNT) if number not in shown], ABSENT)
    absent = [Actor(number, -1) for number in others] + _recolored(actors, chance)
    said = [[_word(one, (), annotator, chance) for one in absent] for annotator in range(ANNOTATORS)]
    return {"expressions": expressions, "frames": [f"{t:05d}" for t in range(FRAMES)], "absent": said}


def _recolored(actors: tuple[Actor, ...], chance: random.Random) -> list[Actor]:
    """Return what would be a third of a kind of which the clip shows two, in a color of its own."""
    concepts = [actor.concept for actor in actors]
    twice = [concept for concept in set(concepts) if concepts.count(concept) > 1]
    free = sorted(set(HUES) - {actor.color for actor in actors})
    return [Actor(concept, chance.choice(free)) for concept in twice]


def _word(actor: Actor, actors: tuple[Actor, ...], annotator: int, chance: random.Random) -> str:
    """Say "the dog" or "the red dog", or, as the second annotator, the same by another name of it."""
    concept = CONCEPTS[actor.concept]
    names = [name for name in concept.synonyms if not name.endswith("face") and name.split()[0] not in COLORS]
    name = chance.choice(names) if annotator and names else concept.name
    is_twice = [one.concept for one in actors].count(actor.concept) > 1
    says_color = actor.color >= 0 and (is_twice or not actors or chance.random() < 0.5)
    article = "a" if annotator else "the"
    words = f"{list(COLORS)[actor.color]} {name}" if says_color else name
    return f"{'an' if article == 'a' and words[0] in 'aeiou' else article} {words}"


if __name__ == "__main__":
    main()
