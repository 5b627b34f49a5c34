"""Pickles that hold plain data are read; those that want more are stopped, and nothing of them runs."""

import os
import pickle

import pytest

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.pickles import load_plain_pickle

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


def test_a_missing_pickle_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read .*refs\.p: No such file"):
        load_plain_pickle(tmp_path / "refs.p")
