"""Tiny models of every family with random weights, made and saved by transformers, and what transformers makes of them.

Everything that ours is held against is read here from the library's own modules; nothing of ours is called.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from torch.nn import functional
from transformers import (
    AutoModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    Tipsv2Config,
    Tipsv2Model,
)
from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

WORDS = ("cat", "dog", "red", "car", "photo", "of", "the", "sky", "wall")
LETTERS = [chr(code) for code in range(33, 127)]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
VISION = {**TOWER, "patch_size": 8, "image_size": 32}
INTERPOLATE = {"interpolate_pos_encoding": True}
PIECES = ["▁", *LETTERS, *WORDS, *(f"▁{word}" for word in WORDS)]


@dataclass(frozen=True)
class Library:
    """A saved model as transformers reads it.

    Attributes:
        folder: where it is saved.
        model: float32, with attention in plain operations.
        texts: from texts to the library's features.
        layers: of its image tower.
        read: from the image tower's output and the model to a feature per patch and z, as the family defines them.
        extra: tokens before those of the patches.
        finish: from the model and tokens after the last block to features, in families with a class token.
        interpolation: options by which the library reads images of other sizes as ours does.
    """

    folder: Path
    model: Any
    texts: Callable[[list[str]], torch.Tensor]
    layers: Callable[[Any], Any]
    read: Callable[[Any, Any], tuple[torch.Tensor, torch.Tensor]]
    extra: int
    finish: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    interpolation: dict[str, bool] | None = None

    def images(self, pixels, **options):
        with torch.no_grad():
            return functional.normalize(self.model.get_image_features(pixels, **options).pooler_output, dim=1)

    def patches(self, pixels, **options):
        with torch.no_grad():
            patches, pooled = self.read(self.model.vision_model(pixels, **options), self.model)
        return functional.normalize(patches, dim=1), pooled


def shuffle(model):
    """Draw weights by which features differ from text to text and from image to image."""
    for name, weights in model.named_parameters():
        if weights.ndim > 1 or "bias" in name:
            torch.nn.init.normal_(weights, std=0.3)
        elif weights.numel() > 1:  # of layer norms, and of LayerScale
            torch.nn.init.normal_(weights, mean=1, std=0.2)
    return model.eval().requires_grad_(False)


def save_unigram(folder, specials, unknown, template):
    """Save a tokenizer of pieces with scores, as SentencePiece makes them, that asks for padding and truncation."""
    vocab = [(token, 0.0) for token in specials] + [(piece, -8.0 / len(piece)) for piece in PIECES]
    tokenizer = Tokenizer(Unigram(vocab, unk_id=specials.index(unknown), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, i) for i, token in enumerate(specials)]
    )
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=9, pad_token=specials[1], pad_id=1)
    tokenizer.save(str(folder / "tokenizer.json"))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token=specials[1], unk_token=unknown
    ), len(vocab)


def project(model, tokens):
    return model.visual_projection(model.vision_model.post_layernorm(tokens))


def clip_patches(output, model):
    patches = project(model, output.last_hidden_state[0, 1:])
    return patches, patches.mean(0)


def save_metaclip2(folder):
    tokenizer, size = save_unigram(folder, ["<s>", "<pad>", "</s>", "<unk>"], "<unk>", "<s> $A </s>")
    text = {**TOWER, "vocab_size": size, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = MetaClip2Config(
        text_config={**text, "max_position_embeddings": 40}, vision_config=VISION, projection_dim=12
    )
    shuffle(MetaClip2Model(config)).save_pretrained(folder)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager")

    def texts(asked):
        batch = tokenizer(asked, padding="longest", truncation=False)
        ids = torch.tensor(batch["input_ids"])
        return model.get_text_features(ids, torch.tensor(batch["attention_mask"])).pooler_output

    return Library(folder, model, texts, lambda one: one.vision_model.encoder.layers, clip_patches, 1, project)


def siglip_patches(output, model):
    hidden = output.last_hidden_state
    alone = hidden.transpose(0, 1)  # every patch as an image of its own
    return model.vision_model.head(alone), output.pooler_output[0]


def canonical(text):
    """What SigLIP's texts were before they were tokenized: small letters, no punctuation, single spaces."""
    for sign in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~":
        text = text.replace(sign, "")
    return " ".join(text.lower().split())


