"""Metrics of a server as Prometheus reads them: the engine's counts, and times of requests."""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from jaxgpt.serving.engine_types import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_GAUGES = {
    "slots": "Answers that can be written at once.",
    "busy": "Slots in which an answer is being written.",
    "queued": "Requests that wait for a slot.",
}
_COUNTERS = {
    "prompt_tokens": "Tokens of all prompts.",
    "cached_tokens": "Tokens of prompts that needed no computing.",
    "new_tokens": "Tokens of all answers.",
    "compiles": "Programs compiled after the start.",
}


class Metrics:
    """Metrics in a registry of their own; `stats` gives the engine's counts."""

    def __init__(self, stats: Callable[[], EngineStats]):
        self._stats = stats
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)  # pyright: ignore[reportArgumentType]
        kinds: dict[str, Any] = {"registry": self._registry}
        self._responses = Counter(
            "jaxgpt_responses", "Responses by path and status.", ["path", "status"], **kinds
        )
        self._first = Histogram(
            "jaxgpt_first_token_seconds",
            "From a request's body to the first piece of its answer.",
            buckets=_SECONDS,
            **kinds,
        )
        self._whole = Histogram(
            "jaxgpt_request_seconds", "Of a request in all.", buckets=_SECONDS, **kinds
        )

    def responded(self, path: str, status: int, seconds: float) -> None:
        """Count a response."""
        self._responses.labels(path, str(status)).inc()
        self._whole.observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Note how long the first piece of an answer took."""
        self._first.observe(seconds)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The engine's counts, for the registry."""
        stats = self._stats()
        for name, about in _GAUGES.items():
            yield GaugeMetricFamily(f"jaxgpt_{name}", about, getattr(stats, name))
        for name, about in _COUNTERS.items():
            yield CounterMetricFamily(f"jaxgpt_{name}", about, getattr(stats, name))
        ended = CounterMetricFamily("jaxgpt_answers", "Answers by why they ended.", labels=["why"])
        for why, count in stats.finished.items():
            ended.add_metric([why], count)
        yield ended
