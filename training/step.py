"""One step of training: draw scenes, mark half of them, write texts, add up the losses."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from training import losses
from training.concepts import CONCEPTS
from training.marks import choose_masks, mark_images
from training.plan import Plan
from training.scenes import Scenes, SpriteSheet, compose
from training.texts import object_phrase, scene_caption, table_texts, encode_texts
from training.towers import Clip

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
WEIGHTS = {
    "patch": 1.0,
    "cls": 1.0,
    "early": 0.25,
    "mean": 0.4,
    "indifference": 0.05,
    "caption": 0.25,
    "region": 0.3,
}


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every batch is this worker's."""

    worker: int = 0
    workers: int = 1


ALONE = Share()


@dataclass(frozen=True, slots=True)
class Batch:
    """Every scene twice, marked and plain; `masks` is what the marks leave visible, all of it in the second half."""

    scenes: Scenes
    images: Tensor  # (b, 3, h, w), marked
    masks: Tensor  # (b, h, w) bool
    marked: int


def normalise(images: Tensor) -> Tensor:
    """Centre colours as CLIP's processor does."""
    mean = torch.tensor(PIXEL_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(PIXEL_STD, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


def draw_batch(sheet: SpriteSheet, plan: Plan, seen: int, patch_px: int, share: Share = ALONE) -> Batch:
    """Draw a worker's scenes for the step after `seen` images; all workers draw the same size."""
    size_hw = plan.step_rng("size", seen, 0).choice(plan.stage(seen).sizes_hw)
    rng = plan.step_rng("scenes", seen, share.worker)
    generator = torch.Generator(sheet.atlas.device).manual_seed(rng.getrandbits(62))
    stage = plan.stage(seen)
    count = plan.batch // share.workers
    scenes = compose(sheet, count // 2, size_hw, stage.rules, generator)
    masks = choose_masks(scenes.owners, stage.rules.max_objects, patch_px, generator)
    images = torch.cat([mark_images(scenes.images, masks, generator), scenes.images])
    return Batch(scenes.twice(), images, torch.cat([masks, torch.ones_like(masks)]), count // 2)


def training_losses(
    model: Clip, tokenizer: CLIPTokenizer, batch: Batch, rng: random.Random, table: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Compute every loss of one batch, unweighted, and the vectors of the table of texts.

    Given the table of an earlier step, no text is encoded: texts change slowly and cost as much as the images.
    """
    count, patch_px = len(CONCEPTS), model.size.patch_px
    scenes, device = batch.scenes, batch.images.device
    slots = scenes.concepts.shape[1]
    shares = losses.owner_shares(scenes.owners, slots, patch_px)
    visible = torch.nn.functional.avg_pool2d(batch.masks[:, None].float(), patch_px).flatten(1)
    target = losses.concept_shares(shares, scenes.concepts, count)
    # What a mark leaves visible, to a good approximation: owners and mask are taken as independent within a patch.
    whole = losses.whole_target(target * visible[..., None])
    scale = model.scale
    with torch.autocast(device.type, torch.bfloat16):
        features = model.vision(normalise(batch.images))
    found: dict[str, Tensor] = {}
    if table is None:
        phrases, chosen, captions, captioned = _write_texts(batch, shares, rng)
        texts = table_texts(rng)
        with torch.autocast(device.type, torch.bfloat16):
            vectors = encode_texts(model, tokenizer, texts + captions + phrases)
        table, caption_vectors, phrase_vectors = vectors.split([len(texts), len(captions), len(phrases)])
        patches = features.patches[chosen[:, 0]]
        regions = torch.einsum("np,npd->nd", shares[chosen[:, 0], :, chosen[:, 1] + 1], patches)
        regions = torch.nn.functional.normalize(regions, dim=-1)
        same = _same_sets(whole[captioned, :-1] > 0)
        found["caption"] = losses.contrast(features.cls[captioned], caption_vectors, scale, same)
        found["region"] = losses.contrast(regions, phrase_vectors, scale, _same_objects(scenes, chosen))
    logits = {name: scale * getattr(features, name) @ table.T for name in ("patches", "cls", "early_cls", "mean")}
    weight = visible * losses.patch_weights(target, 0.35)
    plain = slice(batch.marked, None)
    found |= {
        "patch": losses.cross_entropy(losses.named(logits["patches"], count), target, weight),
        "cls": losses.cross_entropy(losses.named(logits["cls"], count), whole),
        "early": losses.cross_entropy(losses.named(logits["early_cls"], count), whole),
        "mean": losses.cross_entropy(losses.named(logits["mean"][plain], count), whole[plain]),
        "indifference": losses.indifference(logits["cls"], count, whole[:, -1] > 0),
    }
    return found, table


def _write_texts(
    batch: Batch, shares: Tensor, rng: random.Random
) -> tuple[list[str], Tensor, list[str], Tensor]:
    """Write phrases for some objects (and say which: rows of scene, slot) and captions for some images (and which)."""
    scenes, h, w = batch.scenes, *batch.scenes.owners.shape[-2:]
    patches = shares.shape[1]
    seen = (shares[..., 1:].sum(1) * (scenes.concepts >= 0) > 0.7)  # noqa: PLR2004 - of a patch
    objects = seen[batch.marked :].nonzero()
    objects[:, 0] += batch.marked
    objects = objects[torch.tensor(rng.sample(range(len(objects)), min(len(objects), batch.marked // 2)), dtype=torch.long)]
    concepts, colours = scenes.concepts.tolist(), scenes.colours.tolist()
    phrases = [object_phrase(concepts[i][k], colours[i][k], rng) for i, k in objects.tolist()]
    inside = torch.nn.functional.avg_pool2d(batch.masks[:, None].float(), _patch(h, w, patches))
    left = shares[..., 1:] * inside.flatten(1)[..., None]  # b patches slots
    # Captions cost as much as images, so only a part of the scenes has one.
    captioned = torch.arange(batch.marked - batch.marked // 4, batch.marked + batch.marked // 4)
    centres = _centres(left, h // _patch(h, w, patches))
    shown = (left.sum(1) > 0.7).tolist()  # noqa: PLR2004
    captions = []
    for i in captioned.tolist():
        slots = [k for k, concept in enumerate(concepts[i]) if concept >= 0 and shown[i][k]]
        captions.append(
            scene_caption([concepts[i][k] for k in slots], [colours[i][k] for k in slots], [centres[i][k] for k in slots], rng)
        )
    return phrases, objects, captions, captioned


def _patch(h: int, w: int, patches: int) -> int:
    return round((h * w / patches) ** 0.5)


def _centres(left: Tensor, rows: int) -> list[list[tuple[float, float]]]:
    """Find the centre (x, y in [0, 1]) of what is visible of every slot."""
    b, patches, slots = left.shape
    columns = patches // rows
    grid = left.view(b, rows, columns, slots)
    total = grid.sum((1, 2)).clamp(min=1e-6)
    y = (grid.sum(2) * torch.linspace(0, 1, rows, device=left.device).view(1, -1, 1)).sum(1) / total
    x = (grid.sum(1) * torch.linspace(0, 1, columns, device=left.device).view(1, -1, 1)).sum(1) / total
    return torch.stack([x, y], -1).tolist()


def _same_sets(shown: Tensor) -> Tensor:
    """Mark pairs of rows that show exactly the same concepts."""
    return (shown[:, None] == shown[None]).all(-1)


def _same_objects(scenes: Scenes, chosen: Tensor) -> Tensor:
    """Mark pairs of objects that one phrase may fit: same concept, and not two different colours."""
    concept = scenes.concepts[chosen[:, 0], chosen[:, 1]]
    colour = scenes.colours[chosen[:, 0], chosen[:, 1]]
    other = (colour[:, None] != colour[None]) & (colour[:, None] >= 0) & (colour[None] >= 0)
    return (concept[:, None] == concept[None]) & ~other
