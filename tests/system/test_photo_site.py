"""Photographs through a whole site with the shipped skin-lesion: sent, C-STOREd and posted; and looked at in OHIF.

Nine camera files go in as three people would bring them: `ai-node send`, objects by DCMTK's storescu (VL Photographic,
Dermoscopic, a secondary capture that is not ours), and POST.  Each must come back as heat map, PDF and SR in Orthanc
and as a report in a real FHIR server, with one probability whichever way it came.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from fixtures_results import dciodvfy
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from support.chromium import Viewer, viewer

from dicom_node.body_sites import body_site
from dicom_node.demo.found import FoundObject
from dicom_node.demo.site import Site, SiteOptions
from dicom_node.photo import Occasion, Patient, PhotoClass, wrap
from dicom_node.results.readback import measurement_groups
from dicom_node.volume import read_picture
from fhir_bridge.schema import faults
from portal import TicketOffice
from tests.peers.fhir_peer import FhirPeer
from tests.support.photos import IMPORTER, KNOWN_OF_DERMOSCOPIC

pytestmark = [pytest.mark.system, pytest.mark.realdata, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).resolve().parents[2]
PICTURES = REPOSITORY / "run" / "viewer"
ISSUER, SYSTEM = "SKIN-CLINIC", "urn:test:skin-clinic"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
OF_THE_STUDY = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyInstanceUID",
)  # fmt: skip
WAYS = ("send", "dermoscopic", "capture")
"""How the first three files arrive; the others are VL Photographic objects of another system."""
BOUND_PERCENT = 1e-9
"""Largest difference of one picture's probability between two ways, in points of per cent: a float's last digits."""


@dataclass(frozen=True)
class Arrived:
    """A photograph that went in through Orthanc."""

    file: Path
    way: str
    patient: str
    study_uid: str
    instance_uid: str


def as_capture(made: Path, target: Path) -> None:
    """The picture of a photographic object as some other system captures it: plain RGB, nothing of ours about it."""
    source, pixels = dcmread(made, stop_before_pixels=True), read_picture(made).pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    for keyword in OF_THE_STUDY:
        setattr(dataset, keyword, source.get(keyword, ""))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.InstanceNumber = generate_uid(), 1, 1
    dataset.Modality, dataset.ConversionType, dataset.BurnedInAnnotation = "OT", "DI", "NO"
    dataset.Manufacturer, dataset.ManufacturerModelName = "Somebody", "Dermatoscope 3"
    dataset.StudyDescription = dataset.SeriesDescription = "Dermatoscopy of a skin lesion"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    dataset.save_as(target, enforce_file_format=True)


class PhotoSite:
    """Orthanc, the node with the shipped package, a FHIR server; and what was brought to them."""

    def __init__(self, site: Site, fhir: FhirPeer, originals: list[Path], folder: Path) -> None:
        self.site, self.fhir, self.originals, self.folder = site, fhir, originals, folder
        self.arrived: list[Arrived] = []

    def ai_node(self, *words: str) -> list[dict[str, Any]]:
        """A command with the site's settings; its lines of JSON."""
        command = [sys.executable, "-m", "dicom_node.cli", "--config", str(self.site.config), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def bring_all(self) -> None:
        for number, file in enumerate(self.originals, start=1):
            way = WAYS[number - 1] if number <= len(WAYS) else "vl-photographic"
            patient = f"SKIN-{number}"
            self.fhir.create({"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": patient}]})
            self.arrived.append((self._sent if way == "send" else self._stored)(file, way, patient))

    def _sent(self, file: Path, way: str, patient: str) -> Arrived:
        who = ("--patient", patient, "--issuer", ISSUER, "--name", "Photo^One", "--body-site", "back", "--dermoscopic")
        (line,) = self.ai_node("send", str(file), *who)
        assert line["stored"] and line["seen"] == "content" and line["untouched"]
        return Arrived(file, way, patient, line["study_uid"], line["sop_instance_uid"])

    def _stored(self, file: Path, way: str, patient: str) -> Arrived:
        photo_class = PhotoClass.DERMOSCOPIC if way == "dermoscopic" else PhotoClass.VL_PHOTOGRAPHIC
        made = wrap(
            file.read_bytes(),
            Patient(patient, ISSUER, "Photo^Other", "19600229", "F"),
            Occasion("2026-11-22T10:00:00+01:00", "", body_site("back"), "", "dermoscopic"),
            IMPORTER,
            photo_class=photo_class,
        )
        path = self.folder / f"{patient}.dcm"
        path.write_bytes(made.data)
        if way == "capture":
            as_capture(path, path)
        peer = self.site.orthanc_peer
        proposed = [] if way == "capture" else ["-xy"]  # JPEG Baseline
        command = [
            "storescu",
            "-R",
            *proposed,
            "-aet",
            "DEMO",
            "-aec",
            peer.ae_title,
            peer.host,
            str(peer.port),
            str(path),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        found = dcmread(path, stop_before_pixels=True)
        return Arrived(file, way, patient, str(found.StudyInstanceUID), str(found.SOPInstanceUID))

    def wait_settled(self, timeout_s: float = 240.0) -> None:
        deadline, open_ones = time.monotonic() + timeout_s, list(self.arrived)
        while open_ones and time.monotonic() < deadline:
            stories = [self.site.story(one.study_uid) for one in open_ones]
            for story in stories:
                assert story is None or story["state"] not in ("failed", "refused", "held"), story["refusals"]
            open_ones = [
                one
                for one, story in zip(open_ones, stories, strict=True)
                if story is None or story["state"] != "completed" or not story["artefacts"]
            ]
            time.sleep(0.3)
        assert not open_ones, f"{[one.way for one in open_ones]}\n{self.site.log_tail()}"

    def of(self, way: str) -> Arrived:
        return next(one for one in self.arrived if one.way == way)

    def object(self, instance_uid: str, target: Path) -> Path:
        """An instance as Orthanc keeps it."""
        with self.site.orthanc.client() as client:
            (found,) = client.post("/tools/lookup", content=instance_uid).json()
            target.write_bytes(client.get(f"/instances/{found['ID']}/file").content)
        return target

    def results(self, one: Arrived) -> dict[str, FoundObject]:
        """Kind to the one result object of the study: captures that somebody sent are none."""
        found = [o for o in self.site.archive().results(one.study_uid) if o.dataset.SOPInstanceUID != one.instance_uid]
        assert sorted(o.kind for o in found) == ["PDF", "SC", "SR"], one.way
        return {o.kind: o for o in found}

    def link(self, study_uid: str) -> str:
        return TicketOffice(self.site.settings.data.folder / "tickets").link(self.site.web_url, study_uid)


def percents(report: Dataset) -> dict[str, float]:
    return {
        concept: group.numbers[concept][0]
        for group in measurement_groups(report)
        for concept in ("AI-MAL-PROB", "AI-MEL-PROB")
        if concept in group.numbers
    }


@pytest.fixture(scope="module")
def brought(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PhotoSite]:
    folder = tmp_path_factory.mktemp("photo-site")
    originals = sorted((data_dir / "dermoscopy" / "originals").glob("*.jpg"))
    with FhirPeer() as fhir:
        options = SiteOptions(
            folder / "site",
            REPOSITORY / "models",
            REPOSITORY / "config" / "routes.yaml",
            viewer=REPOSITORY / ".tools" / "ohif",
            only=("skin-lesion",),
            destinations=("pacs", "ehr"),
            changes={
                "gather": {"quiet_s": 1.0, "cap_s": 4.0, "study_quiet_s": 4.0},
                "report": {"issuers": {ISSUER: SYSTEM}},
                "destinations": {"ehr": {"kind": "fhir", "url": fhir.url}},
            },
        )
        with Site(options) as site:
            site.wait_ready()
            made = PhotoSite(site, fhir, originals, folder)
            made.bring_all()
            made.wait_settled()
            yield made


def test_every_photograph_comes_back_and_the_validator_has_nothing_to_say(brought: PhotoSite, tmp_path: Path) -> None:
    for one in brought.arrived:
        found = brought.results(one)
        for kind, item in found.items():
            path = tmp_path / f"{kind}.dcm"
            path.write_bytes(item.data)
            assert dciodvfy(path) == [], (one.way, kind)
            assert item.dataset.PatientID == one.patient
        assert set(percents(found["SR"].dataset)) == {"AI-MAL-PROB", "AI-MEL-PROB"}
        if one.way != "capture":  # that object is somebody else's
            said = dciodvfy(brought.object(one.instance_uid, tmp_path / "photo.dcm"))
            known = KNOWN_OF_DERMOSCOPIC if one.way == "dermoscopic" else ()
            assert [line for line in said if not any(word in line for word in known)] == []


def test_the_fhir_server_has_one_report_of_each_and_the_schema_takes_them(brought: PhotoSite) -> None:
    reports = brought.fhir.all("DiagnosticReport")
    observations = brought.fhir.all("Observation")
    for resource in [*reports, *observations, *brought.fhir.all("ImagingStudy"), *brought.fhir.all("Device")]:
        assert list(faults(resource)) == [], resource["resourceType"]
    patients = {f"Patient/{p['id']}": p["identifier"][0]["value"] for p in brought.fhir.all("Patient")}
    by_patient = {patients[report["subject"]["reference"]]: report for report in reports}
    mine = {one.patient for one in brought.arrived}
    assert mine <= set(by_patient) and len(by_patient) == len(reports)
    for one in brought.arrived:
        report = by_patient[one.patient]
        assert report["status"] == "preliminary" and "conclusionCode" not in report
        assert report["presentedForm"][0]["contentType"] == "application/pdf"
        told = {
            o["code"]["coding"][0]["code"]: o["valueQuantity"]["value"]
            for o in observations
            if o["subject"] == report["subject"]
        }
        archived = percents(brought.results(one)["SR"].dataset)
        assert told == pytest.approx(archived, abs=0.05), one.way


def test_one_probability_by_every_way(brought: PhotoSite, tmp_path: Path) -> None:
    """Nine camera files: through Orthanc (the SR there), by `predict`, and by POST with and without a patient."""
    archived = {one.file.name: percents(brought.results(one)["SR"].dataset) for one in brought.arrived}
    lines = brought.ai_node(
        "predict", "--model", "skin-lesion", "--dermoscopic", "--json", "--out", str(tmp_path / "out"),
        *(str(file) for file in brought.originals),
    )  # fmt: skip
    by_cli = {
        file.name: {m["name"]["value"]: m["value"] for m in line["measurements"]}
        for file, line in zip(brought.originals, lines, strict=True)
    }
    assert {name: pytest.approx(said, abs=BOUND_PERCENT) for name, said in archived.items()} == by_cli
    key = {"X-API-Key": brought.site.api_key}
    with httpx.Client(base_url=brought.site.web_url, headers=key, timeout=120, trust_env=False) as http:
        for file in brought.originals:
            told = post(http, file)
            by_rest = {name: one["probability"]["percent"] for name, one in outputs(told).items()}
            assert by_rest == pytest.approx(by_cli[file.name], abs=BOUND_PERCENT)
        patient = {"id": "SKIN-REST", "system": SYSTEM}
        brought.fhir.create({"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": "SKIN-REST"}]})
        told = post(http, brought.originals[0], patient=json.dumps(patient), bodySite="back")
        files = {name: http.get(path).content for name, path in told["links"]["files"].items()}
    bundle = json.loads(files["report.fhir.json"])
    assert list(faults(bundle)) == []
    answer = brought.fhir.http.post("/", json=bundle)
    assert answer.status_code == 200, answer.text
    assert {entry["response"]["status"][:3] for entry in answer.json()["entry"]} <= {"200", "201"}
    assert percents(dcmread(io.BytesIO(files["sr.dcm"]))) == pytest.approx(
        archived[brought.originals[0].name], abs=BOUND_PERCENT
    )


def post(http: httpx.Client, file: Path, **fields: str) -> dict[str, Any]:
    answer = http.post(
        "/api/v1/predict/skin-lesion",
        files={"image": (file.name, file.read_bytes())},
        data={"kind": "dermoscopic", **fields},
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


CONCEPTS = {"malignant": "AI-MAL-PROB", "melanoma": "AI-MEL-PROB"}


def outputs(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {CONCEPTS[one["key"]]: one for one in told["outputs"]}


def alike(shown: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> float:
    """Correlation of what a pane draws, its black surround left out, with a picture; 0 of a blank one."""
    rows, columns = (np.flatnonzero((shown.max(2) > 8).any(axis)) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return 0.0
    inside = shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = [
        np.asarray(Image.fromarray(picture).resize((48, 48), Image.Resampling.BOX), dtype=float).ravel()
        for picture in (inside, expected)
    ]
    return float(np.corrcoef(*small)[0, 1])


@pytest.mark.parametrize("way", [*WAYS, "vl-photographic"])
def test_the_viewer_shows_photograph_and_heat_map(brought: PhotoSite, tmp_path: Path, way: str) -> None:
    one = brought.of(way)
    heat_map = brought.results(one)["SC"].dataset
    photograph = read_picture(brought.object(one.instance_uid, tmp_path / "photo.dcm")).pixels
    PICTURES.mkdir(parents=True, exist_ok=True)
    with viewer() as page:
        if way == "dermoscopic":  # this OHIF lists the class and draws none of it: docs/reference/photos.md
            page.open_list(brought.link(one.study_uid), 4)
            assert [modality for modality, _, _ in page.display_sets() if modality in ("DMS", "XC")] == ["DMS"]
        else:
            page.open(brought.link(one.study_uid))
            assert any(one.instance_uid in image for image in page.shown_images()), "the photograph is what opens"
            _is_drawn(page, photograph, PICTURES / f"photo-{way}.png")
        assert {"SR", "DOC", "OT"} <= {modality for modality, _, _ in page.display_sets()}
        page.show(str(heat_map.SeriesDescription), str(heat_map.SOPInstanceUID))
        _is_drawn(page, heat_map.pixel_array, PICTURES / f"photo-{way}-heat-map.png")
        assert page.troubles == []


def _is_drawn(page: Viewer, expected: npt.NDArray[np.uint8], target: Path) -> None:
    shown = page.drawn(lambda pixels: alike(pixels, expected) > 0.9)
    page.page.screenshot(path=target)
    assert alike(shown, expected) > 0.9, f"{target.name}: the pane shows something else, or nothing"
