"""The dense CRF by its definition: the mean field over all pairs of points, in float64; and problems to try it on."""

from pathlib import Path

import numpy as np

from clip_as_rnn.dense_crf.crf import Bilateral, Gaussian
from clip_as_rnn.dense_crf.kernels import Kernel

GOLDEN = Path(__file__).parent / "golden"


SOFT = (Gaussian(xy=3, weight=3), Bilateral(xy=10, rgb=20, weight=5))


def make_problem(labels: int, height: int = 18, width: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cut a piece out of a photo and make blurred random probabilities for it."""
    generator = np.random.default_rng(seed)
    image = np.ascontiguousarray(np.load(GOLDEN / "crf_open_5.npz")["image"][40 : 40 + height, 60 : 60 + width])
    noise = generator.random((labels, height + 4, width + 4), dtype=np.float32) ** 2
    windows = np.lib.stride_tricks.sliding_window_view(noise, (5, 5), (1, 2))
    probabilities = windows.mean((-1, -2), dtype=np.float32)
    return image, probabilities / probabilities.sum(0)


def infer_exactly(
    image: np.ndarray,
    probabilities: np.ndarray,
    kernels: tuple[Kernel, ...],
    iterations: int,
    compatibility: np.ndarray | None = None,
) -> np.ndarray:
    """Run the mean field over all pairs of pixels, in float64."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    features = []
    for kernel in kernels:
        planes = [columns / kernel.xy, rows / kernel.xy]
        if isinstance(kernel, Bilateral):
            planes += [image[..., c] / kernel.rgb for c in range(3)]
        features.append(np.stack(planes).reshape(len(planes), -1))
    return infer_points_exactly(
        features, [kernel.weight for kernel in kernels], probabilities, iterations, compatibility
    )


def infer_points_exactly(
    features: list[np.ndarray],
    weights: list[float],
    probabilities: np.ndarray,
    iterations: int,
    compatibility: np.ndarray | None = None,
) -> np.ndarray:
    """Run the mean field over all pairs of points (d, p), in float64."""
    labels = len(probabilities)
    pairs = np.zeros((features[0].shape[1], features[0].shape[1]))
    for points, weight in zip(features, weights, strict=True):
        affinity = np.exp(-((points[:, :, None] - points[:, None].astype(np.float64)) ** 2).sum(0) / 2)
        root = affinity.sum(1) ** -0.5
        pairs += weight * root[:, None] * affinity * root
    energies = -np.log(np.clip(probabilities.reshape(labels, -1).astype(np.float64), 1e-5, 1))
    costs = 1 - np.eye(labels) if compatibility is None else compatibility
    marginals = softmax(-energies)
    for _ in range(iterations):
        marginals = softmax(-energies - costs @ (marginals @ pairs))
    return marginals.reshape(probabilities.shape)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)
