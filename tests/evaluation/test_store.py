"""Records of a run: as they were written, torn by a kill, or of somebody else."""

import json

import pytest

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.metrics.referring import Overlap, ReferenceOverlaps
from clip_as_rnn.evaluation.metrics.semantic import ImageCounts, PixelCount
from clip_as_rnn.evaluation.store import Record, RecordStore, read_description

SEMANTIC = Record("a", 0.5, ImageCounts((PixelCount(0, 1, 9), PixelCount(1, 1, 4)), (1, 2), (1,)))
WARNED = Record("w", 0.5, ImageCounts((), (), (), unknown_pixels=7, unknown_value=-3))
REFERRING = Record("b", 0.25, ReferenceOverlaps(Overlap(1, 2), Overlap(3, 4), (Overlap(5, 6),), True, False))
DIGEST = "0123456789abcdef"
FAILED = Record("c", 0.0, failure="Broken: “ß”\n")


@pytest.mark.parametrize("record", [SEMANTIC, WARNED, REFERRING, FAILED])
def test_records_come_back_as_they_were_written(tmp_path, record):
    RecordStore(tmp_path, DIGEST).append(record)
    store = RecordStore(tmp_path, DIGEST)
    assert store.read() == {record.name: record}


@pytest.mark.parametrize("length", range(1, 40, 3))
def test_a_line_torn_off_by_a_kill_is_left_behind(tmp_path, length):
    store = RecordStore(tmp_path, DIGEST)
    store.append(SEMANTIC)
    path = tmp_path / "records/1-of-1.ndjson"
    path.write_bytes(path.read_bytes() + path.read_bytes()[:length])
    store = RecordStore(tmp_path, DIGEST)
    store.append(REFERRING)
    for reader in (store, RecordStore(tmp_path, DIGEST)):
        assert reader.read() == {"a": SEMANTIC, "b": REFERRING}


def test_a_failure_never_hides_a_result_of_another_shard(tmp_path):
    RecordStore(tmp_path, DIGEST, "1-of-2").append(SEMANTIC)
    RecordStore(tmp_path, DIGEST, "2-of-2").append(Record("a", 0.0, failure="Broken."))
    assert RecordStore(tmp_path, DIGEST).read() == {"a": SEMANTIC}


LINE = '{"run":"0123456789abcdef","name":"a","seconds":0.1,"failure":null,'
FOREIGN = {
    "no object": "17",
    "no name": '{"run":"0123456789abcdef"}',
    "too deep": "[" * 100_000,
    "too few numbers": LINE + '"counts":[[1]],"kept":[],"masked":[]}',
    "a negative label": LINE + '"counts":[[-1,0,5]],"kept":[],"masked":[]}',
    "a text for a label": LINE + '"counts":[],"kept":["dog"],"masked":[]}',
    "more pixels than there are": LINE + f'"counts":[[1,0,{10**30}]],"kept":[],"masked":[]}}',
    "no overlap": LINE + '"overlaps":[],"has_target":true,"is_empty":false}',
    "a number for a flag": LINE + '"overlaps":[[1,2],[1,2]],"has_target":1,"is_empty":false}',
    "neither result nor failure": LINE + '"kept":[]}',
    "no time": LINE.replace("0.1", "NaN") + '"counts":[],"kept":[],"masked":[]}',
}


@pytest.mark.parametrize("line", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_line_that_is_no_record_is_told_with_its_place(tmp_path, line):
    store = RecordStore(tmp_path, DIGEST)
    store.append(SEMANTIC)
    path = tmp_path / "records/1-of-1.ndjson"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(InputError, match=r"^Line 2 of .*1-of-1\.ndjson is no record of `car evaluate` \(.*\); take"):
        store.read()


def test_records_that_cannot_be_written_are_an_input_error(tmp_path):
    (tmp_path / "records").write_text("in the way")
    with pytest.raises(InputError, match=r"The results cannot be written to .*records': "):
        RecordStore(tmp_path, DIGEST).append(SEMANTIC)


@pytest.mark.parametrize("content", ['{"preset": 1}', '["a"]', "3", "[" * 100_000])
def test_a_description_that_is_none_is_an_input_error(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(
        InputError, match=r"Expected the (preset, protocol, .* of a run in|output folder of `car evaluate`)"
    ):
        read_description(tmp_path)


def test_a_description_with_a_list_for_settings_is_an_input_error(tmp_path):
    fields = {"preset": "tiny", "protocol": {}, "settings": [], "models": {}, "software": {}}
    (tmp_path / "run.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"of a run in .*run\.json, but that is something else"):
        read_description(tmp_path)
