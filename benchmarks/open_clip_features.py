"""Record what open_clip makes of two tiny models of its own, in its own environment: `make check-open-clip`.

Writes `tests/golden/open_clip/NAME/` (a model in OpenCLIP's format, and its features), or with --check compares what is
there with what open_clip computes now. The weights are random, drawn from a seed; float16, so that the files are small.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

try:
    import torchvision  # noqa: F401 - its build must be that of torch, of which it is not used
except RuntimeError:
    _MISSING = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        _MISSING.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip
from open_clip.model import CLIP

FOLDER = Path(__file__).parents[1] / "tests" / "golden" / "open_clip"
MODELS = {"gelu": {}, "quick_gelu": {"quick_gelu": True}}
DESCRIBED = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 514, "width": 24, "heads": 3, "layers": 2},
}
PREPARED = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
IDS = [[512, 7, 300, 513], [512, 1, 2, 3, 4, 5, 6, 513], [512, 513]]  # start, letters, end


def make(name: str) -> None:
    """Draw a model and save it as `open_clip` publishes them."""
    torch.manual_seed(11)
    model = CLIP(**DESCRIBED, **MODELS[name]).eval()
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.3)
        elif weights.ndim == 1:
            torch.nn.init.normal_(weights, mean=float(weights.detach().mean()), std=0.1)
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.half().contiguous() for key, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config = {"model_cfg": {**DESCRIBED, **MODELS[name]}, "preprocess_cfg": PREPARED}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def compute(name: str) -> dict[str, np.ndarray]:
    """Read a saved model by open_clip, and compute features of an image and of texts."""
    folder = FOLDER / name
    described = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    model = CLIP(**described).eval()
    model.load_state_dict(
        {key: value.float() for key, value in load_file(folder / "open_clip_model.safetensors").items()}
    )
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)).half().float()
    padded = torch.tensor([[*ids, *[0] * (20 - len(ids))] for ids in IDS])
    return {
        "pixels": pixels.numpy(),
        "ids": padded.numpy(),
        "images": model.encode_image(pixels, normalize=True).numpy(),
        "texts": model.encode_text(padded, normalize=True).numpy(),
        "logit_scale": model.logit_scale.exp().numpy(),
    }


def main() -> None:
    """Write the models and their features, or compare the features."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for name in MODELS:
        if not check:
            make(name)
            np.savez_compressed(FOLDER / name / "features.npz", **compute(name))
            continue
        recorded = np.load(FOLDER / name / "features.npz")
        worst = max(float(np.abs(recorded[key] - value).max()) for key, value in compute(name).items())
        print(f"open_clip {open_clip.__version__}, {name}: features differ from those recorded by at most {worst:.1e}")
        if worst > 1e-6:
            sys.exit(1)


if __name__ == "__main__":
    main()
