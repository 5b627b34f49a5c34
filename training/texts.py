"""The words: templates, names, attributes, captions, and the byte-pair tokenizer that is made from them."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from clip_as_rnn.prompts.templates import PHOTO_TEMPLATES
from training.concepts import BACKGROUND_TEXTS, COLORS, CONCEPTS
from training.towers import Clip

MERGE_COUNT = 700
MAX_TOKENS = 77
BACKGROUND_SAMPLE = 10  # background texts of one step; all of them would cost as much as the images
START, END = "<|startoftext|>", "<|endoftext|>"
BARE = "{}"
_MORE_TEMPLATES = ("a drawing of a {}", "a {}", "the {}", "an icon of a {}", "a picture of the {}.")
_PLACES = {"to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_EXTRA_WORDS = "left right above below next to with and on in of at the a an small large big tiny two three red"


def any_name(number: int, rng: random.Random) -> str:
    """Name a concept: its own name mostly, else a synonym."""
    concept = CONCEPTS[number]
    if concept.synonyms and rng.random() < 0.4:
        return rng.choice(concept.synonyms)
    return concept.name


def any_template(rng: random.Random) -> str:
    """Choose a way to ask: bare and the proposals' template most often."""
    share = rng.random()
    if share < 0.3:
        return BARE
    if share < 0.5:
        return PHOTO_TEMPLATES[0]
    return rng.choice(PHOTO_TEMPLATES + _MORE_TEMPLATES)


def table_texts(rng: random.Random) -> list[str]:
    """Write one text for every concept, then `BACKGROUND_SAMPLE` background texts.

    Half of the time all share a template, as when CaR asks; else each has its own, so that they mean the same.
    """
    shared = any_template(rng)
    mixed = rng.random() < 0.5
    names = [any_name(number, rng) for number in range(len(CONCEPTS))]
    names += rng.sample(BACKGROUND_TEXTS, BACKGROUND_SAMPLE)
    return [(any_template(rng) if mixed else shared).format(name) for name in names]


def object_phrase(number: int, color: int, rng: random.Random) -> str:
    """Write a phrase for one object, with its color if it has one."""
    name = any_name(number, rng)
    phrase = f"{list(COLORS)[color]} {name}" if color >= 0 else name
    return rng.choice((BARE, "a {}", "the {}", any_template(rng))).format(phrase)


def scene_caption(
    concepts: list[int], colors: list[int], centers: list[tuple[float, float]], rng: random.Random
) -> str:
    """Write a caption that names what is drawn; every list has one entry per visible object."""
    if not concepts:
        return rng.choice(BACKGROUND_TEXTS[-7:])
    order = rng.sample(range(len(concepts)), len(concepts))
    words = [_colored(concepts[k], colors[k], rng) for k in order]
    if len(order) > 1 and rng.random() < 0.3:
        relation = _relation(centers[order[0]], centers[order[1]])
        if relation:
            return f"a {words[0]} {relation} a {words[1]}"
    if len(words) == 1:
        return any_template(rng).format(words[0])
    return ", ".join(f"a {word}" for word in words[:-1]) + f" and a {words[-1]}"


def _colored(concept: int, color: int, rng: random.Random) -> str:
    name = any_name(concept, rng)
    return f"{list(COLORS)[color]} {name}" if color >= 0 and rng.random() < 0.8 else name


def _relation(first: tuple[float, float], second: tuple[float, float], margin: float = 0.15) -> str | None:
    """Say where the first center lies from the second; None when it is not plain. Coordinates are x, y in [0, 1]."""
    dx, dy = first[0] - second[0], first[1] - second[1]
    if max(abs(dx), abs(dy)) < margin:
        return None
    sign = (0, 1 if dy > 0 else -1) if abs(dy) > abs(dx) else (1 if dx > 0 else -1, 0)
    return next(words for words, place in _PLACES.items() if place == sign)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str], device: torch.device) -> Tensor:
    """Turn texts into token numbers (n, t), padded with the end mark to the longest."""
    numbers = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    return torch.tensor(numbers, device=device)


def encode_texts(model: Clip, tokenizer: CLIPTokenizer, texts: list[str], groups: int = 3) -> Tensor:
    """Encode texts to unit vectors (n, d), in groups of similar length so that little is padding."""
    device = model.log_scale.device
    numbers = tokenizer(texts)["input_ids"]
    order = torch.tensor(sorted(range(len(texts)), key=lambda i: len(numbers[i])))
    vectors = [model.text(tokenize(tokenizer, [texts[i] for i in part], device)) for part in order.chunk(groups)]
    return torch.cat(vectors)[order.argsort()]


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a CLIP tokenizer made from our own words into `folder`, if there is none yet, and load it."""
    if not (folder / "tokenizer_config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def _write_tokenizer(folder: Path) -> None:
    letters = _byte_letters()
    merges = _learn_merges(_word_counts())
    symbols = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    vocabulary = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "bos_token": START, "eos_token": END}
    config |= {"unk_token": END, "pad_token": END, "model_max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _word_counts() -> Counter[str]:
    counts: Counter[str] = Counter(_EXTRA_WORDS.split() * 5)
    for concept in CONCEPTS:
        for name in (concept.name, *concept.synonyms):
            counts.update(name.split() * 3)
    for phrase in (*BACKGROUND_TEXTS, *COLORS, *PHOTO_TEMPLATES, *_MORE_TEMPLATES, *_PLACES):
        counts.update(word.strip("{}.").lower() for word in phrase.split() * 3)
    counts.pop("", None)
    return counts


def _byte_letters() -> list[str]:
    """List the 256 printable stand-ins for bytes, in CLIP's order."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + n) for n in range(len(hidden))]


def _learn_merges(counts: Counter[str]) -> list[tuple[str, str]]:
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    merges: list[tuple[str, str]] = []
    while len(merges) < MERGE_COUNT:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {word: _merge(parts, best) for word, parts in words.items()}
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged
