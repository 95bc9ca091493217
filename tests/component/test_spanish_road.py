"""A patient called Ñ, a doctor who reads Spanish: photograph, DICOM in two character sets, SR, page, FHIR report."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import unicodedata
import uuid
from pathlib import Path
from typing import Any

import pytest
from fixtures_photo import drawn_lesion, heat_in_the_middle, jpeg, lesion_findings
from fixtures_results import PRODUCER, SITE, run_identity
from peers import reports
from pydicom import dcmread

from ai_engine.findings import Findings
from ai_engine.packages.schema import Classification, parse_description
from dicom_node.body_sites import body_site
from dicom_node.photo import Importer, Occasion, Patient, wrap
from dicom_node.results import build_picture, check_picture
from dicom_node.volume import read_picture
from dicom_node.words import ObjectKind, ResultSet
from fhir_bridge import ReportOptions, bundle
from fhir_bridge.identity import contradictions

pytestmark = pytest.mark.component

NAME = "Ñuñoa Güell^María José^de los Ángeles"
SHOWN = "Ñuñoa Güell María José de los Ángeles"
SKIN = Path(__file__).resolve().parents[2] / "models" / "skin-lesion" / "1.0.0" / "model.yaml"
ENGLISH = (" the ", " not ", " of the ", " with ", "picture", "Not for", "threshold", "unreviewed", "Patient ID")


def described() -> Classification:
    found = parse_description(SKIN.read_bytes())
    assert isinstance(found, Classification)
    return found


def findings() -> Findings:
    """What the shipped model says about itself beside drawn numbers."""
    model, made = described(), lesion_findings(value=62.5, threshold=4.4)
    identity = dataclasses.replace(
        made.model, title=model.title, intended_use=model.intended_use, words=model.words, version=model.version
    )
    meant = {output.key: output.meaning for output in model.outputs}
    observations = tuple(
        dataclasses.replace(
            one, measurements=tuple(dataclasses.replace(m, note=meant[one.key]) for m in one.measurements)
        )
        for one in made.observations
    )
    notes = (*model.limits, "Picture declared as: dermoscopic; taken by the quality check for: dermoscopic.")
    for output in model.outputs:
        point = output.operating_point
        assert point is not None
        notes += (
            f"{output.code.meaning}: at the operating threshold, sensitivity {point.sensitivity:.2f} and "
            f"specificity {point.specificity:.2f} on {point.data} (n = {point.n}).",
        )
    return dataclasses.replace(made, model=identity, observations=observations, notes=notes)


def photograph(folder: Path, charset: str) -> Path:
    """Wrapped by the node (UTF-8), and as an archive in Latin-1 keeps the same object."""
    wrapped = wrap(
        jpeg(drawn_lesion()),
        Patient(id="12345678-5", issuer="RUT-CL", name=NAME, birth_date="19700131", sex="F"),
        Occasion(created="2026-11-22T10:00:00-03:00", body_site=body_site("chest"), declared="dermoscopic"),
        Importer(uuid.UUID(SITE), "0.1.0", "node-1"),
    )
    path = folder / "photo.dcm"
    path.write_bytes(wrapped.data)
    if charset != "ISO_IR 192":
        ds = dcmread(path)
        ds.decode()
        ds.SpecificCharacterSet = charset
        ds.save_as(path)
        assert NAME.encode("latin-1") in path.read_bytes() and NAME.encode() not in path.read_bytes()
    else:
        assert NAME.encode() in path.read_bytes()
    return path


def built(folder: Path, charset: str, language: str = "es") -> ResultSet:
    picture = read_picture(photograph(folder, charset))
    result = build_picture(run_identity(picture.study_uid), picture, heat_in_the_middle(), findings(), PRODUCER,
                           language=language)  # fmt: skip
    check_picture(result, picture, heat_in_the_middle(), findings())
    return result


def page_text(result: ResultSet, folder: Path) -> str:
    (folder / "page.pdf").write_bytes(result.pdf)
    done = subprocess.run(["pdftotext", "-layout", str(folder / "page.pdf"), "-"], capture_output=True, check=True)
    return " ".join(done.stdout.decode().split())


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 100"])
def test_a_name_with_accents_stays_whole_to_the_end(tmp_path: Path, charset: str) -> None:
    result = built(tmp_path, charset)
    for made in result.objects:
        ds = dcmread(io.BytesIO(made.data))
        assert str(ds.PatientName) == NAME and ds.SpecificCharacterSet == "ISO_IR 192", made.kind
        assert NAME.encode() in made.data
    assert SHOWN in unicodedata.normalize("NFC", page_text(result, tmp_path))
    attributes = reports.attributes(PatientName=NAME, PatientID="12345678-5", PatientBirthDate="19700131")
    for family, differs in (
        ("Ñuñoa Güell", False),
        ("NUNOA GUELL", False),
        ("N\u0303un\u0303oa Güell", False),
        ("Muñoz", True),
    ):
        patient = {"birthDate": "1970-01-31", "gender": "female", "name": [{"family": family}]}
        assert ("family name" in contradictions(attributes, patient)) is differs, family


def test_the_page_reads_spanish_from_the_first_line_to_the_last(tmp_path: Path) -> None:
    seen = page_text(built(tmp_path, "ISO_IR 192"), tmp_path)
    for expected in (
        "Malignidad de una lesión de piel", "para que lo revise un profesional calificado", "62 %",
        "EN EL UMBRAL de operación O POR ENCIMA: 4,4 %", "Probabilidad de malignidad estimada por el modelo",
        "sensibilidad 0,96", "(dermatoscopia): estimación de IA",
        "piel del pecho", "femenino", "Una probabilidad baja no excluye malignidad", "no es un diagnóstico",
    ):  # fmt: skip
        assert expected in seen, expected
    assert not [word for word in ENGLISH if word in seen], seen
    english = page_text(built(tmp_path, "ISO_IR 192", "en"), tmp_path)
    assert "4.4 %" in english and "female" in english and "lesión" not in english


def texts(value: Any, key: str = "") -> list[str]:
    """What of a resource is written for people: texts, notes, conclusion, titles, without the displays of codes."""
    if isinstance(value, dict):
        return [one for name, inner in value.items() for one in texts(inner, name)]
    if isinstance(value, list):
        return [one for inner in value for one in texts(inner, key)]
    return [value] if key in ("text", "conclusion", "title", "div", "name", "description") and value else []


def test_the_fhir_report_reads_spanish_and_its_codes_stay() -> None:
    said = reports.report(findings=findings(), options=ReportOptions(title=described().title, language="es"))
    told = bundle(said)
    resources = {entry["resource"]["resourceType"]: entry["resource"] for entry in told["entry"]}
    report, observation = resources["DiagnosticReport"], resources["Observation"]
    assert report["language"] == observation["language"] == report["presentedForm"][0]["language"] == "es"
    assert report["conclusion"].startswith("Probabilidad de malignidad estimada por el modelo 62 %")
    assert "no un diagnóstico" in report["conclusion"] and 'lang="es"' in report["text"]["div"]
    assert report["code"]["text"] == "Malignidad de una lesión de piel (dermatoscopia)"
    assert (
        report["code"]["coding"]
        == bundle(reports.report(findings=findings()))["entry"][-2]["resource"]["code"]["coding"]
    )
    ours = [one for kind in ("DiagnosticReport", "Observation") for one in texts(resources[kind])]
    ours = [one for one in ours if "flair: series 5" not in one]  # a note that the fixture wrote
    assert not [(word, one) for word in ENGLISH for one in ours if word in f" {one} "], ours
    english = bundle(reports.report(findings=findings(), options=ReportOptions(title=described().title)))
    plain = next(e["resource"] for e in english["entry"] if e["resource"]["resourceType"] == "DiagnosticReport")
    assert plain["language"] == "en" and "not a diagnosis" in plain["conclusion"]


def test_what_a_page_says_is_the_same_in_both_kinds_of_source(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = built(tmp_path / "a", "ISO_IR 192"), built(tmp_path / "b", "ISO_IR 100")
    sr = [dcmread(io.BytesIO(next(o.data for o in one.objects if o.kind is ObjectKind.SR))) for one in (first, second)]
    assert sr[0].PatientName == sr[1].PatientName and first.pdf == second.pdf
