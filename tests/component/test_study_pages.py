"""The study pages: bring images, see what each is taken for, ask, look; nobody sees what another asked for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_node.desks.drafts import Drafts, Told
from dicom_node.permissions import Role
from dicom_node.record import access
from dicom_node.record.tables import audit, predictions
from dicom_node.refusals import Refused
from dicom_node.spool import Spool, Upload
from tests.fixtures_packages import make_tiny_package
from tests.support.api import ApiNode, dicom, head, nifti, zipped
from tests.support.visits import ORIGIN, Visit, visit, words

pytestmark = pytest.mark.component

FLAIR = {"SeriesDescription": "ax t2 flair", "SequenceName": "*tir2d1", "ScanningSequence": ["SE", "IR"],
         "RepetitionTime": "9000", "EchoTime": "120", "InversionTime": "2500", "SeriesNumber": 4}  # fmt: skip
WAIT_S = 90.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    folder = tmp_path_factory.mktemp("study")
    make_tiny_package(folder / "models", role="flair")
    made = ApiNode(folder / "node", folder / "models")
    yield made
    made.close()


@pytest.fixture
def doctor(node: ApiNode) -> Visit:
    return visit(node.app, node.settings, node.database, Role.CLINICIAN, sites=("base",))


def bring(who: Visit, files: Mapping[str, bytes], *, guarded: bool = True) -> Any:
    headers = {"Accept": "application/json", "Origin": ORIGIN, **({"X-CSRF-Token": who.csrf} if guarded else {})}
    return who.client.post("/study/files", files=[("files", one) for one in files.items()], headers=headers)


def roles(page: str) -> list[str]:
    """What each part is taken for, as the page has it chosen."""
    found = []
    for select in re.findall(r'<select id="role-\d+".*?</select>', page, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', select)
        found.append(chosen[1] if chosen else "")
    return found


def finished(who: Visit, location: str) -> str:
    """The result's page when there is a result."""
    deadline = time.monotonic() + WAIT_S
    while True:
        page = who.get(location).text
        if "hx-get" not in page:
            return str(page)
        assert time.monotonic() < deadline, words(page)
        time.sleep(0.1)


def scan(tmp_path: Path, name: str = "scan-flair.nii.gz") -> dict[str, bytes]:
    return {name: nifti(head(), tmp_path / "scan.nii.gz").read_bytes()}


def test_a_nifti_file_is_taken_for_what_its_name_says_and_its_result_is_shown(
    node: ApiNode, doctor: Visit, tmp_path: Path
) -> None:
    assert doctor.get("/study").status_code == 200
    answer = bring(doctor, scan(tmp_path))
    assert answer.status_code == 201, answer.text
    draft = doctor.get(answer.json()["location"])
    assert roles(draft.text) == ["flair"] and "Guessed from the end of its name" in words(draft.text)
    asked = doctor.post(answer.json()["location"], model="tiny-bright", role_0="flair", spacing_mm="")
    again = doctor.post(answer.json()["location"], model="tiny-bright", role_0="flair", spacing_mm="")
    assert again.headers["location"] == asked.headers["location"], "pressed twice is asked once"
    page = finished(doctor, asked.headers["location"])
    told = words(page)
    assert "Not reviewed, and not for clinical use" in told and "mL" in told
    assert re.search(r'<rect [^>]*fill="#[0-9a-f]{6}"', page), "the colour of the class"
    assert 'style="' not in page
    for name in ("planes.png", "mask.nii.gz", "result.json"):
        got = doctor.get(f"{asked.headers['location']}/files/{name}")
        assert got.status_code == 200 and got.headers["cache-control"] == "no-store"
    rows = [r for r in node.rows(audit) if r["actor"] == doctor.person.actor]
    acts = [(row["action"], (row["detail"].get("ids") or ["", ""])[-1]) for row in rows]
    assert ("export-prediction-file", "mask.nii.gz") in acts and ("read-prediction-file", "planes.png") in acts
    assert any(action == "prediction-asked" for action, _ in acts)
    assert asked.headers["location"] in doctor.get("/study").text


def test_series_of_a_zip_show_their_role_and_the_person_has_the_last_word(
    node: ApiNode, doctor: Visit, tmp_path: Path
) -> None:
    patient = {"PatientName": "ROE^JANE", "PatientID": "ID-4711", "PatientBirthDate": "19480817"}
    flair = dicom(tmp_path / "a", **FLAIR, **patient)
    study = node_study(flair)
    other = dicom(tmp_path / "b", **{**FLAIR, "SeriesNumber": 9}, **patient, StudyInstanceUID=study)
    renamed = [path.rename(path.with_name(f"b{path.name}")) for path in other]
    answer = bring(doctor, {"study.zip": zipped([*flair, *renamed], tmp_path / "s.zip").read_bytes()})
    page = doctor.get(answer.json()["location"])
    assert sorted(roles(page.text)) == ["", "flair"], "of two series of one kind one is chosen"
    assert "ROE JANE" in words(page.text) and "17 Aug 1948" in words(page.text)
    both = doctor.post(answer.json()["location"], model="tiny-bright", role_0="flair", role_1="flair", transfer="")
    assert both.status_code == 422 and "several for one" in words(both.text)
    none = doctor.post(answer.json()["location"], model="tiny-bright", role_0="", role_1="t2", transfer="")
    assert none.status_code == 422 and "flair" in words(none.text)
    asked = doctor.post(answer.json()["location"], model="tiny-bright", role_0="", role_1="flair", transfer="")
    told = finished(doctor, asked.headers["location"])
    for name in ("seg.dcm", "sr.dcm", "report.pdf"):
        assert f"/files/{name}" in told
    assert "ID-4711" not in asked.headers["location"]


