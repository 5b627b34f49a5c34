"""Draw the benchmark of scenes: `python -m training.benchmark [folder]` writes data/scenes.

Pascal VOC's layout for label maps, RefCOCO's for sentences. The held-out split shows only drawings that training never
sees. Fixed seeds; the tuning set for settings is another seed of the same scenes (`--seed`).
"""

from __future__ import annotations

import argparse
import colorsys
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as run_lengths

from training.concepts import COLORS, CONCEPTS, CORE_CONCEPTS, CORE_COUNT
from training.paths import SCENES, WORK
from training.scenes import SceneRules, SpriteSheet, compose
from training.sprites import HELD_OUT_STYLE, HELD_OUT_STYLES, STYLES, Sprites, load_sprites

SEED = 7
SIZES_HW = ((160, 224), (192, 192), (224, 160), (192, 256), (256, 192), (224, 224), (208, 240))
JPEG_QUALITY = 90
LEAST_SHARE = 0.012  # of the image, that each object must show
RULES = SceneRules(
    max_objects=5,
    single_share=0.2,
    several_size=(0.25, 0.55),
    tint_share=0.0,
    empty_share=0.0,
    max_angle=0.25,
    hue_share=0.0,
    grain=0.03,
)


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene: picture (h, w, 3) uint8, owners (h, w), and each object's concept and color (-1: its own)."""

    picture: np.ndarray
    owners: np.ndarray
    concepts: list[int]
    colors: list[int]

    def center(self, slot: int) -> tuple[float, float]:
        """Mean x and y of an object, as shares of the short side."""
        rows, columns = np.nonzero(self.owners == slot + 1)
        short = min(self.owners.shape)
        return float(columns.mean() / short), float(rows.mean() / short)


