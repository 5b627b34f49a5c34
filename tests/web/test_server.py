"""Starting the page: what is refused before anything is loaded."""

import pytest

from clip_as_rnn.apps.cli import web as command
from clip_as_rnn.errors import DependencyError, InputError


def test_a_user_needs_a_password_and_a_password_a_user():
    pytest.importorskip("gradio", reason="the page needs Gradio")
    from clip_as_rnn.apps.web.server import Address

    for given in ({"user": "me"}, {"password": "open sesame"}):
        with pytest.raises(InputError, match="Expected a user and a password, but got only one"):
            Address(**given)


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install 'clip-as-rnn\[web\]'"):
        command.web(preset="tiny")


def test_the_command_hands_on_where_to_listen_and_keeps_no_words(monkeypatch):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    from clip_as_rnn.apps.web.server import Address

    seen = []
    monkeypatch.setattr("clip_as_rnn.loading.load_segmenter", lambda *_, text_cache, **__: {"kept": text_cache})
    monkeypatch.setattr("clip_as_rnn.apps.web.server.serve", lambda *given: seen.append(given[:2]))
    command.web(preset="tiny", host="0.0.0.0", port=80, name=["page.example"])
    assert seen == [({"kept": False}, Address(host="0.0.0.0", port=80, names=["page.example"]))]
