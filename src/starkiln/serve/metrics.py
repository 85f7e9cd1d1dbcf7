"""What the server counts and measures, in vLLM's names (its prefix is ``vllm:``)."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from starkiln.model.engine import Load

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "starkiln:"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LOADS = (  # kind, name, meaning, field of Load
    (GaugeMetricFamily, "num_requests_waiting", "requests that no slot is free for", "waiting"),
    (GaugeMetricFamily, "num_samples_running", "completions in the making", "live"),
    (GaugeMetricFamily, "num_slots", "completions that can be in the making at once", "slots"),
    (CounterMetricFamily, "prompt_tokens", "tokens of prompts", "prompt_tokens"),
    (CounterMetricFamily, "generation_tokens", "tokens drawn", "drawn_tokens"),
    (CounterMetricFamily, "prefix_cache_queries", "tokens of prompts looked up", "prompt_tokens"),
    (CounterMetricFamily, "prefix_cache_hits", "tokens of prompts not read anew", "cached_tokens"),
)


class Metrics:
    """A registry of its own, so that two servers in one process count apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.first_token = self._times("time_to_first_token", "from the request on")
        self.next_token = self._times("inter_token_latency", "between tokens of a completion")
        self.queue = self._times("request_queue_time", "until the engine takes a request")
        self.whole = self._times("e2e_request_latency", "until a request's last token")
        self.answers = self._counter("http_requests", "answers", "path", "status")
        self.finished = self._counter("request_success", "completions", "finished_reason")
        self.cancelled = self._counter("requests_cancelled", "requests left or replaced by clients")
        self.failed = self._counter("requests_failed", "requests that the engine failed at")

    def watch(self, load: Callable[[], Load]) -> None:
        """Also tell what the engine itself counts."""
        self.registry.register(_Loads(load))

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)

    def _times(self, name: str, meaning: str) -> Histogram:
        name = f"{_PREFIX}{name}_seconds"
        return Histogram(name, f"seconds {meaning}", buckets=_SECONDS, registry=self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}{name}", meaning, labels, registry=self.registry)


class _Loads(Collector):
    def __init__(self, load: Callable[[], Load]) -> None:
        self.load = load

    def collect(self) -> Iterable[Metric]:
        load = self.load()
        for kind, name, meaning, field in _LOADS:
            yield kind(_PREFIX + name, meaning, value=getattr(load, field))
