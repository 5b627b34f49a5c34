"""Files of other people, nested deeper than Python's parser goes: one line, or what an unreadable line gives."""

import json

import pytest

from clip_as_rnn.batch.manifest import MANIFEST, Manifest
from clip_as_rnn.encoders.json_files import read_json
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.registry import find_dataset
from clip_as_rnn.evaluation.datasets.video import open_video_split
from clip_as_rnn.evaluation.store import RecordStore
from clip_as_rnn.export.files import read_record
from clip_as_rnn.video.records import FrameRecords

DEEP = "[" * 200_000


@pytest.fixture
def deep(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text(DEEP)
    with pytest.raises(RecursionError):
        json.loads(DEEP)
    return path


def test_a_model_folders_file_is_no_json(deep):
    with pytest.raises(ValueError, match=r"deep\.json is no JSON file"):
        read_json(deep)


def test_the_record_of_a_result_is_none(deep):
    assert read_record(deep) == {}


def test_a_line_of_a_clips_record_ends_it(deep):
    assert list(FrameRecords(deep)) == []
    assert not FrameRecords(deep).continues({"preset": "tiny"})


def test_a_line_of_a_runs_record_is_passed_over(tmp_path):
    (tmp_path / MANIFEST).write_text(DEEP + "\n")
    with Manifest(tmp_path, {"texts": ["dog"]}, overwrite=False, mixed=False) as manifest:
        assert list(manifest.entries) == []


def test_a_line_of_results_is_named(tmp_path):
    path = tmp_path / "records/1-of-1.ndjson"
    path.parent.mkdir()
    path.write_text(DEEP + "\n")
    store = RecordStore(tmp_path, "digest")
    with pytest.raises(InputError, match=r"Line 1 of .* is no record of `car evaluate` \(it is nested too deeply\)"):
        store.read()


def test_the_expressions_of_clips_cannot_be_read(tmp_path):
    path = tmp_path / "meta_expressions/valid/meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(DEEP)
    with pytest.raises(InputError, match=r"Cannot read .*meta_expressions\.json: .*recursion"):
        open_video_split(find_dataset("clips"), tmp_path, "valid")
