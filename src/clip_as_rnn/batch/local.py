"""Many pictures on this machine: several at once are read, segmented and written; one that fails stops no other.

Each picture goes its whole way in one of a few threads, so that one is read or written while another is encoded and a
third is in the CRF; all of them share the models. Results come out in the order of the pictures.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch

from clip_as_rnn.batch.job import Job, Outcome, PictureJob
from clip_as_rnn.batch.manifest import Manifest
from clip_as_rnn.batch.sources import Source
from clip_as_rnn.dense_crf.threads import limit_threads, usable_threads
from clip_as_rnn.segmenter import Segmenter

_MOST_THREADS = 4  # a picture in each; more hold memory, and the models are one
_AHEAD = 2  # pictures begun per thread before the first of them is taken


@dataclass(frozen=True, slots=True)
class Threads:
    """How many pictures are on their way at once, and how many threads each may compute with."""

    pictures: int
    each: int

    @classmethod
    def of_this_machine(cls, pictures: int | None = None) -> "Threads":
        """Share out the processors that this process may use; `pictures` of None is as many, up to 4."""
        cores = usable_threads()
        count = pictures or min(_MOST_THREADS, cores)
        return cls(count, max(1, cores // count))


def segment_files(
    sources: Iterable[Source],
    job: Job,
    load_segmenter: Callable[[], Segmenter],
    *,
    manifest: Manifest | None = None,
    threads: Threads | None = None,
    accelerated: bool = False,
) -> Iterator[Outcome]:
    """Segment pictures and write the results of each; yield what became of it, in the order of the pictures.

    `load_segmenter` is called when the first picture is in hand, so that mistakes show before models are loaded.
    What `manifest` says is done is left out, and what is done now is recorded there. `accelerated` says that the models
    will not be on processors.

    Raises:
        CarError: something is wrong that concerns all pictures: models, the folder, another run's record.
    """
    threads = threads or Threads.of_this_machine()
    work = PictureJob(job, load_segmenter, manifest.begin if manifest else lambda models: None)

    def segment(some: list[Source]) -> list[Outcome]:
        outcomes: dict[str, Outcome] = {}
        for outcome in work.run(some, manifest.entries if manifest else {}):
            outcomes[outcome.source.name] = outcome
            if manifest:
                manifest.record([outcome])
        return [outcomes[source.name] for source in some if source.name in outcomes]

    begun: deque[Future[list[Outcome]]] = deque()
    pool = ThreadPoolExecutor(threads.pictures, initializer=limit_threads, initargs=(threads.each,))
    try:
        with _torch_threads(threads):
            for some in in_groups(sources, job.share(accelerated=accelerated)):
                begun.append(pool.submit(segment, some))
                while len(begun) >= _AHEAD * threads.pictures:
                    yield from begun.popleft().result()
            while begun:
                yield from begun.popleft().result()
    finally:
        work.stop()
        pool.shutdown(cancel_futures=True)  # what is on its way is written before the data sets are finished
        work.close()


@contextmanager
def _torch_threads(threads: Threads) -> Iterator[None]:
    """Share the processors: torch would take all of them for each picture, and they would wait for each other."""
    before = torch.get_num_threads()
    if threads.pictures > 1:
        torch.set_num_threads(min(before, threads.each))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_groups(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    """Cut the pictures into groups of `size`; the last one takes what is left."""
    iterator = iter(sources)
    while group := list(islice(iterator, size)):
        yield group
