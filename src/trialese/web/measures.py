"""What `/metrics` tells: requests, batches and what waits, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

__all__ = ["METRICS_TYPE", "Measures"]

METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measures:
    """Counters of one application; no two share any."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "trialese_requests",
            "Answered requests.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "trialese_request_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._texts = Histogram(
            "trialese_batch_texts",
            "Texts in a batch.",
            buckets=_TEXTS,
            registry=self._registry,
        )
        self._batch_seconds = Histogram(
            "trialese_batch_seconds",
            "Computing a batch.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.waiting = Gauge(
            "trialese_waiting_texts", "Texts that no batch has taken.", registry=self._registry
        )
        self.under_way = Gauge(
            "trialese_requests_under_way", "Requests not yet answered.", registry=self._registry
        )
        self.jobs = Gauge("trialese_jobs", "Jobs by state.", ("state",), registry=self._registry)

    def saw_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer; `route` is the pattern, never the path, so that series stay few."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def saw_batch(self, texts: int, seconds: float) -> None:
        """Count one batch."""
        self._texts.observe(texts)
        self._batch_seconds.observe(seconds)

    def as_text(self) -> bytes:
        """Everything so far."""
        return generate_latest(self._registry)
