"""Prometheus metrics of one application, added up over all workers of a gunicorn.

prometheus_client keeps the numbers of a process in files when ``PROMETHEUS_MULTIPROC_DIR`` is set
before it is imported (``gunicorn.conf.py`` does that), and in memory otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CAPTION_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 4, 8, 16, 32, 64)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
STEP_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Small verbs for what happens, and ``render`` for whoever asks.

    Each application has its own registry, so that two in one process do not collide; with
    ``multiprocess_dir`` (default: ``PROMETHEUS_MULTIPROC_DIR``) the numbers are those of all
    processes that use the folder.
    """

    def __init__(self, multiprocess_dir: str | None = None) -> None:
        self._folder = multiprocess_dir or os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "captionapp_requests_total",
            "Requests answered.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "captionapp_request_seconds",
            "Seconds from a request's headers to its answer's.",
            ["route", "method"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._captions = Counter(
            "captionapp_captions_total", "Captions made.", ["version"], registry=registry
        )
        self._caption_seconds = Histogram(
            "captionapp_caption_seconds",
            "Seconds of the batch that a caption was made in.",
            ["version"],
            buckets=CAPTION_BUCKETS,
            registry=registry,
        )
        self._cache_hits = Counter(
            "captionapp_caption_cache_hits_total",
            "Captions that were there already when their picture came again.",
            registry=registry,
        )
        self._errors = Counter(
            "captionapp_errors_total", "What went wrong, by kind.", ["kind"], registry=registry
        )
        self._feedback = Counter(
            "captionapp_feedback_total", "Answers kept.", ["verdict"], registry=registry
        )
        self._pictures = Counter(
            "captionapp_pictures_total", "Pictures taken in and stored.", registry=registry
        )
        self._queue_depth = Gauge(
            "captionapp_queue_depth",
            "Captions that wait, over all workers.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._batch_size = Histogram(
            "captionapp_batch_size",
            "Pictures captioned together.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._step_seconds = Histogram(
            "captionapp_step_seconds",
            "Seconds of a request's steps (decode, store, load, feedback), of a picture's "
            "(queue, and prepare within it), of a batch's (model).",
            ["step"],
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self._model_loaded = Gauge(
            "captionapp_model_loaded",
            "Workers that hold a model.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._model_loads = Counter(
            "captionapp_model_loads_total", "Models loaded.", ["version"], registry=registry
        )
        self._model_load_seconds = Histogram(
            "captionapp_model_load_seconds",
            "Seconds to load a model.",
            buckets=CAPTION_BUCKETS,
            registry=registry,
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered. ``route`` is the rule, as a path would make endless labels."""
        method = method if method in METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route, method).observe(seconds)

    def caption_made(self, version: str, seconds: float) -> None:
        """A caption was made by ``version``, in a batch that took ``seconds``."""
        self._captions.labels(version).inc()
        self._caption_seconds.labels(version).observe(seconds)

    def cache_hit(self) -> None:
        """A picture came again and its caption was there."""
        self._cache_hits.inc()

    def failure(self, kind: str) -> None:
        """Something went wrong; ``kind`` is one of a few words, never a message."""
        self._errors.labels(kind).inc()

    def feedback_given(self, verdict: str) -> None:
        """An answer was kept."""
        self._feedback.labels(str(verdict)).inc()

    def picture_stored(self) -> None:
        """A picture was taken in."""
        self._pictures.inc()

    def batch_begun(self, size: int) -> None:
        """So many pictures are captioned together."""
        self._batch_size.observe(size)

    def step(self, name: str, seconds: float) -> None:
        """A step of an upload took so long; ``name`` is one of a few words."""
        self._step_seconds.labels(name).observe(seconds)

    def queue_depth(self, waiting: int) -> None:
        """So many captions wait in this process."""
        self._queue_depth.set(waiting)

    @contextmanager
    def model_load(self, version: str) -> Iterator[None]:
        """Around the loading of a model: counts it, or its failure."""
        started = time.perf_counter()
        try:
            yield
        except Exception:
            self.failure("model_load")
            raise
        self._model_loads.labels(version).inc()
        self._model_load_seconds.observe(time.perf_counter() - started)
        self._model_loaded.set(1)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The numbers as text and its content type, in the format that ``accept`` asks for."""
        encode, content_type = choose_encoder(accept)
        registry = self.registry
        if self._folder:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]
        return encode(registry), content_type