def main() -> None:
    """Write the whole benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=SCENES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--style", default=HELD_OUT_STYLE, choices=HELD_OUT_STYLES, help="of the split `heldout`")
    arguments = parser.parse_args()
    sprites = load_sprites(arguments.work)
    generator = torch.Generator().manual_seed(arguments.seed)
    chance = random.Random(arguments.seed)
    for split, count in (("heldout", 300), ("trained", 100)):
        chosen = benchmark_sprites(sprites, held_out=split == "heldout", style=arguments.style)
        scenes = draw_scenes(chosen, count, RULES, chance, generator)
        write_voc(arguments.folder, split, scenes)
    referring = draw_sentences(benchmark_sprites(sprites, held_out=True, style=arguments.style), 100, chance, generator)
    write_references(arguments.folder, referring)


def benchmark_sprites(sprites: Sprites, *, held_out: bool, style: str = HELD_OUT_STYLE) -> Sprites:
    """Choose the drawings of a split: the asked concepts of a held-out style, or of all seen but one-color icons."""
    chosen = sprites.of_style(style) if held_out else sprites.of_styles(held_out=False)
    rows = (chosen.concept < CORE_COUNT) & (chosen.style != STYLES.index("mono"))
    return Sprites(chosen.rgba[rows], chosen.concept[rows], chosen.style[rows])


def draw_scenes(
    sprites: Sprites, count: int, rules: SceneRules, chance: random.Random, generator: torch.Generator
) -> list[Scene]:
    """Draw scenes whose objects all show enough of themselves."""
    sheet = SpriteSheet(sprites, torch.ones(len(CONCEPTS)), torch.device("cpu"))
    scenes: list[Scene] = []
    while len(scenes) < count:
        scenes += _draw_plain(sheet, 16, chance.choice(SIZES_HW), rules, generator)
    return scenes[:count]


def _draw_plain(
    sheet: SpriteSheet, count: int, size_hw: tuple[int, int], rules: SceneRules, generator: torch.Generator
) -> list[Scene]:
    batch = compose(sheet, count, size_hw, rules, generator)
    pictures = (batch.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    found = []
    for picture, owners, concepts, colors in zip(
        pictures, batch.owners.numpy(), batch.concepts.tolist(), batch.colors.tolist(), strict=True
    ):
        numbers = [number for number in concepts if number >= 0]
        if all((owners == slot + 1).mean() > LEAST_SHARE for slot in range(len(numbers))):
            found.append(Scene(picture, owners, numbers, colors))
    return found


def write_voc(folder: Path, split: str, scenes: list[Scene]) -> None:
    """Write pictures, label maps and the list of one split, and the class list."""
    names = []
    for number, scene in enumerate(scenes):
        names.append(f"{split}_{number:03d}")
        write_picture(folder, names[-1], scene)
        labels = np.array([0, *(concept + 1 for concept in scene.concepts)], dtype=np.uint8)[scene.owners]
        write_labels(folder / "SegmentationClass" / f"{names[-1]}.png", labels)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "classes.txt").write_text("".join(f"{concept.name}\n" for concept in CORE_CONCEPTS))


def write_picture(folder: Path, name: str, scene: Scene) -> None:
    """Write one picture as JPEG."""
    path = folder / "JPEGImages" / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.picture).save(path, quality=JPEG_QUALITY)


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write a label map (h, w) uint8 as a palette image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels, mode="P")
    palette = [0, 0, 0]
    for number in range(255):
        hue = number * 0.618034 % 1.0
        palette += [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.5 + 0.4 * (number % 2), 0.9)]
    image.putpalette(palette)
    image.save(path, optimize=True)


def draw_sentences(
    sprites: Sprites, count: int, chance: random.Random, generator: torch.Generator
) -> list[tuple[Scene, int, str]]:
    """Draw scenes with two or three kinds of things, some tinted, and a sentence that fits exactly one object."""
    rules = SceneRules(
        **{name: getattr(RULES, name) for name in RULES.__slots__}
        | {"single_share": 0.0, "max_objects": 4, "tint_share": 0.5}
    )
    found: list[tuple[Scene, int, str]] = []
    drawn = sorted(set(sprites.concept.tolist()))
    wanted = [_by_color, _by_name, _by_place, _by_place]
    while len(found) < count:
        kinds = torch.zeros(len(CONCEPTS))
        kinds[chance.sample(drawn, 3)] = 1.0
        sheet = SpriteSheet(sprites, kinds, torch.device("cpu"))
        say = wanted[len(found) % len(wanted)]
        for scene in _draw_plain(sheet, 8, chance.choice(SIZES_HW), rules, generator):
            choices = [(slot, sentence) for slot in range(len(scene.concepts)) for sentence in say(scene, slot)]
            if choices:
                found.append((scene, *chance.choice(choices)))
                break
    return found


def _by_name(scene: Scene, slot: int) -> list[str]:
    alone = scene.concepts.count(scene.concepts[slot]) == 1
    return [f"the {CONCEPTS[scene.concepts[slot]].name}"] if alone else []


def _by_color(scene: Scene, slot: int) -> list[str]:
    """Say "the red car" where there is another car and no other tinted so."""
    concept, color = scene.concepts[slot], scene.colors[slot]
    others = [scene.colors[k] for k, c in enumerate(scene.concepts) if c == concept and k != slot]
    if color < 0 or not others or any(other in (color, -1) for other in others):
        return []
    return [f"the {list(COLORS)[color]} {CONCEPTS[concept].name}"]


def _by_place(scene: Scene, slot: int) -> list[str]:
    """Say "the cat left of the guitar" where that fits one cat only and there is one guitar."""
    sentences = []
    for other, concept in enumerate(scene.concepts):
        if concept == scene.concepts[slot] or scene.concepts.count(concept) > 1:
            continue
        for words, axis, sign in (("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1)):
            fits = [
                k
                for k, c in enumerate(scene.concepts)
                if c == scene.concepts[slot] and sign * (scene.center(k)[axis] - scene.center(other)[axis]) > 0
            ]
            far = sign * (scene.center(slot)[axis] - scene.center(other)[axis]) > 0.25
            if fits == [slot] and far:
                sentences.append(f"the {CONCEPTS[scene.concepts[slot]].name} {words} the {CONCEPTS[concept].name}")
    return sentences


def write_references(folder: Path, referring: list[tuple[Scene, int, str]]) -> None:
    """Write the sentences, the objects' masks as run lengths, and the pictures."""
    images, annotations, references = [], [], []
    for number, (scene, slot, sentence) in enumerate(referring):
        name = f"referring_{number:03d}"
        write_picture(folder, name, scene)
        h, w = scene.owners.shape
        images.append({"id": number, "file_name": f"{name}.jpg", "height": h, "width": w})
        packed = run_lengths.encode(np.asfortranarray(scene.owners == slot + 1))
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": scene.concepts[slot] + 1,
                "segmentation": {"size": [h, w], "counts": packed["counts"].decode()},
                "area": int(run_lengths.area(packed)),
                "bbox": [float(v) for v in run_lengths.toBbox(packed)],
                "iscrowd": 0,
            }
        )
        references.append(_reference(number, scene.concepts[slot] + 1, f"{name}.jpg", sentence))
    categories = [{"id": number + 1, "name": concept.name} for number, concept in enumerate(CORE_CONCEPTS)]
    instances = {"images": images, "annotations": annotations, "categories": categories}
    target = folder / "referring"
    target.mkdir(parents=True, exist_ok=True)
    (target / "instances.json").write_text(json.dumps(instances) + "\n")
    (target / "refs(scenes).json").write_text(json.dumps(references, indent=1) + "\n")


def _reference(number: int, category: int, file_name: str, sentence: str) -> dict:
    words = sentence.split()
    return {
        "ref_id": number,
        "ann_id": number,
        "image_id": number,
        "category_id": category,
        "file_name": file_name,
        "split": "heldout",
        "sent_ids": [number],
        "sentences": [{"sent_id": number, "raw": sentence, "sent": sentence, "tokens": words}],
    }


if __name__ == "__main__":
    main()
