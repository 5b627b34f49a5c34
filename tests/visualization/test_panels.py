"""Pictures in a row: one color per label, in all of them."""

import numpy as np

from clip_as_rnn.visualization.panels import Panel, draw_panels


def test_a_label_has_one_color_in_all_panels_and_background_none():
    image = np.full((20, 30, 3), 100, dtype=np.uint8)
    left, both = np.zeros((20, 30), dtype=int), np.zeros((20, 30), dtype=int)
    left[:, :10] = 2
    both[:, :10], both[:, 20:] = 2, -1
    sheet = draw_panels(image, [Panel("image", None), Panel("A", left), Panel("B", both)])
    tiles = [sheet[-20:, start : start + 30] for start in (0, 36, 72)]
    assert np.array_equal(tiles[0], image)
    assert np.array_equal(tiles[1][:, :10], tiles[2][:, :10])
    assert not np.array_equal(tiles[1][:, :10], image[:, :10])
    assert np.array_equal(tiles[1][:, 10:], image[:, 10:])
    assert len(np.unique(tiles[2][:, 20:])) == 1  # left-out pixels are gray
    assert tiles[2][0, 25, 0] > 100
