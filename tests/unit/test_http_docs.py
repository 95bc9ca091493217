"""What is written about HTTP and FHIR is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dicom_node.metrics import DEFINITIONS
from dicom_node.record.keys import SCOPES
from dicom_node.stages.prediction_words import FILES, QUEUES
from fhir_bridge.search import PARAMETERS

pytestmark = pytest.mark.unit

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_metric_is_in_the_reference_with_its_labels() -> None:
    rows = re.findall(
        r"^\| `([a-z_]+)` \| ?([a-z, ]*) ?\|$", (DOCS / "reference" / "http.md").read_text(), re.MULTILINE
    )
    written = {name: tuple(label.strip() for label in labels.split(",") if label.strip()) for name, labels in rows}
    assert written == {definition.name: definition.labels for definition in DEFINITIONS}


def test_every_scope_and_search_parameter_is_in_the_reference() -> None:
    http, fhir = (DOCS / "reference" / "http.md").read_text(), (DOCS / "reference" / "fhir.md").read_text()
    assert all(f"`{scope}`" in http for scope in SCOPES)
    for kind, parameters in PARAMETERS.items():
        assert f"| {kind} |" in fhir
        assert all(f"`{parameter.spellings[0]}`" in fhir for parameter in parameters)


def test_every_event_of_a_request_is_in_the_reference() -> None:
    written = set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\| (`[^|]+) \|", _events(), re.MULTILINE))))
    said: set[str] = set()
    for file in (DOCS.parent / "dicom_node").rglob("*.py"):
        said |= set(re.findall(r'"prediction\.([a-z-]+)"', file.read_text())) - {"fault"}
    assert written == said | set(QUEUES)


def _events() -> str:
    return (DOCS / "reference" / "api.md").read_text().split("| event | meaning |")[1].split("\n## ")[0]


def test_every_file_of_a_result_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "api.md").read_text()
    assert all(f"`{name}`" in page for name in FILES)
