"""Runs on Ray: dealt out, recorded as they come, gone on with; Ray is made up here, and real in `make survive-ray`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.batch.job import Job, Outcome, describe_settings
from clip_as_rnn.batch.local import Threads, segment_files
from clip_as_rnn.batch.manifest import Manifest
from clip_as_rnn.batch.ray import Cluster, segment_on_ray
from clip_as_rnn.batch.sources import list_sources
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import DependencyError, InputError, WeightsError
from clip_as_rnn.result import Segmentation
from clip_as_rnn.state import EncodedTexts
from command import FakeSegmenter
from fake_ray import FakeRay
from fake_results import fake_segmentation

TEXTS = ("cat", "dog")
PICTURES = 9
ONE_EACH = Threads(pictures=2, each=1)
ALONE = Cluster(threads=ONE_EACH)


class ShadeSegmenter(FakeSegmenter):
    """Finds what depends on the picture alone, and lists the pictures by their shade."""

    seen: list[int] = []  # noqa: RUF012 - of all actors together

    def segment(self, image: np.ndarray, texts: EncodedTexts, *, trace: bool = False) -> Segmentation:
        self.seen.append(int(image[0, 0, 0]))
        return fake_segmentation(image.shape[:2], texts.queries, {"dog": 1 + int(image[0, 0, 0]) % 2}, trace=trace)

    def describe(self) -> dict[str, str]:
        return {"model_fingerprint": "a"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for i in range(PICTURES - 1):
        Image.new("RGB", (20, 16), (i, 0, 0)).save(tmp_path / f"photos/{i}.png")
    (tmp_path / "photos/broken.png").write_text("no picture")
    ShadeSegmenter.seen.clear()
    return tmp_path / "photos"


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made_up = FakeRay({"CPU": 2.0}, lambda name, arguments: False)
    monkeypatch.setitem(sys.modules, "ray", made_up)
    return made_up


def load() -> ShadeSegmenter:
    return ShadeSegmenter(SegmenterConfig())


def run(
    photos: Path,
    out: Path,
    load: Callable[[], FakeSegmenter] = load,
    cluster: Cluster = ALONE,
    **changes: Any,
) -> list[Outcome]:
    out.mkdir(exist_ok=True)
    with Manifest(out, describe_settings(TEXTS, SegmenterConfig()), overwrite=False, mixed=False) as manifest:
        job = Job(
            **{
                **{"texts": TEXTS, "preset": "default", "config": SegmenterConfig(), "folder": out},
                **{"formats": ("labels", "npz"), "datasets": ("coco",)},
                **changes,
            }
        )
        sources = list_sources([photos], standing=manifest.stems)
        return list(segment_on_ray(sources, job, load, manifest=manifest, cluster=cluster))


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.suffix != ".jsonl"
    }


def test_it_makes_what_the_local_engine_makes_and_does_nothing_twice(photos: Path, tmp_path: Path, ray: FakeRay):
    outcomes = run(photos, tmp_path / "ray")
    assert sorted(one.path.name for one in outcomes if one.is_segmented) == [f"{i}.png" for i in range(PICTURES - 1)]
    assert [one.path.name for one in outcomes if one.error] == ["broken.png"]
    assert all(one.segmentation is None for one in outcomes)  # masks stay where they were made
    (tmp_path / "local").mkdir()
    job = Job(
        **{"texts": TEXTS, "preset": "default", "config": SegmenterConfig(), "folder": tmp_path / "local"},
        **{"formats": ("labels", "npz"), "datasets": ("coco",)},
    )
    list(segment_files(list_sources([photos]), job, load))
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    ShadeSegmenter.seen.clear()
    assert [one.path.name for one in run(photos, tmp_path / "ray") if one.entry] == ["broken.png"]
    assert ShadeSegmenter.seen == []
    assert not ray.is_up


@pytest.mark.parametrize(
    ("resources", "threads", "actors", "options"),
    [
        ({"CPU": 2}, ONE_EACH, 2, {"num_cpus": 1, "num_gpus": 0, "max_concurrency": 1}),
        ({"CPU": 33}, Threads(4, 4), 8, {"num_cpus": 4, "num_gpus": 0, "max_concurrency": 1}),
        ({"CPU": 16, "GPU": 3}, Threads(4, 2), 3, {"num_cpus": 2, "num_gpus": 1, "max_concurrency": 4}),
    ],
)
def test_there_is_an_actor_per_gpu_or_per_so_many_processors(  # noqa: PLR0913, PLR0917 - a table
    resources: dict[str, float],
    threads: Threads,
    actors: int,
    options: dict[str, int],
    photos: Path,
    tmp_path: Path,
    ray: FakeRay,
):
    ray.resources = resources
    run(photos, tmp_path / "out", cluster=Cluster(threads=threads))
    assert ray.hired == actors
    assert options.items() <= ray.options_given[0].items()
    assert ray.most_waiting <= actors * (1 + 2 * options["max_concurrency"])


def test_what_an_actor_had_in_hand_when_it_died_is_done_by_another(photos: Path, tmp_path: Path, ray: FakeRay):
    deaths = iter([False, True, False, False, True])
    ray.dies = lambda name, arguments: name == "run" and next(deaths, False)
    outcomes = run(photos, tmp_path / "out")
    assert sorted(ShadeSegmenter.seen) == list(range(PICTURES - 1))
    assert [one.path.name for one in outcomes if one.error] == ["broken.png"]


def test_when_all_actors_die_others_are_hired_and_nothing_is_lost(photos: Path, tmp_path: Path, ray: FakeRay):
    deaths = iter([False, True, True])
    ray.resources = {"CPU": 1}
    ray.dies = lambda name, arguments: name == "run" and next(deaths, False)
    assert len(run(photos, tmp_path / "out")) == PICTURES
    assert sorted(ShadeSegmenter.seen) == list(range(PICTURES - 1))
    assert ray.hired == 3


def test_an_actor_that_dies_while_it_loads_the_models_is_replaced_a_few_times(
    photos: Path, tmp_path: Path, ray: FakeRay, caplog: pytest.LogCaptureFixture
):
    deaths = iter([True, True])
    ray.dies = lambda name, arguments: name == "load" and next(deaths, False)
    assert len(run(photos, tmp_path / "out")) == PICTURES
    assert ray.hired == 4
    assert caplog.text.count("ended while it loaded the models: The actor died") == 2


def test_a_picture_that_kills_whoever_takes_it_is_given_up_and_no_other(photos: Path, tmp_path: Path, ray: FakeRay):
    ray.dies = lambda name, arguments: name == "run" and any(one.path.name == "3.png" for one in arguments[0])
    outcomes = run(photos, tmp_path / "out")
    told = {one.path.name: str(one.error) for one in outcomes if one.error}
    assert set(told) == {"3.png", "broken.png"}
    assert told["3.png"] == "The process that segmented it ended 3 times: The actor died."
    assert sorted(ShadeSegmenter.seen) == [i for i in range(PICTURES - 1) if i != 3]


def test_mistakes_that_concern_all_are_raised_as_they_are_and_ray_ends(photos: Path, tmp_path: Path, ray: FakeRay):
    def fail() -> FakeSegmenter:
        raise WeightsError("no weights")

    with pytest.raises(WeightsError, match="no weights"):
        run(photos, tmp_path / "a", fail)
    ray.dies = lambda name, arguments: name == "load"
    with pytest.raises(InputError, match=r"ended while they loaded the models: The actor died; if memory was short"):
        run(photos, tmp_path / "b")
    with pytest.raises(InputError, match=r"There is no Ray cluster at 'ray://nowhere': Could not connect\.$"):
        run(photos, tmp_path / "c", cluster=Cluster(threads=ONE_EACH, address="ray://nowhere"))
    assert not ray.is_up


def test_machines_with_other_weights_are_refused(photos: Path, tmp_path: Path, ray: FakeRay):
    names = iter("ab")

    def load_another() -> ShadeSegmenter:
        segmenter, name = load(), next(names)
        segmenter.describe = lambda: {"model_fingerprint": name}
        return segmenter

    with pytest.raises(InputError, match=r"model_fingerprint = '.', now '.'"):
        run(photos, tmp_path / "out", load_another)


def test_without_ray_the_way_to_install_it_is_said(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match=r"pip install 'clip-as-rnn\[batch\]'"):
        run(photos, tmp_path / "out")