def node_study(files: list[Path]) -> str:
    from pydicom import dcmread

    return str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def test_two_patients_or_no_image_are_refused_by_name(doctor: Visit, tmp_path: Path) -> None:
    one = dicom(tmp_path / "a", **FLAIR, PatientID="A-1")
    two = dicom(tmp_path / "b", **FLAIR, PatientID="B-2")
    files = {f"{n}.dcm": path.read_bytes() for n, path in enumerate([*one, *two])}
    answer = bring(doctor, files)
    assert answer.status_code == 422 and answer.json()["type"].endswith(":patient-conflict")
    assert "A-1" not in answer.text
    assert bring(doctor, {"note.txt": b"hello"}).json()["type"].endswith((":not-dicom", ":dicom-malformed"))
    assert bring(doctor, {"empty.nii.gz": b""}).json()["type"].endswith(":input-empty")
    assert bring(doctor, {"a.nii.gz": b"x"}, guarded=False).status_code == 403


def test_another_doctor_and_an_operator_see_nothing_of_it(node: ApiNode, doctor: Visit, tmp_path: Path) -> None:
    draft = bring(doctor, scan(tmp_path)).json()["location"]
    asked = doctor.post(draft, model="tiny-bright", role_0="flair", spacing_mm="").headers["location"]
    finished(doctor, asked)
    stranger = visit(node.app, node.settings, node.database, Role.CLINICIAN, Role.SPECIALIST, sites=("base",))
    for path in (draft, asked, f"{asked}/state", f"{asked}/files/mask.nii.gz"):
        assert stranger.get(path).status_code == 404, path
    assert stranger.post(draft, model="tiny-bright", role_0="flair").status_code == 404
    assert stranger.post(f"{asked}/cancel").status_code == 404
    assert asked not in stranger.get("/study").text
    operator = visit(node.app, node.settings, node.database, Role.OPERATOR)
    assert operator.get("/study").status_code == 403 and bring(operator, scan(tmp_path)).status_code == 403


def test_a_file_that_names_a_study_opens_no_study(node: ApiNode, doctor: Visit, tmp_path: Path) -> None:
    """Whoever writes a file writes any Study Instance UID into it: what somebody sent herself is no right to look."""
    files = dicom(tmp_path / "a", **FLAIR)
    study = node_study(files)
    draft = bring(doctor, {path.name: path.read_bytes() for path in files}).json()["location"]
    asked = doctor.post(draft, model="tiny-bright", role_0="flair", transfer="").headers["location"]
    finished(doctor, asked)
    assert study in {row["study_uid"] for row in node.rows(predictions)}
    with node.database.read() as connection:
        assert not access.sees_study(connection, doctor.person, study)


def test_the_pages_are_in_spanish_too(node: ApiNode, tmp_path: Path) -> None:
    somebody = visit(node.app, node.settings, node.database, Role.SPECIALIST, sites=("base",), language="es")
    draft = bring(somebody, scan(tmp_path, "scan.nii.gz")).json()["location"]
    page = somebody.get(draft)
    assert roles(page.text) == [""] and "Su nombre no dice qué es" in words(page.text)
    refused = somebody.post(draft, model="tiny-bright", role_0="", spacing_mm="")
    assert refused.status_code == 422
    asked = somebody.post(draft, model="tiny-bright", role_0="flair", spacing_mm="")
    assert "no para uso clínico" in words(finished(somebody, asked.headers["location"]))


def test_a_draft_ends_with_its_uploads(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    drafts = Drafts(spool, tmp_path / "spool", 10**9)
    data = nifti(np.ones((4, 5, 6), np.float32), tmp_path / "a-flair.nii.gz").read_bytes()
    part = spool.part()
    part.write(data)
    made = drafts.make("me", [Told("x/a-flair.nii.gz", spool.keep(part))])
    assert drafts.of("me", made.id) == made and drafts.of("you", made.id) is None
    assert made.parts[0].label == "a-flair.nii.gz"
    assert drafts.of("me", "../../etc/passwd") is None
    assert spool.sweep((), -1.0) == 2, "the upload, and the draft that names it"
    assert drafts.of("me", made.id) is None
    with pytest.raises(Refused):
        drafts.make("me", [Told("a", Upload("0" * 64, 0))])
