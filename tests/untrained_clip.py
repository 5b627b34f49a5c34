"""CLIP models with random weights, small and made in memory: real shapes, no knowledge."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from clip_as_rnn.encoders.clip import ClipEncoder
from clip_as_rnn.encoders.preprocess import PreprocessorConfig
from clip_as_rnn.encoders.tokenizer import load_tokenizer

GOLDEN = Path(__file__).parent / "golden"
CLIP_PREPARATION = PreprocessorConfig(32, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def untrained_clip(*, seed=0, layers=3, heads=2, patch_px=8, width=16, dtype=torch.float32):
    """Make a CLIP whose features differ from text to text and from image to image."""
    torch.manual_seed(seed)
    tower = {
        "hidden_size": 8 * heads,
        "intermediate_size": 32,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
    }
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513},
        vision_config={**tower, "patch_size": patch_px, "image_size": 32},
        projection_dim=width,
        logit_scale_init_value=4.6052,
    )
    model = CLIPModel(config)
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.3)
    tokenizer = load_tokenizer(GOLDEN / "generator", 514)
    return ClipEncoder(model.to(dtype), tokenizer, CLIP_PREPARATION, f"random {seed}")
