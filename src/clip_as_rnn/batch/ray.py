"""Many pictures on many machines, or in several processes of one: Ray's actors hold the models and segment.

Actors read, segment and write; this process deals the pictures out and keeps the record, by which each picture is
skipped or done, so that a run goes on on any number of machines. Needs the extra `batch`. Ray Data is not used: what it
resumes are blocks of pictures, not pictures, and on two processors its resuming waits for a third.
"""

import logging
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from clip_as_rnn.batch.job import (
    Entry,
    Job,
    Outcome,
    PictureJob,
    close_datasets,
    fail,
    fingerprints,
    open_job_datasets,
)
from clip_as_rnn.batch.local import Threads, in_groups
from clip_as_rnn.batch.manifest import Manifest
from clip_as_rnn.batch.sources import Source
from clip_as_rnn.dense_crf.threads import limit_threads
from clip_as_rnn.errors import CarError, DependencyError, InputError
from clip_as_rnn.export.base import DatasetExporter
from clip_as_rnn.export.datasets import DatasetFormat
from clip_as_rnn.segmenter import Segmenter

_LOG = logging.getLogger(__name__)
_AHEAD = 2  # groups of pictures that are dealt out per place in an actor, so that none waits for the next
_TRIES = 3  # of a picture whose actor died over it, before it is said to be the picture's fault; and to hire
_FAREWELL_S = 10.0  # that actors have to clear up
_OBJECT_STORE_BYTES = 100_000_000  # for what goes between processes: names and scores, no pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the actors run.

    Attributes:
        threads: how many pictures are on their way at once on a machine like this one, and the threads of each. An
            actor takes one picture at once and so many processors; one with a GPU takes all pictures of a machine.
        address: of a cluster that is up; None starts one on this machine alone, and ends it with the run.
        gpus: give every actor a GPU of its own where the cluster has some.
    """

    threads: Threads
    address: str | None = None
    gpus: bool = True


class _Worker:
    """What an actor is: one job's models, and threads to compute with."""

    def __init__(self, job: Job, load_segmenter: Callable[[], Segmenter], threads: int, folder: str) -> None:
        with suppress(OSError):  # on another machine it may not be there, and absolute paths do not need it
            os.chdir(folder)
        self._threads = threads
        self._folder: Path | None = None  # of this process, for what goes to a URL
        if job.url:
            self._folder = Path(mkdtemp(prefix="clip-as-rnn-"))
            job = replace(job, folder=self._folder)
        self._work = PictureJob(job, load_segmenter)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def load(self) -> Mapping[str, Any]:
        """Load the models, and say what identifies them."""
        return fingerprints(self._work.load().describe())

    def run(self, sources: Sequence[Source], entries: Mapping[str, Entry]) -> list[Outcome]:
        """Do what is to be done with a few pictures; their masks stay here."""
        torch.set_num_threads(self._threads)
        limit_threads(self._threads)
        return [
            Outcome(one.source, one.entry, written=one.written, notes=one.notes, error=one.error)
            for one in self._work.run(sources, entries)
        ]


@dataclass(slots=True, eq=False)
class _Crew:
    """The actors, what each of them has in hand, and what is to be dealt out anew."""

    hire: Callable[[], Any]
    places: int  # pictures that an actor is busy with at once
    ready: list[Any] = field(default_factory=list)
    loading: dict[Any, Any] = field(default_factory=dict)  # promise: actor
    working: dict[Any, tuple[Any, list[Source]]] = field(default_factory=dict)  # promise: actor, its pictures
    again: deque[list[Source]] = field(default_factory=deque)
    deaths: Counter[str] = field(default_factory=Counter)
    lost: int = 0  # actors that died before they had loaded the models

    def add(self) -> None:
        """Hire an actor, and let it load the models."""
        actor = self.hire()
        self.loading[actor.load.remote()] = actor

    def find_idle(self) -> Any | None:
        """Find the actor that has least in hand; None if all have enough, or none is ready."""
        in_hand = Counter(id(actor) for actor, _ in self.working.values())
        actor = min(self.ready, key=lambda one: in_hand[id(one)], default=None)
        return actor if actor is not None and in_hand[id(actor)] < _AHEAD * self.places else None

    def bury(self, dead: Any) -> list[Source]:
        """Take back what an actor that died had in hand; return the pictures over which actors died too often.

        Another one is hired in its place. Ray would start it again, but refuses calls until it has.
        """
        self.ready.remove(dead)
        self.add()
        in_hand = {promise: some for promise, (actor, some) in self.working.items() if actor is dead}
        for promise in in_hand:
            del self.working[promise]
        for some in list(in_hand.values())[: self.places]:  # the others were only waiting
            self.deaths.update(source.name for source in some)
        sources = [source for some in in_hand.values() for source in some]
        self.again.extend([source] for source in sources if self.deaths[source.name] < _TRIES)  # alone, to find it out
        return [source for source in sources if self.deaths[source.name] >= _TRIES]


