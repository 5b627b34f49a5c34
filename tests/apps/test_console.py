"""What is printed of users' words: nothing that a terminal would obey, and one line where one is promised."""

import pytest
from rich.console import Console

from clip_as_rnn.apps.cli.console import plain, result_table, say
from fake_results import fake_segmentation

OBEYED = ["\x1b[31mred", "a\x07", "a\nb", "a\r\x08b", "\x9b2J", "\u202egnp", "\u2066x", "a\u2028b", "\x7f"]


@pytest.mark.parametrize("words", OBEYED)
def test_signs_that_a_terminal_obeys_are_written_out(words: str, capsys: pytest.CaptureFixture[str]):
    assert plain(words).isprintable()
    assert plain(words) != words
    say(f"Error: {words}")
    assert capsys.readouterr().err == f"Error: {plain(words)}\n"


@pytest.mark.parametrize("words", ["犬 🐕 שלום", "👩‍👩‍👧‍👦", "[red]x[/red]", "naïve\u00a0café"])
def test_all_other_words_are_shown_as_they_are(words: str, capsys: pytest.CaptureFixture[str]):
    say(words)
    assert capsys.readouterr().err == f"{words}\n"


def test_no_text_or_name_in_a_table_is_obeyed(capsys: pytest.CaptureFixture[str]):
    texts = ("\x1b[31mred", "a\nb", "[bold]x")
    Console(width=200).print(result_table("line\nbreak\x1b.png", fake_segmentation((4, 6), texts, {"a\nb": 1})))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "line\\nbreak\\x1b.png" in out
    assert all(shown in out for shown in ("\\x1b[31mred", "a\\nb", "[bold]x"))
