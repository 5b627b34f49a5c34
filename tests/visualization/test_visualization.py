"""Pictures of results: what they show where, on any image and for any texts."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw

from clip_as_rnn.errors import InputError
from clip_as_rnn.result import Segmentation
from clip_as_rnn.visualization import text as lettering
from clip_as_rnn.visualization.colors import colors, heat
from clip_as_rnn.visualization.overlay import draw_overlay
from clip_as_rnn.visualization.steps import draw_recurrence
from fake_results import fake_segmentation

LONG = "a rather long description of a coffee cup on a wooden table near the window"
ODD_TEXTS = ("猫", "مرحبا", "🙂", "\n", "x" * 500, "train/bus", "e\u0301", "a\tb")


def _gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def _has_color(picture: np.ndarray, color: np.ndarray) -> bool:
    return bool((picture == color).all(axis=2).any())


def test_colors_are_the_first_of_one_list_and_all_differ():
    assert np.array_equal(colors(5), colors(300)[:5])
    assert len(np.unique(colors(255), axis=0)) == 255  # as many as a palette holds
    assert not (colors(255) == 0).all(axis=1).any()  # black is the background of label maps
    assert colors(0).shape == (0, 3)


def test_neighboring_colors_differ_for_every_eye():
    """Color-blind eyes, at the worst, see lightness only; among the first seven, hues were chosen by Okabe and Ito."""
    lightness = colors(60).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert all(abs(a - b) > 8 for a, b in pairwise(lightness[7:]))


def test_heat_grows_lighter_all_the_way():
    lightness = heat(np.linspace(0, 1, 256, dtype=np.float32)[None]).astype(float)[0] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -1).all()
    assert lightness[-1] - lightness[0] > 200
    assert np.array_equal(heat(np.array([[-1.0, 2.0]])), heat(np.array([[0.0, 1.0]])))


def test_a_mask_is_tinted_and_the_rest_left_as_it_is():
    masks = np.zeros((1, 400, 400), bool)
    masks[0, :200] = True
    picture = draw_overlay(_gray(400, 400), Segmentation(("a",), ("a",), masks, np.array([0.9])))
    tint = np.round(0.5 * 128 + 0.5 * colors(1)[0])
    assert np.array_equal(picture[20, 20], tint)
    assert (picture[205:400] == 128).all()


def test_the_higher_score_is_on_top():
    masks = np.ones((2, 400, 400), bool)
    picture = draw_overlay(_gray(400, 400), Segmentation(("a", "b"), ("a", "b"), masks, np.array([0.9, 0.5])))
    assert np.array_equal(picture[20, 20], np.round(0.5 * 128 + 0.5 * colors(1)[0]))


def test_the_legend_shows_a_swatch_for_texts_found_and_none_for_those_rejected():
    segmentation = fake_segmentation((400, 400), ("cat", "ghost", "dog"), {"ghost": 1})
    legend = draw_overlay(_gray(400, 400), segmentation)[400:]
    assert _has_color(legend, colors(2)[0])
    assert _has_color(legend, colors(2)[1])
    assert not _has_color(legend, colors(3)[2])
    assert _has_color(legend, np.array(lettering.GRAY))
    assert not _has_color(
        draw_overlay(_gray(400, 400), fake_segmentation((400, 400), ("cat",)))[400:], np.array(lettering.GRAY)
    )


@pytest.mark.parametrize("size_hw", [(3000, 400), (400, 3000), (3000, 1)])
def test_names_are_readable_beside_pictures_of_any_shape(size_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    texts = tuple(f"coffee cup {i}" for i in range(14))
    written, write = [], lettering.write
    monkeypatch.setattr(lettering, "write", lambda *given: (written.append(given[2]), write(*given))[1])
    draw_overlay(_gray(*size_hw), fake_segmentation(size_hw, texts))
    assert set(texts) <= set(written)


@pytest.mark.parametrize("size_hw", [(1, 1), (8, 8), (1, 3000), (3000, 1), (3000, 4000)])
def test_overlays_are_large_enough_to_read_and_not_larger(size_hw: tuple[int, int]):
    picture = draw_overlay(_gray(*size_hw), fake_segmentation(size_hw, ("cat", LONG, "dog"), {"dog": 1}))
    assert 320 <= picture.shape[1] <= 1600
    assert 320 <= max(picture.shape) <= 1800


def test_a_long_legend_is_cut():
    texts = tuple(f"text {i}" for i in range(1000))
    picture = draw_overlay(_gray(400, 400), fake_segmentation((400, 400), texts, dict.fromkeys(texts[10:], 1)))
    assert picture.shape[0] < 1100


@pytest.mark.parametrize("size_hw", [(1, 1), (8, 8), (1, 3000), (3000, 1), (300, 400)])
@pytest.mark.parametrize("texts", [("cat",), ODD_TEXTS, tuple(f"text {i}" for i in range(50))])
def test_the_figure_fits_any_image_and_texts(size_hw: tuple[int, int], texts: tuple[str, ...]):
    picture = draw_recurrence(_gray(*size_hw), fake_segmentation(size_hw, texts, {texts[0]: 1}))
    assert picture.dtype == np.uint8
    assert 300 <= picture.shape[1] <= 3000


def _cells(picture: np.ndarray, columns: int) -> np.ndarray:
    """Measure how much is drawn in each cell of a figure of square images and one-line headings: rows, columns."""
    width = int(np.clip(1600 // (columns + 1), 120, 300))
    size = int(np.clip(width // 11, 12, 18))
    line, gap = lettering.line_height_px(size), size // 2 + 2
    rows = (len(picture) - line - size - 2 * line) // (width + 2 * line)
    ink = (picture != 255).any(axis=2)
    return np.array(
        [
            [
                ink[line + size + r * (width + 2 * line) :, gap + c * (width + gap) :][:width, :width].mean()
                for c in range(columns + 1)
            ]
            for r in range(rows)
        ]
    )


def test_the_figure_has_a_row_per_step_and_a_column_per_text_that_ends_where_it_drops():
    segmentation = fake_segmentation((90, 90), ("cat", "ghost", "dog", "phantom"), {"ghost": 1, "phantom": 2})
    drawn = _cells(draw_recurrence(_gray(90, 90), segmentation), 4) > 0.5
    assert drawn.tolist() == [
        [False, True, True, True, True],
        [False, True, False, True, True],
        [False, True, False, True, False],
        [True, True, False, True, False],  # the masks
    ]


def test_dropped_proposals_are_crossed_out():
    segmentation = fake_segmentation((90, 90), ("cat", "ghost"), {"ghost": 1})
    picture = draw_recurrence(_gray(90, 90), segmentation)
    top, pitch = 24 + 18, 300 + 11
    kept, dropped = (picture[top : top + 300, 11 + c * pitch : 11 + c * pitch + 300] for c in (1, 2))
    diagonal = np.arange(10, 290)
    assert (dropped[diagonal, diagonal] > 200).all()
    assert not (kept[diagonal, diagonal] > 200).all(axis=1).all()


def test_the_figure_limits_texts_and_steps_and_says_so():
    few = fake_segmentation((90, 90), tuple(f"text {i}" for i in range(20)), {})
    texts = tuple(f"text {i}" for i in range(60))
    many = fake_segmentation((90, 90), texts, {text: i + 1 for i, text in enumerate(texts[:50])})
    small, large = (draw_recurrence(_gray(90, 90), one) for one in (few, many))
    assert large.shape[1] == small.shape[1]
    assert (_cells(large[2 * 16 :], 20) > 0.5).sum(axis=1)[:-1].max() == 20  # two lines of notes on top
    notes = large[: 12 // 2 + 2 + 2 * 16]
    assert _has_color(notes, np.array(lettering.GRAY))


def test_the_figure_of_no_steps_shows_the_masks_alone():
    made = fake_segmentation((90, 90), ("cat",))
    bare = Segmentation(made.queries, made.texts, made.masks, made.scores, trace=type(made.trace)(()))
    assert (_cells(draw_recurrence(_gray(90, 90), bare), 1) > 0.5).tolist() == [[True, True]]


def test_the_figure_needs_a_trace():
    with pytest.raises(InputError, match=r"Expected a segmentation with its trace, but got one without; segment with"):
        draw_recurrence(_gray(9, 9), fake_segmentation((9, 9), ("cat",), trace=False))


@pytest.mark.parametrize("text", [LONG, *ODD_TEXTS])
@pytest.mark.parametrize("width", [60, 120, 300])
def test_lines_fit_their_width(text: str, width: int):
    lines = lettering.wrap(text, 14, width, lines=3)
    assert len(lines) <= 3
    assert all(lettering.width_px(line, 14) <= width for line in lines)
    assert lettering.width_px(lettering.shorten(text, 14, width), 14) <= width


def test_texts_that_fit_are_not_cut():
    assert lettering.shorten("coffee cup", 14, 200) == "coffee cup"
    assert lettering.wrap("coffee cup", 14, 200, lines=3) == ["coffee cup"]
    assert lettering.wrap("coffee\n cup", 14, 50, lines=3) == ["coffee", "cup"]
    assert lettering.shorten(LONG, 14, 120).endswith("…")


def test_every_text_leaves_ink():
    for text in ("cat", "猫", "🙂"):
        canvas = Image.new("RGB", (60, 30), "white")
        lettering.write(ImageDraw.Draw(canvas), (2, 2), text, 16)
        assert np.asarray(canvas).min() < 128