def segment_on_ray(
    sources: Iterable[Source],
    job: Job,
    load_segmenter: Callable[[], Segmenter],
    *,
    manifest: Manifest,
    cluster: Cluster,
) -> Iterator[Outcome]:
    """Segment pictures and write the results of each; yield what became of it, as it comes.

    `load_segmenter` goes to the actors. What `manifest` says is done is left out, what is done now is recorded there.

    Raises:
        CarError: something is wrong that concerns all pictures: Ray, models, the folder, another run's record.
    """
    ray = _start(cluster)
    exporters: Mapping[DatasetFormat, DatasetExporter] | None = None
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0)) if cluster.gpus else 0
        crew = _hire(ray, job, load_segmenter, cluster, gpus)
        groups = in_groups(sources, job.share(accelerated=gpus > 0))
        while True:
            _deal_out(crew, groups, manifest)
            if crew.ready and not crew.working:  # nothing was left to deal out
                ray.wait(
                    [actor.close.remote() for actor in crew.ready], num_returns=len(crew.ready), timeout=_FAREWELL_S
                )
                break
            (promise, *_), _ = ray.wait([*crew.loading, *crew.working], num_returns=1)
            if promise in crew.loading:
                models = _welcome(ray, crew, promise)
                if models is not None:
                    manifest.begin(models)
                    exporters = exporters or open_job_datasets(job)
            else:
                outcomes = _collect(ray, crew, promise)
                manifest.record(outcomes)
                yield from outcomes
    finally:
        ray.shutdown()
        close_datasets(job, exporters or {})


def _start(cluster: Cluster) -> Any:
    """Start Ray, or join the cluster that is up.

    Raises:
        DependencyError: it is not installed.
        InputError: it did not start, or there is no cluster at the address.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise DependencyError("--engine ray needs Ray; install it with: pip install 'clip-as-rnn[batch]'.") from error
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    place: dict[str, Any] = {"address": cluster.address}
    if cluster.address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        processors = cluster.threads.pictures * cluster.threads.each
        place = {"address": "local", "num_cpus": processors, "object_store_memory": _OBJECT_STORE_BYTES}
        place["include_dashboard"] = False
    try:
        ray.init(**place, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        where = f"There is no Ray cluster at {cluster.address!r}" if cluster.address else "Ray did not start"
        raise InputError(f"{where}: {_first_line(error)}.") from error
    return ray


def _hire(ray: Any, job: Job, load_segmenter: Callable[[], Segmenter], cluster: Cluster, gpus: int) -> _Crew:
    """Let one actor per GPU, or per so many processors, load the models."""
    threads = cluster.threads
    count = gpus or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads.each)
    places = threads.pictures if gpus else 1
    options = {"num_cpus": threads.each, "num_gpus": int(bool(gpus)), "max_concurrency": places}
    worker = ray.remote(_Worker).options(**options)
    crew = _Crew(partial(worker.remote, job, load_segmenter, threads.each, str(Path.cwd())), places)
    for _ in range(count):
        crew.add()
    return crew


def _deal_out(crew: _Crew, groups: Iterator[list[Source]], manifest: Manifest) -> None:
    """Give pictures to the actors, with what is recorded of them, until all have enough in hand or none is left."""
    while (actor := crew.find_idle()) is not None:
        some = crew.again.popleft() if crew.again else next(groups, None)
        if some is None:
            return
        names = [source.name for source in some]
        entries = {name: manifest.entries[name] for name in names if name in manifest.entries}
        crew.working[actor.run.remote(some, entries)] = actor, some


def _welcome(ray: Any, crew: _Crew, promise: Any) -> Mapping[str, Any] | None:
    """Count an actor among those that are ready; return what identifies its models, None if it died of loading them."""
    actor = crew.loading.pop(promise)
    try:
        models: Mapping[str, Any] = _result(ray, promise)
    except ray.exceptions.RayActorError as error:
        crew.lost += 1
        if crew.lost <= _TRIES:
            crew.add()
        elif not crew.ready and not crew.loading:
            raise _no_actor_left(error) from error
        _LOG.warning("A process of Ray ended while it loaded the models: %s", _first_line(error))
        return None
    crew.ready.append(actor)
    return models


def _no_actor_left(error: Exception) -> InputError:
    return InputError(
        f"The processes of Ray ended while they loaded the models: {_first_line(error)}; if memory was short, give "
        "fewer --workers."
    )


def _collect(ray: Any, crew: _Crew, promise: Any) -> list[Outcome]:
    """Take what became of a group; if its actor died, others get its pictures."""
    actor = crew.working[promise][0]
    try:
        outcomes: list[Outcome] = _result(ray, promise)
    except ray.exceptions.RayActorError as error:
        reason = f"The process that segmented it ended {_TRIES} times: {_first_line(error)}."
        return [fail(source, InputError(reason)) for source in crew.bury(actor)]
    del crew.working[promise]
    return outcomes


def _result(ray: Any, promise: Any) -> Any:
    """Take what an actor returned, or raise what it raised."""
    try:
        return ray.get(promise)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CarError):
            raise error.cause from error
        raise


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0].rstrip(".")
