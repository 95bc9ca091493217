"""Metrics: names of hardening section 9, labels from closed sets only (I4)."""

from __future__ import annotations

import pytest

from dicom_node.metrics import DEFINITIONS, LABEL_VALUES, METRICS, OTHER, Metrics
from dicom_node.refusals import RefusalCode

pytestmark = pytest.mark.unit

NAMES = """
received_instances_total received_bytes_total associations_active associations_rejected_total refusals_total
store_commit_seconds fsync_errors_total series_wait_seconds jobs job_oldest_age_seconds job_starts_total
stage_seconds stale_attempt_writes_total decode_child_exits_total inference_seconds inference_nan_total
gpu_memory_bytes delivery_attempts_total delivery_unverified delivery_oldest_age_seconds destination_circuit
delivery_conflicts_total
held_jobs superseded_results_total auth_failures_total http_connections_cut_total rate_limited_total
audit_spool_entries
audit_chain_last_verified_timestamp disk_free_bytes wal_bytes open_fds cert_expiry_timestamp clock_offset_seconds
build_info
"""


def test_the_names_are_those_of_the_hardening_reference() -> None:
    assert [definition.name for definition in DEFINITIONS] == NAMES.split()
    assert all(label in LABEL_VALUES for definition in DEFINITIONS for label in definition.labels)


def test_a_value_from_the_wire_becomes_other() -> None:
    metrics = Metrics()
    metrics.count("refusals_total", reason=RefusalCode.SLICES_MISSING.value, channel="road")
    metrics.count("refusals_total", reason="1.2.840.4711", channel="MARKER_AE")
    metrics.observe("inference_seconds", 2.0, model="Marker^Mary")
    metrics.gauge("held_jobs", 3, reason="Marker")
    rendered = metrics.render().decode()
    assert 'ainode_refusals_total{channel="road",reason="slices-missing"} 1.0' in rendered
    assert f'ainode_refusals_total{{channel="{OTHER}",reason="{OTHER}"}} 1.0' in rendered
    assert "arker" not in rendered
    assert "MARKER" not in rendered
    assert "4711" not in rendered


def test_configured_names_can_be_allowed() -> None:
    metrics = Metrics()
    metrics.allow("target", ["pacs"])
    metrics.count("delivery_attempts_total", target="pacs", outcome="confirmed")
    assert 'target="pacs"' in metrics.render().decode()
    with pytest.raises(KeyError):
        metrics.allow("patient", ["x"])


def test_a_wrong_name_kind_or_label_is_a_fault_of_ours() -> None:
    for call in (
        lambda: METRICS.count("nothing_total"),
        lambda: METRICS.count("jobs", state="queued"),
        lambda: METRICS.gauge("received_bytes_total", 1),
        lambda: METRICS.observe("jobs", 1, state="queued"),
        lambda: METRICS.count("refusals_total", reason="x"),
        lambda: METRICS.count("received_bytes_total", reason="x"),
    ):
        with pytest.raises(KeyError):
            call()


def test_gauges_can_be_set_anew() -> None:
    metrics = Metrics()
    metrics.gauge("jobs", 2, state="queued")
    metrics.clear("jobs")
    assert 'state="queued"' not in metrics.render().decode()
