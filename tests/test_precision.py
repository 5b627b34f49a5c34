"""What the host program chose for itself changes nothing here: autocast, another default precision or device."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_as_rnn import load_segmenter
from clip_as_rnn.precision import own_precision

EXAMPLE = Path(__file__).parents[1] / "examples" / "park.jpg"
TEXTS = ("dog", "car", "banana")


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


HABITS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "double": lambda: default_dtype(torch.float64),
    "meta": lambda: torch.device("meta"),
}


@pytest.fixture(scope="module", params=[{}, {"proposals": "cam", "classify_by": "mask-tokens"}], ids=["tiny", "cam"])
def segmenter(request):
    return load_segmenter("tiny", device="cpu", text_cache=False, max_side_px=160, **request.param)


@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
def test_a_result_does_not_depend_on_the_hosts_habits(segmenter, habit):
    plain = segmenter.segment(EXAMPLE, TEXTS)
    with habit():
        result = segmenter.segment(EXAMPLE, TEXTS)
        encoder = load_segmenter("tiny", device="cpu", text_cache=False).models.proposal_encoder
    assert torch.equal(encoder.encode_text(TEXTS), segmenter.models.proposal_encoder.encode_text(TEXTS))
    assert result.texts == plain.texts
    np.testing.assert_array_equal(result.scores, plain.scores)
    np.testing.assert_array_equal(result.label_map(), plain.label_map())


@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
def test_nor_does_a_clip(segmenter, habit):
    shown = np.asarray(Image.open(EXAMPLE).convert("RGB").resize((96, 64)))
    clip, few = [shown, shown[:, ::-1].copy(), shown], {"window_frames": 2, "context_frames": 1, "clip_crf": True}
    looking = segmenter.replace(**few, score_threshold=0.0)  # something is left to smooth, refine and remember
    plain = list(looking.segment_video(iter(clip), TEXTS))
    with habit():
        results = list(looking.segment_video(iter(clip), TEXTS))
    for result, one in zip(results, plain, strict=True):
        assert result.texts == one.texts != ()
        np.testing.assert_array_equal(result.scores, one.scores)
        np.testing.assert_array_equal(result.label_map(), one.label_map())


def test_the_hosts_habits_are_as_before_afterwards():
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        with own_precision():
            assert not torch.is_autocast_enabled("cpu")
            assert torch.ones(1).device.type == "cpu"
        assert torch.is_autocast_enabled("cpu")
        assert torch.ones(1).device.type == "meta"
