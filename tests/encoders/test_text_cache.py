"""The cache of text features: what it saves, what it survives, and that it never changes a result."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_as_rnn.encoders import text_cache
from clip_as_rnn.encoders.text_cache import TextCache, cache_file
from untrained_clip import untrained_clip

TESTS = Path(__file__).parents[1]
TEXTS = ["cat", "dog", "a red car"]
PROGRAM = """
import sys
from pathlib import Path
from clip_as_rnn.encoders.text_cache import TextCache
from untrained_clip import untrained_clip
clip = untrained_clip()
read = []
original = clip.encode_text
clip.encode_text = lambda texts: (read.extend(texts), original(texts))[1]
features = TextCache(clip, Path(sys.argv[1]))(sys.argv[2:])
print(len(read), features.double().sum().item())
"""


def in_another_process(file, *texts):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file), *texts], stdout=subprocess.PIPE, text=True, cwd=TESTS
    )


@pytest.fixture(scope="module")
def model():
    return untrained_clip()


@pytest.fixture
def clip(model, monkeypatch):
    """Record the texts that CLIP really reads."""
    read, original = [], model.encode_text

    def counted(texts):
        read.extend(texts)
        return original(texts)

    monkeypatch.setattr(model, "encode_text", counted)
    model.read = read
    return model


def test_features_are_clips_own(clip):
    torch.testing.assert_close(TextCache(clip)(TEXTS), clip.encode_text(TEXTS))


def test_a_text_is_read_once_in_a_run(clip):
    features = TextCache(clip)
    first = features(["cat", "dog", "cat"])
    again = features(["dog", "cat"])
    assert clip.read == ["cat", "dog"]
    assert torch.equal(again, first[[1, 0]])
    assert torch.equal(first[0], first[2])


def test_every_batch_of_unknown_texts_is_announced(clip, monkeypatch):
    monkeypatch.setattr(text_cache, "_TEXTS_PER_BATCH", 2)
    told, features = [], TextCache(clip)
    features(["cat"])
    features(["cat", "dog", "cow", "pig"], lambda done, total: told.append((done, total)))
    features(["cat", "dog", "cow", "pig"], lambda *_: pytest.fail("all of them are known"))
    assert told == [(0, 3), (2, 3)]


def test_what_was_read_before_a_run_was_stopped_is_kept(clip, monkeypatch, tmp_path):
    def stop(done, _):
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(text_cache, "_TEXTS_PER_BATCH", 2)
    with pytest.raises(KeyboardInterrupt):
        TextCache(clip, tmp_path / "texts.sqlite")(TEXTS, stop)
    TextCache(clip, tmp_path / "texts.sqlite")(TEXTS)
    assert clip.read == TEXTS


def test_a_text_is_read_once_from_run_to_run(clip, tmp_path):
    first = TextCache(clip, tmp_path / "texts.sqlite")(TEXTS)
    again = TextCache(clip, tmp_path / "texts.sqlite")([*TEXTS, "new"])
    assert clip.read == [*TEXTS, "new"]
    assert torch.equal(again[:3], first)


def test_a_thousand_texts_come_back_from_the_disk(clip, tmp_path):
    texts = [f"{i} cats" for i in range(1000)]
    first = TextCache(clip, tmp_path / "texts.sqlite")(texts)
    clip.read.clear()
    assert torch.equal(TextCache(clip, tmp_path / "texts.sqlite")(texts[::-1]), first.flip(0))
    assert clip.read == []


def test_two_processes_share_one_cache(tmp_path):
    file = tmp_path / "texts.sqlite"
    at_once = [in_another_process(file, *texts) for texts in (TEXTS, [*TEXTS[::-1], "new"])]
    answers = [process.communicate()[0].split() for process in at_once]
    assert [process.returncode for process in at_once] == [0, 0]
    read, total = in_another_process(file, *TEXTS, "new").communicate()[0].split()
    assert read == "0"
    assert float(total) == pytest.approx(float(answers[1][1]), abs=1e-5)


def test_other_weights_and_other_precisions_are_kept_apart(clip, tmp_path):
    TextCache(clip, tmp_path / "texts.sqlite")(["cat"])
    other = untrained_clip(seed=1)
    torch.testing.assert_close(TextCache(other, tmp_path / "texts.sqlite")(["cat"]), other.encode_text(["cat"]))
    rough = untrained_clip(dtype=torch.bfloat16)
    assert torch.equal(TextCache(rough, tmp_path / "texts.sqlite")(["cat"]), rough.encode_text(["cat"]))


def test_a_corrupt_file_costs_time_only(clip, tmp_path):
    file = tmp_path / "texts.sqlite"
    file.write_bytes(b"this is no database" * 100)
    torch.testing.assert_close(TextCache(clip, file)(TEXTS), clip.encode_text(TEXTS))


def test_a_row_of_another_width_is_not_believed(clip, tmp_path):
    file = tmp_path / "texts.sqlite"
    wide = untrained_clip(width=24)  # the same fingerprint by mistake
    TextCache(wide, file)(["cat"])
    assert TextCache(clip, file)(["cat"]).shape == (1, 16)
    assert clip.read == ["cat"]


@pytest.mark.parametrize(
    "blob",
    [
        np.full(16, np.nan, np.float32).tobytes(),
        np.full(16, np.inf, np.float32).tobytes(),
        np.zeros(16, np.float32).tobytes(),
        np.ones(16, np.float32).tobytes(),
        np.full(15, 15**-0.5, np.float32).tobytes(),
        b"",
        "no blob",
        7,
        None,
    ],
)
def test_a_row_that_is_no_feature_is_read_anew(clip, tmp_path, blob):
    file = tmp_path / "texts.sqlite"
    expected = TextCache(clip, file)(TEXTS)
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("UPDATE text_features SET feature = ?", (blob,))
    clip.read.clear()
    torch.testing.assert_close(TextCache(clip, file)(TEXTS), expected)
    assert clip.read == TEXTS
    clip.read.clear()
    TextCache(clip, file)(TEXTS)
    assert clip.read == []  # mended


def test_the_file_shows_nobodys_words(clip, tmp_path):
    file = tmp_path / "texts.sqlite"
    with closing(sqlite3.connect(file)) as store, store:  # as the first format kept them
        store.execute("CREATE TABLE features (owner TEXT, text TEXT, feature BLOB, PRIMARY KEY (owner, text))")
        store.execute("INSERT INTO features VALUES ('me', 'an older secret', x'00')")
    TextCache(clip, file)(["my secret cat"])
    assert b"secret" not in file.read_bytes()
    with closing(sqlite3.connect(file)) as store:
        assert store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("text_features",)]


def test_the_file_stays_bounded_and_forgets_what_was_written_first(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("clip_as_rnn.encoders.text_cache._KEPT_ROWS", 10)
    file = tmp_path / "texts.sqlite"
    for start in range(0, 40, 4):
        TextCache(clip, file)([f"{i} cats" for i in range(start, start + 4)])
    with closing(sqlite3.connect(file)) as store:
        assert store.execute("SELECT count(*) FROM text_features").fetchone() == (10,)
    clip.read.clear()
    TextCache(clip, file)(["39 cats", "30 cats", "29 cats", "0 cats"])
    assert clip.read == ["29 cats", "0 cats"]


def test_texts_that_are_no_unicode_have_keys_of_their_own(clip):
    cache = TextCache(clip)
    assert cache._key("\ud800") != cache._key("\ud801")


def test_a_folder_that_cannot_be_written_costs_time_only(clip, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("no folder", encoding="utf-8")
    assert TextCache(clip, blocker / "texts.sqlite")(TEXTS).shape == (3, 16)
    clip.read.clear()
    assert TextCache(clip, blocker / "texts.sqlite")(TEXTS).shape == (3, 16)
    assert clip.read == TEXTS


def test_no_texts_need_no_cache(clip, tmp_path):
    assert TextCache(clip, tmp_path / "texts.sqlite")([]).shape == (0, 16)
    assert not (tmp_path / "texts.sqlite").exists()


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_AS_RNN_CACHE", str(tmp_path))
    assert cache_file() == tmp_path / "texts.sqlite"


@pytest.mark.parametrize("word", ["off", "OFF"])
def test_the_cache_can_be_switched_off(monkeypatch, word):
    monkeypatch.setenv("CLIP_AS_RNN_CACHE", word)
    assert cache_file() is None


def test_without_a_choice_the_usual_cache_folder_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("CLIP_AS_RNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "clip-as-rnn" / "texts.sqlite"


@pytest.mark.parametrize("empty", [None, ""])
def test_without_a_home_there_is_no_cache(monkeypatch, empty):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CLIP_AS_RNN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if empty is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", empty)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_file() is None


def test_without_a_home_a_named_cache_folder_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: pytest.fail("asked for the home"))
    monkeypatch.delenv("CLIP_AS_RNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "clip-as-rnn" / "texts.sqlite"


def test_a_folder_that_cannot_be_entered_costs_time_only(clip, tmp_path, monkeypatch):
    def deny(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", deny)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: deny(None))
    assert TextCache(clip, tmp_path / "texts.sqlite")(TEXTS).shape == (3, 16)


def test_memory_stays_bounded_however_many_texts_come(clip, monkeypatch):
    monkeypatch.setattr("clip_as_rnn.encoders.text_cache._KEPT_TEXTS", 4)
    features = TextCache(clip)
    for i in range(6):
        asked = [f"{i} cats", f"{i} dogs", f"{i} cats"]
        torch.testing.assert_close(features(asked), clip.encode_text(asked), atol=1e-5, rtol=0)
        assert len(features._known) <= 4
    many = [f"{i} cups" for i in range(9)]
    torch.testing.assert_close(features(many), clip.encode_text(many), atol=1e-5, rtol=0)
