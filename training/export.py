"""Write a trained CLIP as a Hugging Face `CLIPModel` folder in half precision."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig

from training.paths import ASSETS, WORK
from training.step import PIXEL_MEAN, PIXEL_STD
from training.towers import HEAD_WIDTH, TEXT_POSITIONS, Block, Clip, ClipSize

POSITIONS = "vision_model.embeddings.position_embedding.weight"
IMAGE_PX = 216  # of the exported model: what scenes of the benchmark have on average; trained at 192 and less
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


def export_clip(model: Clip, tokenizer: Path, folder: Path, *, image_px: int | None = None) -> None:
    """Write weights, settings and tokenizer to `folder`, once all of them are made; other files there stay.

    `image_px` is the side of the images that the exported model shall want, where that is not the trained one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = replace(model.size, image_px=image_px or model.size.image_px)
    named = named_weights(model)
    named[POSITIONS] = model.vision.positions((size.grid, size.grid))
    weights = {name: value.detach().half().contiguous().cpu() for name, value in named.items()}
    with tempfile.TemporaryDirectory(dir=folder) as made:
        part = Path(made)
        save_file(weights, part / WEIGHTS_FILE, metadata={"format": "pt"})
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, part / name)
        clip_config(size).save_pretrained(part)
        (part / "preprocessor_config.json").write_text(json.dumps(_processor(size.image_px), indent=2) + "\n")
        for file in sorted(part.iterdir(), key=lambda path: path.name == WEIGHTS_FILE):  # weights last
            file.chmod(0o644)
            file.replace(folder / file.name)


def clip_config(size: ClipSize) -> CLIPConfig:
    """Describe the model as transformers does."""
    both = {
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_attention_heads": size.width // HEAD_WIDTH,
        "projection_dim": size.width,
        "hidden_act": "quick_gelu",
    }
    end = size.vocabulary - 1
    text = {"vocab_size": size.vocabulary, "num_hidden_layers": size.text_layers, "bos_token_id": end - 1}
    text |= {"max_position_embeddings": TEXT_POSITIONS, "eos_token_id": end, "pad_token_id": end}
    vision = {"num_hidden_layers": size.vision_layers, "image_size": size.image_px, "patch_size": size.patch_px}
    config = CLIPConfig(text_config=both | text, vision_config=both | vision, projection_dim=size.width)
    config.architectures = ["CLIPModel"]
    config.dtype = "float16"
    return config


def named_weights(model: Clip) -> dict[str, Tensor]:
    """Give every weight its name in transformers' `CLIPModel`."""
    vision, text, p = model.vision, model.text, model.size.patch_px
    weights = {
        "logit_scale": model.scale.log(),
        "visual_projection.weight": vision.project.weight,
        "text_projection.weight": text.project.weight,
        "vision_model.embeddings.class_embedding": vision.cls,
        "vision_model.embeddings.patch_embedding.weight": vision.patch.weight.view(-1, 3, p, p),
        POSITIONS: vision.position,
        "text_model.embeddings.token_embedding.weight": text.token.weight,
        "text_model.embeddings.position_embedding.weight": text.position,
    }
    norms = {
        "vision_model.pre_layrnorm": vision.norm_pre,
        "vision_model.post_layernorm": vision.norm_post,
        "text_model.final_layer_norm": text.norm_post,
    }
    for name, norm in norms.items():
        weights |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
    for tower, blocks in (("vision_model", vision.blocks), ("text_model", text.blocks)):
        for number, block in enumerate(blocks):
            weights |= _block_weights(f"{tower}.encoder.layers.{number}", block)
    return weights


def _block_weights(name: str, block: Block) -> dict[str, Tensor]:
    parts = {
        "layer_norm1": block.norm1,
        "layer_norm2": block.norm2,
        "self_attn.out_proj": block.out,
        "mlp.fc1": block.up,
        "mlp.fc2": block.down,
    }
    weights = {}
    for part, module in parts.items():
        weights |= {f"{name}.{part}.weight": module.weight, f"{name}.{part}.bias": module.bias}
    for letter, weight, bias in zip("qkv", block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True):
        weights |= {f"{name}.self_attn.{letter}_proj.weight": weight, f"{name}.self_attn.{letter}_proj.bias": bias}
    return weights


def _processor(image_px: int) -> dict:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_px},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": image_px, "width": image_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(PIXEL_MEAN),
        "image_std": list(PIXEL_STD),
    }


def load_trained(path: Path) -> Clip:
    """Read the averaged model of a checkpoint."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    model = Clip(ClipSize(**stored["size"]))
    model.load_state_dict(stored["average"])
    return model.eval()


def main() -> None:
    """Export the average of a checkpoint or a milestone: `python -m training.export [folder] [--checkpoint FILE]`."""
    parser = argparse.ArgumentParser(description="Export a checkpoint's average.")
    parser.add_argument("folder", type=Path, nargs="?", default=ASSETS)
    parser.add_argument("--checkpoint", type=Path, default=WORK / "checkpoint.pt")
    parser.add_argument("--work", type=Path, default=WORK, help="where the tokenizer is")
    arguments = parser.parse_args()
    trained = load_trained(arguments.checkpoint)
    export_clip(trained, arguments.work / "tokenizer", arguments.folder, image_px=IMAGE_PX)


if __name__ == "__main__":
    main()
