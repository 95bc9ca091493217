"""The same pixels under two patients, by C-STORE: the model is asked once, and each has a result set of his own.

What must never happen is the other way: one patient's objects with the name of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.record.tables import runs
from dicom_node.record.timeline import timeline
from tests.fixtures_packages import make_tiny_package
from tests.support.api import dicom, head
from tests.support.node import Node
from tests.support.quick import FLAIR

pytestmark = pytest.mark.component


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    make_tiny_package(tmp_path / "models")
    made = Node(tmp_path / "node", tmp_path / "models")
    yield made
    made.close()


def bring(node: Node, folder: Path, patient: str) -> str:
    """A FLAIR of this patient arrives and goes through; its Study Instance UID."""
    told = {**FLAIR, "PatientID": patient, "PatientName": f"{patient}^TWIN"}
    files = dicom(folder, head(), **told)
    header = dcmread(files[0])
    node.receive(files)
    node.close_series(str(header.SeriesInstanceUID))
    node.engine.run()
    return str(header.StudyInstanceUID)


def test_two_patients_one_picture_two_result_sets_and_two_warnings(node: Node, tmp_path: Path) -> None:
    studies = [bring(node, tmp_path / name, name) for name in ("ANNA", "BERTA")]
    assert node.engine.errors == {}
    assert [(run["state"], run["cache_hit"]) for run in node.rows(runs)] == [("built", False), ("built", True)]
    inferred = [event["detail"] for event in node.events("run.inferred")]
    assert [one["from_cache"] for one in inferred] == [False, True]
    assert inferred[0]["regions"] == inferred[1]["regions"] and list(inferred[1]["seconds"]) == ["cache"]
    objects = node.delivered()
    assert sorted((d.PatientID, d.Modality) for d in objects) == [
        (name, modality) for name in ("ANNA", "BERTA") for modality in ("DOC", "SEG", "SR")
    ]
    for d in objects:
        assert str(d.StudyInstanceUID) == studies[["ANNA", "BERTA"].index(d.PatientID)]
        assert ("BERTA" if d.PatientID == "ANNA" else "ANNA") not in str(d)
    assert len({str(d.SOPInstanceUID) for d in objects}) == 6
    seg = [d for d in objects if d.Modality == "SEG"]
    assert seg[0].PixelData == seg[1].PixelData
    with node.database.read() as connection:
        for study in studies:
            warnings = [event for event in timeline(connection, study) if event["name"] == "pixels.other-patient"]
            assert len(warnings) == 1 and warnings[0]["detail"]["roles"] == ["flair"]


def test_the_same_patient_again_is_no_warning(node: Node, tmp_path: Path) -> None:
    bring(node, tmp_path / "1", "ANNA")
    bring(node, tmp_path / "2", "ANNA")
    assert [run["cache_hit"] for run in node.rows(runs)] == [False, True]
    assert node.events("pixels.other-patient") == []
