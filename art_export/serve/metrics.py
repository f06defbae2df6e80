"""What a scrape of /metrics finds, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Numbers since the start. Labels never hold what a client chose freely."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "art_export_requests", "HTTP requests by route and status.", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        self.tokens = Counter("art_export_generated_tokens", "Tokens generated.", registry=registry)
        self.swaps = Counter(
            "art_export_swaps", "Pictures swapped in over HTTP.", registry=registry
        )
        self.pending = Gauge(
            "art_export_pending", "Questions that wait or are being answered.", registry=registry
        )
        self.running = Gauge(
            "art_export_batch_rows", "Rows of the batch under way.", registry=registry
        )
        self.step = Histogram(
            "art_export_step_seconds", "Seconds of one decode step of the batch.",
            registry=registry, buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
        )  # fmt: skip

    def text(self) -> bytes:
        return generate_latest(self._registry)
