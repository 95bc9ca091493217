"""Every metric of the node, with its closed label sets (hardening section 9).

Rooms call `METRICS.count(...)`, `.gauge(...)` and `.observe(...)` by name; the portal renders.  A label value must be
in the closed set of its label or, where the set is written by configuration (peers, models), have been allowed by
`allow`; anything else becomes ``other``.  So a UID, a name or an AE title from the wire can never become a label (I4).

Ground floor: prometheus_client and the refusal codes only.  One registry per process; the web process renders its own
and those numbers that the record can tell it (`portal.services.PortalServices.refresh_metrics`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dicom_node.refusals import RefusalCode
from dicom_node.words import DeliveryState, RunState

OTHER = "other"
PREFIX = "ainode_"
FAST_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SLOW_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)

_REASONS = frozenset(code.value for code in RefusalCode)
_STATES = frozenset(state.value for states in (RunState, DeliveryState) for state in states)

LABEL_VALUES: Mapping[str, frozenset[str]] = {
    "area": frozenset({"data", "cache", "quarantine", "spool"}),
    "cause": frozenset(
        {"ae", "address", "capacity", "not-ready", "protocol", "timeout", "exit", "signal", "memory", "cpu", "wall"}
    ),
    "channel": frozenset({"dimse", "http", "cli", "road"}),
    "feature": frozenset(),
    "kind": frozenset(
        {
            "missing",
            "unknown-key",
            "revoked-key",
            "scope",
            "ticket",
            "cookie",
            "ae",
            "address",
            "password",
            "second-factor",
            "back-off",
            "csrf",
        }
    ),
    "model": frozenset(),
    "name": frozenset(),
    "outcome": frozenset(
        {
            "accepted",
            "duplicate",
            "conflict",
            "refused",
            "started",
            "built",
            "failed",
            "cancelled",
            "confirmed",
            "pending",
            "held",
        }
    ),
    "reason": _REASONS,
    "route": frozenset({"api", "predict", "predict-batch"}),
    "stage": frozenset({"read", "volume", "infer", "measure", "build", "check", "write", "deliver", "publish"}),
    "state": _STATES,
    "target": frozenset(),
    "version": frozenset(),
}
"""Label -> its closed set; an empty one is filled by `Metrics.allow` from configuration."""


@dataclass(frozen=True)
class Definition:
    """One metric: its name without prefix, what it counts, its labels and, for a histogram, its buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SLOW_BUCKETS_S


DEFINITIONS: tuple[Definition, ...] = (
    Definition("received_instances_total", "counter", "Instances received.", ("channel", "outcome")),
    Definition("received_bytes_total", "counter", "Bytes of instances received."),
    Definition("associations_active", "gauge", "DIMSE associations open now."),
    Definition("associations_rejected_total", "counter", "DIMSE associations rejected.", ("cause",)),
    Definition("refusals_total", "counter", "Refusals by reason.", ("reason", "channel")),
    Definition("store_commit_seconds", "histogram", "Bytes to durable row.", (), FAST_BUCKETS_S),
    Definition("fsync_errors_total", "counter", "File syncs that failed."),
    Definition("series_wait_seconds", "histogram", "Last instance to closed revision."),
    Definition("jobs", "gauge", "Runs, requests by HTTP and their transfers, by state.", ("state",)),
    Definition("job_oldest_age_seconds", "gauge", "Age of the oldest run in a state.", ("state",)),
    Definition("job_starts_total", "counter", "Attempts started and how they ended.", ("outcome",)),
    Definition("stage_seconds", "histogram", "Time in a stage of the road.", ("stage",)),
    Definition("stale_attempt_writes_total", "counter", "Writes refused because the attempt was no longer current."),
    Definition("decode_child_exits_total", "counter", "Decode children that died.", ("cause",)),
    Definition("inference_seconds", "histogram", "Time of one prediction.", ("model",)),
    Definition("inference_nan_total", "counter", "Predictions with values that are not finite."),
    Definition("gpu_memory_bytes", "gauge", "Accelerator memory in use."),
    Definition("delivery_attempts_total", "counter", "Deliveries tried.", ("target", "outcome")),
    Definition("delivery_unverified", "gauge", "Objects sent but not yet seen at the destination."),
    Definition("delivery_oldest_age_seconds", "gauge", "Age of the oldest open delivery.", ("target",)),
    Definition("destination_circuit", "gauge", "0 closed, 0.5 half-open, 1 open: nothing but probes.", ("target",)),
    Definition("delivery_conflicts_total", "counter", "Destinations holding other bytes under our UID."),
    Definition("held_jobs", "gauge", "What waits for a person.", ("reason",)),
    Definition("superseded_results_total", "counter", "Results replaced by a later revision."),
    Definition("auth_failures_total", "counter", "Callers without the right.", ("kind",)),
    Definition("http_connections_cut_total", "counter", "Connections that did not move or gave way.", ("cause",)),
    Definition("rate_limited_total", "counter", "Requests turned away for their number.", ("route",)),
    Definition("audit_spool_entries", "gauge", "Audit entries not yet sent on."),
    Definition("audit_chain_last_verified_timestamp", "gauge", "When the audit chain was last found whole."),
    Definition("disk_free_bytes", "gauge", "Free disk.", ("area",)),
    Definition("wal_bytes", "gauge", "Size of the database's write-ahead log."),
    Definition("open_fds", "gauge", "Open file descriptors of this process."),
    Definition("cert_expiry_timestamp", "gauge", "When a certificate ends.", ("name",)),
    Definition("clock_offset_seconds", "gauge", "Known error of the clock."),
    Definition("build_info", "gauge", "Always 1; the version is the label.", ("version",)),
)


