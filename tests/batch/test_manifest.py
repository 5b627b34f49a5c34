"""The record of a run: what it remembers, what it refuses, and what a kill leaves of it."""

import json
from pathlib import Path

import pytest

from clip_as_rnn.batch.job import Outcome
from clip_as_rnn.batch.manifest import MANIFEST, Manifest
from clip_as_rnn.batch.sources import Source
from clip_as_rnn.errors import InputError

SETTINGS = {"texts": ("cat",), "score_threshold": 0.4}
MODELS = {"model_fingerprint": "a"}


def opened(folder: Path, *, overwrite: bool = False, mixed: bool = False, **changes: object) -> Manifest:
    return Manifest(folder, {**SETTINGS, **changes}, overwrite=overwrite, mixed=mixed)


def recorded(folder: Path, *images: str, **changes: object) -> None:
    with opened(folder, **changes) as manifest:
        manifest.begin(MODELS)
        for image in images:
            manifest.record([Outcome(Source(Path(image)), {"stem": Path(image).stem, "outputs": []})])


def test_what_was_recorded_is_there_when_it_is_opened_again(tmp_path: Path):
    recorded(tmp_path, "a.png", "caf\udce9.png")
    with opened(tmp_path) as manifest:
        assert list(manifest.entries) == ["a.png", "caf\udce9.png"]
        assert manifest.stems == {"a.png": "a", "caf\udce9.png": "caf\udce9"}
        manifest.begin(MODELS)
        manifest.record(
            [Outcome(Source(Path("a.png")), {"stem": "a", "error": "broken"}), Outcome(Source(Path("skipped.png")))]
        )
    lines = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert [line.get("image", "settings") for line in lines] == ["settings", "a.png", "caf\udce9.png", "a.png"]
    with opened(tmp_path) as manifest:
        assert manifest.entries["a.png"]["error"] == "broken"


def test_a_changed_setting_is_refused_with_the_difference(tmp_path: Path):
    recorded(tmp_path, "a.png")
    before = (tmp_path / MANIFEST).read_bytes()
    with pytest.raises(InputError) as error:
        opened(tmp_path, texts=("cat", "dog"), score_threshold=0.5)
    assert str(error.value) == (
        f"The folder {str(tmp_path)!r} holds results made with score_threshold = 0.4, now 0.5; texts = 'cat', now "
        "'cat', 'dog'. Choose another folder with -o, go on with what they were made with, or start anew with "
        "--overwrite."
    )
    assert (tmp_path / MANIFEST).read_bytes() == before
    with opened(tmp_path, score_threshold=0.5, overwrite=True) as manifest:
        assert (manifest.entries, manifest.stems) == ({}, {})
    with opened(tmp_path) as manifest:
        assert manifest.entries == {}


def test_other_weights_are_refused_once_they_are_known(tmp_path: Path):
    recorded(tmp_path, "a.png")
    with opened(tmp_path) as manifest, pytest.raises(InputError, match="model_fingerprint = 'a', now 'b'"):
        manifest.begin({"model_fingerprint": "b"})
    with opened(tmp_path, mixed=True) as manifest:
        manifest.begin({"model_fingerprint": "b"})
        assert manifest.entries == {}


def test_a_mixed_record_counts_what_other_settings_made_as_not_done_but_keeps_names(tmp_path: Path):
    recorded(tmp_path, "a.png", "b.png")
    recorded(tmp_path, "b.png", score_threshold=0.5, mixed=True)
    with opened(tmp_path, mixed=True) as manifest:
        assert (list(manifest.entries), manifest.stems) == (["a.png"], {"a.png": "a", "b.png": "b"})
        manifest.begin(MODELS)
    with opened(tmp_path) as manifest:  # it ended with these settings
        assert list(manifest.entries) == ["a.png"]


@pytest.mark.parametrize("torn", [b'{"image": "b.png", "ru', b"\x00\x00\xff", b"{" * 5000, b"17\n", b""])
def test_a_line_that_was_torn_off_is_none_and_what_follows_is_whole(tmp_path: Path, torn: bytes):
    recorded(tmp_path, "a.png")
    with (tmp_path / MANIFEST).open("ab") as file:
        file.write(torn)
    recorded(tmp_path, "c.png")
    with opened(tmp_path) as manifest:
        assert list(manifest.entries) == ["a.png", "c.png"]


def test_the_second_of_two_runs_at_once_is_refused(tmp_path: Path):
    with opened(tmp_path) as first:
        with pytest.raises(InputError) as error:
            opened(tmp_path, overwrite=True)
        first.begin(MODELS)
        first.record([Outcome(Source(Path("a.png")), {"stem": "a"})])
    assert str(error.value) == (
        f"Another run is writing to {str(tmp_path)!r}; wait for its end, or choose another folder with -o."
    )
    with opened(tmp_path) as manifest:
        assert list(manifest.entries) == ["a.png"]


def test_a_record_that_cannot_be_opened_is_said_in_one_sentence(tmp_path: Path):
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(InputError, match=r"The record '.*results\.jsonl' cannot be written: Is a directory\."):
        opened(tmp_path)
