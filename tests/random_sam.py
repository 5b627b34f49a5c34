"""Small SAMs with random weights, made in memory or as folders: real shapes, no knowledge."""

import functools

import torch
from transformers import (
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)

FAMILIES = ("sam", "sam_hq", "sam2")
_PROMPTS = {"hidden_size": 32, "image_size": 64, "patch_size": 16}
_DECODER = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "window_size": 0,
    "global_attn_indexes": [1],
    "output_channels": 32,
    "num_pos_feats": 16,
    "initializer_range": 0.02,
}
_BACKBONE = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 12,
    "embed_dim_per_stage": [12, 24, 48, 96],
    "image_size": [128, 128],
}
_HIERA = {
    "model_type": "sam2_vision_model",
    "backbone_config": _BACKBONE,
    "backbone_channel_list": [96, 48, 24, 12],
    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
}
_MEMORY_WIDTHS = (
    "memory_attention_hidden_size",
    "memory_attention_feed_forward_hidden_size",
    "memory_encoder_hidden_size",
    "mask_downsampler_embed_dim",
    "memory_fuser_embed_dim",
    "memory_fuser_intermediate_dim",
)


def random_model(family, *, seed=0):
    """Make a model of transformers: "sam", "sam_hq", "sam2" or "sam2_video".

    Its logits and predicted IoUs are spread as widely as the usual thresholds need.
    """
    torch.manual_seed(seed)
    model = _build(family).eval()
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.4 if family == "sam" else 0.3)
    if family == "sam":
        model.mask_decoder.iou_prediction_head.proj_out.bias.data += 4
    return model


def _build(family):
    if family == "sam":
        return SamModel(SamConfig(vision_config=_VISION, prompt_encoder_config=_PROMPTS, mask_decoder_config=_DECODER))
    if family == "sam_hq":
        vision = {**_VISION, "window_size": 2}
        decoder = {**_DECODER, "vit_dim": 32}
        return SamHQModel(
            SamHQConfig(vision_config=vision, prompt_encoder_config=_PROMPTS, mask_decoder_config=decoder)
        )
    if family == "sam2":
        vision = {**_HIERA, "fpn_hidden_size": 32}
        prompts = {**_PROMPTS, "image_size": 128}
        return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=_DECODER))
    wide = {"hidden_size": 128}  # narrower video models crash
    return Sam2VideoModel(
        Sam2VideoConfig(
            vision_config={**_HIERA, "fpn_hidden_size": 128},
            prompt_encoder_config={**_PROMPTS, "image_size": 128, **wide},
            mask_decoder_config={**_DECODER, **wide},
            **dict.fromkeys(_MEMORY_WIDTHS, 128),
            memory_attention_num_layers=2,
            memory_attention_rope_feat_sizes=[8, 8],
            memory_encoder_output_channels=64,
            image_size=128,
        )
    )


@functools.cache
def _states(family, seed):
    return random_model(family, seed=seed)


def save_random_sam(folder, family="sam", *, seed=0):
    """Write a random SAM as transformers would, and return the folder."""
    _states(family, seed).save_pretrained(folder)
    return folder
