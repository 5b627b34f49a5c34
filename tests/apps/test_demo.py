"""The bundled picture through the bundled CLIP and the whole recurrence, as `car demo` runs it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from clip_as_rnn.apps.cli import main, segment

ABSENT = {"cat", "banana"}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in the decoder of pycocotools
def test_the_demo_finds_what_is_there_rejects_what_is_not_and_its_files_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["car", "demo", "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 0
    content = json.loads((tmp_path / "park.json").read_text())
    found = {one["text"]: one for one in content["found"]}
    rejected = {one["text"] for one in content["rejected"]}
    assert set(found) == set(segment.DEMO_TEXTS) - ABSENT
    assert rejected == ABSENT
    with Image.open(tmp_path / "park_labels.png") as picture, Image.open(segment.DEMO_IMAGE) as photo:
        labels = np.asarray(picture)
        assert labels.shape == photo.size[::-1]
    for one in found.values():
        assert np.array_equal(coco.decode(one["rle"]) > 0, labels == one["label"])
    assert set(np.unique(labels)) <= set(range(len(found) + 1))
    assert capsys.readouterr().out.count("rejected at step") == len(rejected)
