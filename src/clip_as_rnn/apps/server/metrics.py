"""What the server counts, in Prometheus' text format. No picture, no text and no address is in it."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from clip_as_rnn.result import Segmentation

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16)

__all__ = ["CONTENT_TYPE", "Metrics"]


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        labels = ("path", "status")
        self._requests = Counter("car_requests", "Requests by path and status.", labels, registry=registry)
        self._seconds = Histogram(
            "car_request_seconds", "From a request to its answer.", ("path",), buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram(
            "car_batch_images", "Pictures that shared the encoders' passes.", buckets=_IMAGES, registry=registry
        )
        self._stages = Counter("car_stage_seconds", "Time by stage of the segmenter.", ("stage",), registry=registry)
        self._texts = Counter("car_texts", "Texts that were found or rejected.", ("outcome",), registry=registry)
        self._waiting = Gauge("car_waiting", "Pictures that wait for the segmenter.", registry=registry)

    def watch_queue(self, count: Callable[[], int]) -> None:
        """Ask for the length of the queue whenever the metrics are read."""
        self._waiting.set_function(count)

    def answer(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request; `path` is one of the server's, so that strangers cannot add rows."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count(self, segmentation: Segmentation, *, images: int) -> None:
        """Count one of `images` pictures that were done side by side."""
        self._batches.observe(images)
        for stage, seconds in segmentation.seconds.items():
            self._stages.labels(stage).inc(seconds)
        self._texts.labels("found").inc(len(segmentation.texts))
        self._texts.labels("rejected").inc(len(segmentation.rejections))

    def text(self) -> bytes:
        """Write all of it."""
        return generate_latest(self._registry)
