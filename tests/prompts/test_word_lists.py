"""Background texts as the paper and the release list them."""

from clip_as_rnn.prompts.templates import PHOTO_TEMPLATES
from clip_as_rnn.prompts.word_lists import BACKGROUND_GROUPS, BACKGROUND_PAPER, BACKGROUND_RELEASE


def test_texts_of_the_paper_are_counted_right():
    assert [len(group) for group in BACKGROUND_GROUPS.values()] == [32, 44, 36]
    assert len(set(BACKGROUND_PAPER)) == 112
    assert len(set(BACKGROUND_RELEASE)) == 23
    assert set(BACKGROUND_RELEASE) - set(BACKGROUND_PAPER) == {"helmet"}
    assert len(PHOTO_TEMPLATES) == 15