class Metrics:
    """The metrics of one process.

    Raises
    ------
    KeyError
        From every method, for a metric that is not in `DEFINITIONS` or labels that are not its own: a fault of ours.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._allowed = {label: set(values) for label, values in LABEL_VALUES.items()}
        self._lock = threading.Lock()
        self._definitions = {definition.name: definition for definition in DEFINITIONS}
        self._metrics: dict[str, Counter | Gauge | Histogram] = {d.name: self._make(d) for d in DEFINITIONS}

    def _make(self, definition: Definition) -> Counter | Gauge | Histogram:
        name = PREFIX + definition.name
        match definition.kind:
            case "counter":
                return Counter(name, definition.help, definition.labels, registry=self._registry)
            case "gauge":
                return Gauge(name, definition.help, definition.labels, registry=self._registry)
            case "histogram":
                return Histogram(
                    name, definition.help, definition.labels, registry=self._registry, buckets=definition.buckets
                )

    def allow(self, label: str, values: Iterable[str]) -> None:
        """Open a label for names that stand in the configuration: destinations, models, certificates, the version."""
        if label not in self._allowed:
            raise KeyError(label)
        with self._lock:
            self._allowed[label].update(values)

    def _labels(self, name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
        wanted = self._definitions[name].labels
        if set(labels) != set(wanted):
            raise KeyError(f"{name} has the labels {wanted}")
        return tuple(labels[key] if labels[key] in self._allowed[key] else OTHER for key in wanted)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        values, metric = self._labels(name, labels), self._metrics[name]
        if not isinstance(metric, Counter):
            raise KeyError(f"{name} is no counter")
        (metric.labels(*values) if values else metric).inc(amount)

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        values, metric = self._labels(name, labels), self._metrics[name]
        if not isinstance(metric, Gauge):
            raise KeyError(f"{name} is no gauge")
        (metric.labels(*values) if values else metric).set(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add one observation to a histogram."""
        values, metric = self._labels(name, labels), self._metrics[name]
        if not isinstance(metric, Histogram):
            raise KeyError(f"{name} is no histogram")
        (metric.labels(*values) if values else metric).observe(seconds)

    def clear(self, name: str) -> None:
        """Forget a gauge's labelled values before they are set anew from the record."""
        metric = self._metrics[name]
        if self._definitions[name].labels:
            metric.clear()

    def render(self) -> bytes:
        """Prometheus text format 0.0.4."""
        return generate_latest(self._registry)


METRICS = Metrics()
"""This process's metrics."""
