"""A sample of the hostile corpus, which `make hostile` tries whole; and that the corpus is what it says."""

import os
from collections import Counter
from pathlib import Path

import pytest
from hostile_cases import Place
from hostile_doors import Doors
from hostile_run import MOST_MB, find_faults
from hostile_worker import cases, listener, peak_mb, reset_peak, tries

from clip_as_rnn import load_segmenter
from serving import serving

FRESH_MB = 500  # what a process holds that has done nothing else before
SAMPLE = {"pictures": 57, "texts": 26, "models": 17}  # one of so many


@pytest.fixture(scope="module")
def most_mb():
    """Return what this process may hold, which holds what other tests have left behind."""
    reset_peak()
    return MOST_MB + max(0, peak_mb() - FRESH_MB)


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    for folder in (root, *root.parents[:2]):
        folder.chmod(0o777)  # some cases are tried without rights
    settings = {"classify_by": "mask-tokens", "templates": (), "contrast_texts": (), "score_threshold": 0.0}
    segmenter = load_segmenter("tiny", text_cache=False, **settings)
    here = Path.cwd()
    with serving(segmenter) as server:
        yield Doors(segmenter, server, root)
    os.chdir(here)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in the decoder of pycocotools
@pytest.mark.parametrize(("group", "number"), [(g, i) for g, n in SAMPLE.items() for i in range(0, len(cases(g)), n)])
def test_a_hostile_case_ends_well_at_every_door(doors, most_mb, group, number):
    with listener() as (port, calls):
        ended = list(tries(doors, cases(group)[number], port, calls))
    assert len(ended) >= 2
    assert [f"{one.door}: {fault}" for one in ended for fault in find_faults(one, most_mb)] == []


def test_the_corpus_is_large_enough_and_names_nothing_twice():
    for group, least in (("pictures", 300), ("texts", 60), ("models", 40)):
        names = Counter((case.kind, case.name) for case in cases(group))
        assert len(names) >= least
        assert max(names.values()) == 1


def test_a_case_is_the_same_bytes_on_every_run(tmp_path):
    cases.cache_clear()
    stills = [case for case in cases("pictures") if not case.is_clip]  # encoders of clips put in numbers of their own
    for i, case in enumerate(stills[::29]):
        made = []
        for turn in ("one", "two"):
            folder = tmp_path / f"{i}" / turn
            folder.mkdir(parents=True)
            path = case.make(Place(folder=folder))
            made.append(path.read_bytes() if path.is_file() else b"")
        assert made[0] == made[1]
