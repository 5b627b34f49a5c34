"""How texts are put into templates."""

from clip_as_rnn.prompts.templates import fill


def test_a_text_is_put_into_its_template_as_it_is():
    assert fill("a clean origami {}.", ["cat", "a {brace}"]) == ["a clean origami cat.", "a clean origami a {brace}."]
