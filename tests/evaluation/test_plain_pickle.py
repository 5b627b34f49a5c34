"""Pickles that hold plain data are read; those that want more are stopped, and nothing of them runs."""

import os
import pickle
import random
import tracemalloc
from contextlib import suppress

import pytest

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets import referring
from clip_as_rnn.evaluation.datasets.referring import load_plain_pickle

PLAIN = [{"ref_id": 7, "sentences": [{"raw": "the left “dog”", "tokens": ("a", "b")}], "box": [1.5, -2], "ids": {1, 2}}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_and_numbers_come_back_from_every_protocol(tmp_path, protocol):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(PLAIN, protocol=protocol))
    assert load_plain_pickle(path) == PLAIN


def test_strings_of_python_2_are_read_as_utf_8(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(b"(lp0\nS'caf\\xc3\\xa9'\np1\na.")
    assert load_plain_pickle(path) == ["café"]


class Runs:
    """Its pickle would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_imports_os_is_stopped_before_anything_runs(tmp_path):
    path, trace = tmp_path / "refs.p", tmp_path / "made"
    path.write_bytes(pickle.dumps([Runs(str(trace))]))
    with pytest.raises(InputError, match=r"refs\.p, but it asks for (posix|nt)\.mkdir, which plain data never needs"):
        load_plain_pickle(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", [b"os\nsystem", b"builtins\neval", b"builtins\ngetattr", b"collections\nOrderedDict"])
def test_no_name_but_a_plain_container_is_ever_resolved(tmp_path, name):
    path = tmp_path / "refs.p"
    path.write_bytes(b"c" + name + b"\n.")
    with pytest.raises(InputError, match="asks for " + name.decode().replace("\n", r"\.")):
        load_plain_pickle(path)


def test_objects_outside_of_the_file_are_refused(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(b"Pelsewhere\n.")
    with pytest.raises(InputError, match="refers to objects outside of the file"):
        load_plain_pickle(path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_cut_off_anywhere_is_an_input_error(tmp_path, protocol):
    """Never a traceback of another kind, wherever the download broke off."""
    whole, path = pickle.dumps(PLAIN, protocol=protocol), tmp_path / "refs.p"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"refs\.p (is truncated|is not a sound pickle)"):
            load_plain_pickle(path)


def test_something_else_than_a_pickle_is_an_input_error(tmp_path):
    path = tmp_path / "refs.p"
    path.write_text("<html>404 not found</html>")
    with pytest.raises(InputError, match="is not a sound pickle"):
        load_plain_pickle(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"h\x07.", "Memo value not found at index 7"),
        (b"\x8c\x01\xff.", "a text in it is not in UTF-8"),
        (b"K\x01K\x02s.", "a list in it is shorter than expected"),
    ],
)
def test_what_is_wrong_with_a_pickle_is_told_in_words(tmp_path, content, problem):
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"refs\.p is not a sound pickle: {problem}\.$"):
        load_plain_pickle(path)


def test_a_missing_pickle_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read .*refs\.p: No such file"):
        load_plain_pickle(tmp_path / "refs.p")


@pytest.mark.parametrize("index", [b"r\xff\xff\xff\x7f", b"p2147483647\n"])
def test_a_few_bytes_that_ask_for_gigabytes_get_none(tmp_path, index):
    """A memo as long as its greatest index would take 32 GB."""
    path = tmp_path / "refs.p"
    path.write_bytes(b"]" + index + b".")
    tracemalloc.start()
    assert load_plain_pickle(path) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_byte_arrays_which_are_reserved_before_they_are_read_are_refused(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(b"\x96\xff\xff\xff\xff\x01\x00\x00\x00data.")
    with pytest.raises(InputError, match=r"refs\.p is not a sound pickle"):
        load_plain_pickle(path)


@pytest.mark.parametrize(
    "length", [b"\x8e\xff\xff\xff\xff\xff\x00\x00\x00", b"B\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f"]
)
def test_a_length_beyond_the_end_is_refused_before_it_is_reserved(tmp_path, length):
    path = tmp_path / "refs.p"
    path.write_bytes(length + b"data.")
    with pytest.raises(InputError, match=r"refs\.p is truncated: its pickle ends before its data does"):
        load_plain_pickle(path)


def test_want_of_memory_has_a_sentence_of_its_own(tmp_path, monkeypatch):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(PLAIN))

    def want(_):
        raise MemoryError

    monkeypatch.setattr(referring.io, "BytesIO", want)
    with pytest.raises(InputError, match="more than this machine's memory can; check that it is the published file"):
        load_plain_pickle(path)


def test_no_damage_of_a_pickle_is_more_than_an_input_error(tmp_path):
    path, dice = tmp_path / "refs.p", random.Random(0)
    for protocol in (0, 2, 4):
        sound = pickle.dumps(PLAIN, protocol=protocol)
        for _ in range(400):
            damaged = bytearray(sound)
            for _ in range(dice.randint(1, 3)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            path.write_bytes(damaged)
            with suppress(InputError):
                load_plain_pickle(path)
