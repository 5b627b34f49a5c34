"""Measure the CLIP on scenes of the held-out drawing while it is trained.

Forty texts are asked on every scene. Plain measures of the two things that CaR needs: patches that know their names
and a class token that knows what a mark shows. The benchmark itself is measured with the package.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTokenizer

from clip_as_rnn.prompts.templates import PHOTO_TEMPLATES
from training.benchmark import benchmark_sprites
from training.concepts import BACKGROUND_TEXTS, CONCEPTS, CORE_COUNT
from training.export import load_trained
from training.losses import owner_shares
from training.marks import blur
from training.paths import WORK
from training.scenes import SceneRules, Scenes, SpriteSheet, compose
from training.sprites import HELD_OUT_STYLE, HELD_OUT_STYLES, Sprites, load_sprites
from training.step import normalize
from training.texts import make_tokenizer, tokenize
from training.towers import Clip, ImageFeatures

SIDE_PX = 192
COUNT = 96
SEED = 20_000


@dataclass(frozen=True, slots=True)
class Questions:
    """Scenes of unseen drawings: one large object each, and several smaller ones."""

    single: Scenes
    several: Scenes


def evaluation_set(
    sprites: Sprites, device: torch.device, *, held_out: bool = True, style: str = HELD_OUT_STYLE
) -> Questions:
    """Draw the fixed scenes of the evaluation: drawings held out, or seen in training; no one-color icons."""
    chosen = benchmark_sprites(sprites, held_out=held_out, style=style)
    sheet = SpriteSheet(chosen, torch.ones(len(CONCEPTS)), device)
    generator = torch.Generator(device).manual_seed(SEED)
    calm = {"tint_share": 0.0, "empty_share": 0.0, "max_angle": 0.2}
    one = SceneRules(max_objects=1, single_share=1.0, single_size=(0.5, 0.9), **calm)
    more = SceneRules(max_objects=4, single_share=0.25, several_size=(0.25, 0.5), **calm)
    size = (SIDE_PX, SIDE_PX)
    return Questions(compose(sheet, 2 * COUNT, size, one, generator), compose(sheet, COUNT, size, more, generator))


@torch.no_grad()
def evaluate(model: Clip, tokenizer: CLIPTokenizer, questions: Questions) -> dict[str, float]:
    """Measure naming of whole images, of marked objects (three marks) and of masks, and dense mIoU."""
    model.eval()
    asked = [concept.name for concept in CONCEPTS[:CORE_COUNT]]
    device = questions.single.images.device
    names = text_vectors(model, tokenizer, asked, device)
    ground = text_vectors(model, tokenizer, list(BACKGROUND_TEXTS), device)
    single = encode(model, questions.single.images)
    scores = {"top1": accuracy(single.cls @ names.T, questions.single.concepts[:, 0])}
    scores |= marked_accuracy(model, questions.several, names)
    scores["mask"] = masked_accuracy(model, questions.several, names)
    several = encode(model, questions.several.images)
    patches = model.scale * several.patches @ torch.cat([names, ground]).T  # b p n
    scores["miou40"] = dense_miou(patches, questions.several, present_only=False)
    scores["miou_present"] = dense_miou(patches, questions.several, present_only=True)
    model.train()
    return scores


def encode(model: Clip, images: Tensor, inside: Tensor | None = None) -> ImageFeatures:
    """Encode images in [0, 1] in one go, with masks of patches if there are any."""
    with torch.autocast(images.device.type, torch.bfloat16):
        return model.vision(normalize(images), inside)


def text_vectors(model: Clip, tokenizer: CLIPTokenizer, texts: list[str], device: torch.device) -> Tensor:
    """Average each text over the templates: (n, d) unit vectors."""
    prompts = [template.format(text) for text in texts for template in PHOTO_TEMPLATES]
    vectors = model.text(tokenize(tokenizer, prompts, device)).view(len(texts), len(PHOTO_TEMPLATES), -1)
    return functional.normalize(vectors.mean(1), dim=-1)


def accuracy(logits: Tensor, truth: Tensor) -> float:
    """Share of rows whose highest logit is the true one."""
    return (logits.argmax(-1) == truth).float().mean().item()


def marked_accuracy(model: Clip, scenes: Scenes, names: Tensor) -> dict[str, float]:
    """Name each object from its exact mask under three marks."""
    masks = scenes.masks() & (scenes.concepts >= 0)[..., None, None]
    which = (masks.flatten(2).float().mean(2) > 0.01).nonzero()
    visible = masks[which[:, 0], which[:, 1]][:, None]
    images = scenes.images[which[:, 0]]
    truth = scenes.concepts[which[:, 0], which[:, 1]]
    marked = {"black": torch.zeros_like(images), "gray": images.mean(1, keepdim=True), "blur": blur(images, 2.4)}
    return {
        name: accuracy(encode(model, torch.where(visible, images, outside)).cls @ names.T, truth)
        for name, outside in marked.items()
    }


def masked_accuracy(model: Clip, scenes: Scenes, names: Tensor) -> float:
    """Name each object by the mask token of the patches that it covers."""
    shares = owner_shares(scenes.owners, scenes.concepts.shape[1], model.size.patch_px)[..., 1:].transpose(1, 2)
    masks = encode(model, scenes.images, shares > 0).masks
    shown = (scenes.concepts >= 0) & (scenes.masks().flatten(2).float().mean(2) > 0.01)
    return accuracy(masks[shown] @ names.T, scenes.concepts[shown])


def dense_miou(logits: Tensor, scenes: Scenes, *, present_only: bool) -> float:
    """Label every pixel by the best text of its patch; average IoU over the concepts and the background."""
    b, h, w = scenes.owners.shape
    probabilities = logits.softmax(-1)
    joined = torch.cat([probabilities[..., CORE_COUNT:].sum(-1, keepdim=True), probabilities[..., :CORE_COUNT]], -1)
    side = round(joined.shape[1] ** 0.5)
    maps = functional.interpolate(joined.transpose(1, 2).view(b, -1, side, side), size=(h, w), mode="bilinear")
    concept_of = torch.cat([torch.full((b, 1), -1, device=maps.device), scenes.concepts], 1)
    truth = torch.gather(concept_of, 1, scenes.owners.flatten(1)).view(b, h, w) + 1
    if present_only:
        present = torch.zeros(b, CORE_COUNT + 1, device=maps.device)
        present.scatter_(1, concept_of + 1, 1.0)
        maps = maps * present[..., None, None]
    labels = maps.argmax(1)
    table = torch.bincount((truth * (CORE_COUNT + 1) + labels).flatten(), minlength=(CORE_COUNT + 1) ** 2)
    table = table.view(CORE_COUNT + 1, CORE_COUNT + 1).float()
    union = table.sum(0) + table.sum(1) - table.diag()
    return (table.diag() / union.clamp(min=1))[union > 0].mean().item()


def main() -> None:
    """Measure a checkpoint on drawings never seen and on those seen: `python -m training.evaluate [checkpoint]`."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else WORK / "checkpoint.pt"
    model, sprites, tokenizer = load_trained(path), load_sprites(WORK), make_tokenizer(WORK / "tokenizer")
    kinds = {f"held out, {style}": (True, style) for style in HELD_OUT_STYLES} | {"seen": (False, HELD_OUT_STYLE)}
    for title, (held_out, style) in kinds.items():
        questions = evaluation_set(sprites, torch.device("cpu"), held_out=held_out, style=style)
        scores = evaluate(model, tokenizer, questions)
        sys.stdout.write(f"{title}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()) + "\n")


if __name__ == "__main__":
    main()
