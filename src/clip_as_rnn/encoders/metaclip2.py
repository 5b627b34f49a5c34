"""MetaCLIP 2 (Chuang et al., NeurIPS 2025): CLIP's towers, and a tokenizer for the languages of the world."""

from dataclasses import replace
from pathlib import Path

import torch

from clip_as_rnn.encoders.checkpoint import load_model, read_logit_scale, read_preprocessor, weight_files
from clip_as_rnn.encoders.clip import CLIP_FORMAT, MEAN, STD, ClipEncoder
from clip_as_rnn.encoders.fingerprint import fingerprint
from clip_as_rnn.encoders.model_config import read_config
from clip_as_rnn.encoders.tokenizer_file import check_end, read_tokenizer, tokenize_with

METACLIP2_FORMAT = replace(CLIP_FORMAT, model_type="metaclip_2", prefix="MetaClip2")


class MetaClip2Encoder(ClipEncoder):
    """A frozen MetaCLIP 2. The token that ends a text, by which it is read, is the tokenizer's own."""

    family = "MetaCLIP 2"


def read_metaclip2(folder: Path, device: torch.device, dtype: torch.dtype) -> MetaClip2Encoder:
    """Read a MetaClip2Model folder; see `families.read_encoder` for what is raised."""
    config, files = read_config(METACLIP2_FORMAT, folder), weight_files(folder)
    tokenize = tokenize_with(read_tokenizer(folder, config.text_config.vocab_size))
    check_end(tokenize, config.text_config.eos_token_id)
    preprocessor = read_preprocessor(folder, config.vision_config.image_size, mean=MEAN, std=STD)
    model = load_model(METACLIP2_FORMAT, config, files, device, dtype)
    return MetaClip2Encoder(model, tokenize, preprocessor, fingerprint(folder), read_logit_scale(files))