def save_siglip_model(folder, size):
    text = {**TOWER, "vocab_size": size, "max_position_embeddings": 40, "projection_size": 16}
    text |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    shuffle(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))).save_pretrained(folder)
    return AutoModel.from_pretrained(folder, attn_implementation="eager")


def save_siglip(folder):
    tokenizer, size = save_unigram(folder, ["<pad>", "</s>", "<unk>"], "<unk>", "$A </s>")
    model = save_siglip_model(folder, size)

    def texts(asked):
        ids = [tokenizer(canonical(text), padding=False, truncation=False)["input_ids"] for text in asked]
        return model.get_text_features(torch.tensor([[*one, *[1] * (40 - len(one))] for one in ids])).pooler_output

    return Library(
        folder, model, texts, lambda one: one.vision_model.encoder.layers, siglip_patches, 0, None, INTERPOLATE
    )


def save_siglip2(folder):
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = {
        token: i for i, token in enumerate([*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS])
    }
    merges = []
    for word in WORDS:
        for length in range(2, len(word) + 1):
            if word[:length] not in vocab:
                vocab[word[:length]] = len(vocab)
                merges.append((word[: length - 1], word[length - 1]))
    tokenizer = Siglip2Tokenizer(vocab=vocab, merges=merges)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.save_pretrained(folder)
    model = save_siglip_model(folder, len(tokenizer))

    def texts(asked):
        ids = tokenizer(asked, padding="max_length", max_length=40, truncation=True, padding_side="right")["input_ids"]
        return model.get_text_features(torch.tensor(ids)).pooler_output

    return Library(
        folder, model, texts, lambda one: one.vision_model.encoder.layers, siglip_patches, 0, None, INTERPOLATE
    )


def tipsv2_patches(output, model):
    patches = output.last_hidden_state[0, 2:]
    return patches, patches.mean(0)


def normalize(model, tokens):
    return model.vision_model.layernorm(tokens)


def save_tipsv2(folder, *, as_published=True, **vision_fields):
    """Save a TIPSv2 as it is published: weights under their old names, pieces of SentencePiece's own."""
    words = [f"a photo of the {word} {other} on a wall" for word in WORDS for other in WORDS]
    written = BytesIO()
    SentencePieceTrainer.Train(
        sentence_iterator=iter(words),
        model_writer=written,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    text = {**TOWER, "vocab_size": 320, "max_position_embeddings": 40, "bos_token_id": None, "eos_token_id": None}
    vision = {**{name: TOWER[name] for name in TOWER if name != "intermediate_size"}, "mlp_ratio": 2.0}
    vision |= {"patch_size": 8, "image_size": 32, "num_register_tokens": 1, **vision_fields}
    model = shuffle(Tipsv2Model(Tipsv2Config(text_config=text, vision_config=vision)))
    model.save_pretrained(folder, save_original_format=as_published)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager")
    pieces = SentencePieceProcessor(model_proto=written.getvalue())

    def texts(asked):
        ids = [pieces.Encode(text.lower()) for text in asked]
        padded = torch.tensor([[*one, *[0] * (40 - len(one))] for one in ids])
        return model.get_text_features(padded, (padded != 0).long()).pooler_output

    return Library(folder, model, texts, lambda one: one.vision_model.encoder.layer, tipsv2_patches, 2, normalize, {})


SAVED: dict[str, Callable[[Path], Library]] = {
    "metaclip2": save_metaclip2,
    "siglip": save_siglip,
    "siglip2": save_siglip2,
    "tipsv2": save_tipsv2,
}


def save_tiny(family, folder):
    """Make, save and read a model of a family; the same one at every call."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return SAVED[family](folder)
