"""The webhook's metrics for Prometheus."""

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from holdfast_webhook.reviews import Verdict

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Bounds of the buckets of the histogram."""


class WebhookMetrics:
    """What is counted; a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._reviews = Counter(
            "holdfast_webhook_reviews_total",
            "Pods that the API server asked about, by what became of them.",
            ("verdict",),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "holdfast_webhook_review_seconds",
            "Seconds to an answer, from the last byte of the question.",
            registry=self._registry,
            buckets=SECONDS,
        )
        self._malformed = Counter(
            "holdfast_webhook_malformed_total",
            "Requests that were no question of an API server.",
            registry=self._registry,
        )
        self._expiry = Gauge(
            "holdfast_webhook_certificate_expiry_timestamp_seconds",
            "When the certificate that is served ends, in seconds since 1970.",
            registry=self._registry,
        )
        self._unusable = Gauge(
            "holdfast_webhook_files_unusable",
            "1 while files on disk cannot be used, so that those of before go on being used.",
            ("files",),
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        for verdict in Verdict:
            self._reviews.labels(verdict.value)

    def reviewed(self, verdict: Verdict, seconds: float) -> None:
        """Count an answer."""
        self._reviews.labels(verdict.value).inc()
        self._seconds.observe(seconds)

    def malformed(self) -> None:
        """Count a request that was no question."""
        self._malformed.inc()

    def serves_until(self, timestamp: float) -> None:
        """Note when the certificate ends, in seconds since 1970."""
        self._expiry.set(timestamp)

    def usable(self, files: str, usable: bool) -> None:
        """Note whether what is on disk now can be used."""
        self._unusable.labels(files).set(0 if usable else 1)

    def page(self) -> bytes:
        """Return the metrics as text."""
        return generate_latest(self._registry)
