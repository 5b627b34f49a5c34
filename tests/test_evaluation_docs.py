"""The pages on evaluation keep up with the code: every data set, part and setting is named, and none that is not."""

import re
from dataclasses import fields
from pathlib import Path

from clip_as_rnn.config import PRESETS, SegmenterConfig
from clip_as_rnn.evaluation.ablation import PARTS
from clip_as_rnn.evaluation.datasets import DATASETS, ReferringDataset

DOCS = Path(__file__).parents[1] / "docs"
FIELDS = {field.name for field in fields(SegmenterConfig)}


def test_every_setting_in_which_official_presets_differ_is_explained():
    named = set(re.findall(r"`(\w+)(?:=[^`]*)?`", (DOCS / "official.md").read_text()))
    for name, official in PRESETS.items():
        paper = PRESETS.get(name.replace("official-", "paper-"), official)
        differing = {field for field in FIELDS if getattr(official, field) != getattr(paper, field)}
        assert differing <= named


def test_every_setting_named_with_a_value_exists():
    for page in ("official.md", "evaluation.md"):
        assigned = set(re.findall(r"[`\s](\w+)=[\w\"{}-]+", (DOCS / page).read_text()))
        assert assigned <= FIELDS


def test_every_data_set_part_and_number_of_the_paper_is_on_the_page():
    page = (DOCS / "evaluation.md").read_text()
    for name, dataset in DATASETS.items():
        assert f"`{name}`" in page
        digits = 2 if isinstance(dataset, ReferringDataset) and name != "grefcoco" else 1
        assert all(f"{100 * number:.{digits}f}" in page for number in dataset.paper.values())
    assert all(f"`{part}`" in page for part in PARTS)
