"""What users ask for: what is refused, and which texts are one."""

from inspect import unwrap

import pytest

from clip_as_rnn.errors import InputError
from clip_as_rnn.prompts.queries import check_texts


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], r"Expected at least one text to look for, but got none\."),
        (["cat", "  "], r"Expected every text to hold a word, but got '  '\."),
        ([""], r"Expected every text to hold a word, but got ''\."),
        (["\u200b"], r"Expected every text to hold a word, but got '\\u200b'\."),
        (["\x00 "], r"Expected every text to hold a word, but got '\\x00 '\."),
        (["a\udc80"], r"Expected texts in Unicode, but got 'a\\udc80'; check the terminal's encoding\."),
        (["cat", None], r"Expected every text to hold a word, but got None\."),
        (["a" * 10_001], r"Expected texts of at most 10,000 characters, but 'a{20}'\.\.\. is longer\."),
        (["cat", " " * 10_001], r"Expected texts of at most 10,000 characters, but ' {20}'\.\.\. is longer\."),
        ("cat", r"Expected a list of texts, but got the single text 'cat'; write \['cat'\]\."),
    ],
)
def test_texts_that_cannot_be_looked_for_are_refused(texts, message):
    with pytest.raises(InputError, match=message):
        unwrap(check_texts)(texts)  # past the check of types in the tests, which would speak first


def test_texts_are_stripped_and_duplicates_merged_in_the_order_asked():
    assert check_texts([" cat ", "Dog", "CAT", "dog", "red  car", "red car"]) == ("cat", "Dog", "red  car")


def test_texts_are_merged_where_clip_reads_the_same_and_only_there():
    assert check_texts(["É", "e\u0301", "Straße", "strasse", "ΣΑΣ", "\u212a", "k"]) == (
        "É",
        "Straße",
        "strasse",
        "ΣΑΣ",
        "\u212a",
    )


def test_any_iterable_of_texts_will_do():
    for texts in (("cat", "dog"), {"cat": 1, "dog": 2}.keys(), (text for text in ("cat", "dog"))):
        assert unwrap(check_texts)(texts) == ("cat", "dog")
