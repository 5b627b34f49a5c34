"""Images of one size share a pass; which ones do, and that it changes nothing of what each of them gives alone."""

from dataclasses import dataclass

import pytest
import torch

from clip_as_rnn.encoders.passes import SharedPasses

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def images_of(*sizes_hw):
    """Make images of which each pixel is the image's number."""
    return [torch.full((1, 3, *size_hw), float(i)) for i, size_hw in enumerate(sizes_hw)]


@dataclass
class Seen:
    means: tuple[torch.Tensor, ...]
    nothing: None


class Tower:
    """Gives the mean of an image, and `off` more for every neighbor in the pass."""

    def __init__(self, device, off=0.0):
        self.off, self.passes = off, []
        self.shared = SharedPasses(8, device, self.see)

    def see(self, pixels):
        self.passes.append(tuple(pixels.shape))
        means = [one.mean() + self.off * (len(pixels) - 1) for one in pixels]
        return [Seen((mean, mean), None) for mean in means]

    def encode(self, images):
        return [float(one.means[0]) for one in self.shared.encode(images)]


def test_images_of_one_size_share_a_pass_and_come_out_in_their_order():
    tower = Tower(GPU)
    assert tower.encode(images_of((16, 24), (24, 16), (16, 24), (16, 16), (24, 16))) == [0, 1, 2, 3, 4]
    assert tower.passes == [(2, 3, 16, 24), (2, 3, 24, 16), (1, 3, 16, 16)]


def test_no_images_take_no_pass():
    tower = Tower(CPU)
    assert tower.encode([]) == []
    assert tower.passes == []


def test_an_image_smaller_than_a_patch_is_no_error():
    assert Tower(CPU).encode(images_of((4, 4), (4, 4))) == [0, 1]


@pytest.mark.parametrize(
    ("device", "side_px", "sizes"),
    [(CPU, 128, [2, 2, 1]), (CPU, 136, [1] * 5), (CPU, 2048, [1] * 5), (GPU, 512, [4, 1]), (GPU, 2048, [1] * 5)],
)
def test_a_pass_takes_no_more_patches_than_its_device_likes_and_always_one_image(device, side_px, sizes):
    images, tower = [torch.zeros(1, 3, 1, 1).expand(1, 3, side_px, side_px)] * 5, Tower(device)
    tower.encode(images)
    tower.passes.clear()
    tower.encode(images)  # by now it is known which shapes may share a pass
    assert [shape[0] for shape in tower.passes] == sizes


@pytest.mark.parametrize("threads", [1, 2])
def test_on_processors_a_shape_whose_bits_change_is_never_shared(threads):
    before = torch.get_num_threads()
    exact, off = Tower(CPU), Tower(CPU, off=1e-3)
    torch.set_num_threads(threads)
    try:
        for _ in range(3):
            assert exact.encode(images_of((8, 8), (8, 8))) == off.encode(images_of((8, 8), (8, 8))) == [0, 1]
    finally:
        torch.set_num_threads(before)
    assert [shape[0] for shape in exact.passes] == [2, 1, 1, 2, 2]  # looked at once
    assert [shape[0] for shape in off.passes] == [2, 1, 1, 1, 1, 1, 1]


def test_on_accelerators_passes_are_shared_as_they_come():
    tower = Tower(GPU, off=1.0)
    assert tower.encode(images_of((8, 8), (8, 8))) == [1, 2]
    assert tower.passes == [(2, 3, 8, 8)]
