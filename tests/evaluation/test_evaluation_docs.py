"""The pages on evaluation keep up with the code: every data set, part and setting is named, and none that is not."""

import re
from pathlib import Path

from clip_as_rnn.config import flat_settings, setting_types
from clip_as_rnn.evaluation.ablation_variants import PARTS
from clip_as_rnn.evaluation.datasets.registry import DATASETS, ReferringDataset, VideoDataset
from clip_as_rnn.presets import PRESETS

DOCS = Path(__file__).parents[2] / "docs"
FIELDS = set(setting_types())


def test_every_setting_in_which_official_presets_differ_is_explained():
    named = set(re.findall(r"`(\w+)(?:=[^`]*)?`", (DOCS / "official.md").read_text()))
    for name, official in PRESETS.items():
        paper = flat_settings(PRESETS.get(name.replace("official-", "paper-"), official))
        differing = {setting for setting, value in flat_settings(official).items() if value != paper[setting]}
        assert differing <= named


def test_every_setting_named_with_a_value_exists():
    for page in ("official.md", "evaluation.md"):
        assigned = set(re.findall(r"[`\s](\w+)=[\w\"{}-]+", (DOCS / page).read_text()))
        assert assigned <= FIELDS


def test_every_data_set_part_and_number_of_the_paper_is_on_the_page():
    page = (DOCS / "evaluation.md").read_text()
    for name, dataset in DATASETS.items():
        assert f"`{name}`" in page
        digits = 2 if isinstance(dataset, ReferringDataset | VideoDataset) and name != "grefcoco" else 1
        assert all(f"{100 * number:.{digits}f}" in page for number in dataset.paper.values())
    assert all(f"`{part}`" in page for part in PARTS)
