"""Which texts go on to the next step."""

import numpy as np

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.state import passing


def test_ties_for_the_best_go_to_the_earlier_text():
    config = with_settings(SegmenterConfig(), {"score_threshold": 0.9, "keep_best": True})
    assert passing(np.array([0.2, 0.4, 0.4], dtype=np.float32), config).tolist() == [1]
