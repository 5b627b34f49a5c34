"""One step of training: draw scenes, mark some, choose masks for mask tokens, write texts, add up the losses."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTokenizer

from training import losses
from training.cam import cam_loss, cam_maps, merge_namesakes
from training.concepts import CONCEPTS
from training.marks import choose_masks, choose_patches, mark_images
from training.plan import Plan
from training.scenes import Scenes, SpriteSheet, compose
from training.texts import encode_texts, object_phrase, scene_caption, table_texts
from training.towers import Clip, ImageFeatures

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
BACKGROUND_WEIGHT = 0.35  # of a background patch, for there are many
MARKED_SHARE = 8  # one in so many images is a marked copy of a scene
MASKS = 5  # mask tokens of every image
WEIGHTS = {  # those of local supervision, in `Plan`, multiply them
    "cam": 1.0,
    "patch": 0.6,
    "edge": 0.6,
    "mask": 1.0,
    "cls": 0.5,
    "early": 0.15,
    "mean": 0.2,
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
    """Marked copies of the first scenes, then all scenes plain; `masks` is what the marks leave visible."""

    scenes: Scenes
    images: Tensor  # (b, 3, h, w), the first `marked` of them marked
    masks: Tensor  # (b, h, w) bool, all of a plain image
    marked: int
    inside: Tensor  # (b, m, patches) bool, of the mask tokens


def normalize(images: Tensor) -> Tensor:
    """Center colors as CLIP's processor does."""
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
    marked = count // MARKED_SHARE
    plain = compose(sheet, count - marked, size_hw, stage.rules, generator)
    first = plain.first(marked)
    masks = choose_masks(first.owners, stage.rules.max_objects, patch_px, generator)
    images = torch.cat([mark_images(first.images, masks, generator), plain.images])
    scenes = first.followed_by(plain)
    objects = losses.owner_shares(scenes.owners, scenes.concepts.shape[1], patch_px)[..., 1:]
    inside = choose_patches(objects, size_hw[0] // patch_px, MASKS, generator)
    visible = torch.cat([masks, torch.ones_like(plain.owners, dtype=torch.bool)])
    return Batch(scenes, images, visible, marked, inside)


@dataclass(frozen=True, slots=True)
class Words:
    """Captions of some images and phrases for some objects of a batch.

    `captioned` (c,) are the captions' rows; `chosen` (p, 2) are the phrases' rows and slots.
    """

    captions: list[str]
    captioned: Tensor
    phrases: list[str]
    chosen: Tensor


@dataclass(frozen=True, slots=True)
class Truth:
    """What a batch shows, as shares of area.

    Attributes:
        owners: (b, patches, 1 + slots), the background first.
        concepts: (b, patches, concepts + 1), the background last.
        visible: (b, patches), what the marks leave.
        whole: (b, concepts + 1), what the marked image as a whole shows.
    """

    owners: Tensor
    concepts: Tensor
    visible: Tensor
    whole: Tensor


def measure_truth(batch: Batch, patch_px: int) -> Truth:
    """Measure every share of a batch.

    What a mark leaves visible of an object is approximate: owners and mask are taken as independent within a patch.
    """
    scenes = batch.scenes
    owners = losses.owner_shares(scenes.owners, scenes.concepts.shape[1], patch_px)
    concepts = losses.concept_shares(owners, scenes.concepts, len(CONCEPTS))
    visible = functional.avg_pool2d(batch.masks[:, None].float(), patch_px).flatten(1)
    is_marked = torch.arange(len(owners), device=owners.device) < batch.marked
    return Truth(owners, concepts, visible, losses.whole_target(concepts * visible[..., None], is_marked))


def training_losses(
    model: Clip, tokenizer: CLIPTokenizer, batch: Batch, plan: Plan, rng: random.Random, table: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Compute the losses of one batch, unweighted, and the vectors of the table of texts.

    Given the table of an earlier step, no text is encoded: texts change slowly and cost as much as the images.
    """
    truth = measure_truth(batch, model.size.patch_px)
    with torch.autocast(batch.images.device.type, torch.bfloat16):
        features = model.vision(normalize(batch.images), batch.inside)
    found: dict[str, Tensor] = {}
    if table is None:
        words = write_words(batch, truth, rng)
        texts = table_texts(rng)
        with torch.autocast(batch.images.device.type, torch.bfloat16):
            vectors = encode_texts(model, tokenizer, texts + words.captions + words.phrases)
        table, captions, phrases = vectors.split([len(texts), len(words.captions), len(words.phrases)])
        found |= word_losses(features, truth, batch, words, (captions, phrases), model.scale)
    scaled_table = model.scale * table
    if plan.cam_weight:
        with torch.autocast(batch.images.device.type, torch.bfloat16):
            found["cam"] = plain_cam_loss(model, features, truth, batch, scaled_table)
    return found | naming_losses(features, truth, scaled_table, batch), table


def plain_cam_loss(model: Clip, features: ImageFeatures, truth: Truth, batch: Batch, scaled_table: Tensor) -> Tensor:
    """Compare the gradient CAMs of the names that a plain scene shows with where it shows them."""
    plain = slice(batch.marked, None)
    concepts = batch.scenes.concepts[plain]
    owners, present = merge_namesakes(truth.owners[plain], concepts)
    ground = scaled_table[len(CONCEPTS) :].mean(0).expand(len(concepts), 1, -1)  # what every name is set against
    texts = torch.cat([scaled_table[concepts.clamp(min=0)], ground], 1)
    asked = functional.pad(present, (0, 1), value=True)
    maps = cam_maps(model.vision, features.last_input[plain], texts, asked)
    return cam_loss(maps[:, :-1], owners, present)


def naming_losses(features: ImageFeatures, truth: Truth, scaled_table: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Name patches, pixels, masks, class tokens (also of the last block but one), plain images' means."""
    count, marked, plain = len(CONCEPTS), batch.marked, slice(batch.marked, None)
    weight = truth.visible * losses.patch_weights(truth.concepts, BACKGROUND_WEIGHT)
    cls = features.cls @ scaled_table.T
    patches = losses.named(features.patches @ scaled_table.T, count)
    early = losses.named(features.early_cls @ scaled_table.T, count)
    mean = losses.named(features.mean[marked:] @ scaled_table.T, count)
    inside = batch.inside[plain]
    shown = losses.masks_target(truth.concepts[plain], inside).flatten(0, 1)
    masks = (features.masks[plain] @ scaled_table.T).flatten(0, 1)
    pixels = (patches[plain], batch.scenes.owners[plain], batch.scenes.concepts[plain])
    nothing = torch.cat([truth.whole[:, -1] > 0, (shown[:, -1] > 0) & inside.any(2).flatten()])
    return {
        "patch": losses.cross_entropy(patches, truth.concepts, weight),
        "edge": losses.edge_loss(*pixels, (BACKGROUND_WEIGHT, 1.0)),
        "mask": losses.cross_entropy(losses.named(masks, count), shown, inside.any(2).flatten().float()),
        "cls": losses.cross_entropy(losses.named(cls, count), truth.whole),
        "early": losses.cross_entropy(early, truth.whole),
        "mean": losses.cross_entropy(mean, truth.whole[marked:]),
        "indifference": losses.indifference(torch.cat([cls, masks]), count, nothing),
    }


def word_losses(
    features: ImageFeatures, truth: Truth, batch: Batch, words: Words, vectors: tuple[Tensor, Tensor], scale: Tensor
) -> dict[str, Tensor]:
    """Contrast class tokens with captions, and pooled regions with phrases; `vectors` are theirs, in that order."""
    rows, slots = words.chosen.unbind(1)
    regions = torch.einsum("np,npd->nd", truth.owners[rows, :, slots + 1], features.patches[rows])
    same_sets = _same_sets(truth.whole[words.captioned, :-1] > 0)
    same_objects = _same_objects(batch.scenes, words.chosen)
    return {
        "caption": losses.contrast(features.cls[words.captioned], vectors[0], scale, same_sets),
        "region": losses.contrast(functional.normalize(regions, dim=-1), vectors[1], scale, same_objects),
    }


def write_words(batch: Batch, truth: Truth, rng: random.Random) -> Words:
    """Write phrases for objects of plain images, and captions of what is visible in marked and plain ones."""
    scenes, marked = batch.scenes, batch.marked
    concepts, colors = scenes.concepts.tolist(), scenes.colors.tolist()
    drawn = truth.owners[marked:, :, 1:].sum(1) * (scenes.concepts[marked:] >= 0)
    objects = (drawn > losses.LEAST_PATCHES).nonzero()
    objects[:, 0] += marked
    some = rng.sample(range(len(objects)), min(len(objects), 2 * marked))
    chosen = objects[torch.tensor(some, dtype=torch.long)]
    phrases = [object_phrase(concepts[i][k], colors[i][k], rng) for i, k in chosen.tolist()]
    left = truth.owners[..., 1:] * truth.visible[..., None]  # b patches slots
    shown = (left.sum(1) > losses.LEAST_PATCHES).tolist()
    h, w = scenes.owners.shape[-2:]
    centers = _centers(left, round((left.shape[1] * h / w) ** 0.5))
    # Captions cost as much as images, so only a part of the scenes has one.
    captioned = torch.arange(marked // 2, 2 * marked + marked // 2)
    captions = []
    for i in captioned.tolist():
        slots = [k for k, concept in enumerate(concepts[i]) if concept >= 0 and shown[i][k]]
        visible = ([part[i][k] for k in slots] for part in (concepts, colors, centers))
        captions.append(scene_caption(*visible, rng))
    return Words(captions, captioned, phrases, chosen)


def _centers(left: Tensor, rows: int) -> list[list[tuple[float, float]]]:
    """Find the center (x, y in [0, 1]) of what is visible of every slot."""
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
    """Mark pairs of objects that one phrase may fit: same concept, and not two different colors."""
    concept = scenes.concepts[chosen[:, 0], chosen[:, 1]]
    color = scenes.colors[chosen[:, 0], chosen[:, 1]]
    other = (color[:, None] != color[None]) & (color[:, None] >= 0) & (color[None] >= 0)
    return (concept[:, None] == concept[None]) & ~other
