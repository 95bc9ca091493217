"""Photographs with a real Orthanc: sent from the command line, shown, forwarded; what is not taken, and why."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid
from test_listen_orthanc import site, stow  # noqa: F401  (a fixture)
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.orthanc import OrthancChild
from dicom_node.photo import PhotoClass, wrap
from dicom_node.volume import read_picture
from tests.support import slices
from tests.support.listening import Listening, until
from tests.support.photos import IMPORTER, PATIENT, UPRIGHT, corners, exif, occasion, saved, scene, turned

pytestmark = pytest.mark.component

WHO = ("--patient", "P-17", "--issuer", "HOSPITAL", "--body-site", "back", "--dermoscopic")


@pytest.fixture
def config(site: tuple[Listening, OrthancChild], tmp_path: Path) -> Path:  # noqa: F811
    """Settings of a program beside the node that knows the Orthanc."""
    _, child = site
    path = tmp_path / "sender.yaml"
    values = {
        "data": {"folder": str(tmp_path / "sender")},
        "orthanc": {"url": child.url, "username": child.username, "password_file": str(child.password_file)},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def send(config: Path, *options: str) -> tuple[int, list[dict[str, object]], str]:
    """The command in this process, beside the node's log: exit code, lines of JSON, words for people."""
    done = CliRunner().invoke(app, ["--config", str(config), "send", *options])
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"], done.stderr


def test_photographs_are_stored_shown_and_forwarded(
    site: tuple[Listening, OrthancChild],  # noqa: F811
    config: Path,
    tmp_path: Path,
) -> None:
    node, child = site
    (tmp_path / "upright.jpg").write_bytes(saved(scene()))
    (tmp_path / "turned.jpg").write_bytes(saved(turned(scene(), 6), exif=b"Exif\0\0" + exif(6)))
    (tmp_path / "drawn.png").write_bytes(saved(scene(), "PNG"))
    (tmp_path / "tool.jpg").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(500))
    names = ["upright.jpg", "turned.jpg", "drawn.png", "tool.jpg"]
    code, lines, told = send(config, *(str(tmp_path / name) for name in names), *WHO)
    assert code == 3, told
    assert [line["stored"] for line in lines] == [True, True, True, False]
    assert lines[3]["refusal"]["code"] == "not-an-image"  # type: ignore[index]
    assert [line.get("untouched") for line in lines[:3]] == [True, False, False]
    assert {line["seen"] for line in lines[:3]} == {"content"}
    assert len({line["study_uid"] for line in lines[:3]}) == 1

    with child.client() as client:
        for line in lines[:3]:
            (found,) = client.post("/tools/lookup", content=str(line["sop_instance_uid"])).json()
            shown = client.get(f"/instances/{found['ID']}/preview")
            assert shown.status_code == 200
            with Image.open(io.BytesIO(shown.content)) as image:
                pixels = np.asarray(image.convert("RGB"))
            assert corners(pixels) == UPRIGHT, "Orthanc shows it the right way up"
            assert np.abs(pixels.astype(int) - scene()).mean() < 4
    until(lambda: len(node.reads) == 3, 40, "three photographs, each a series of its own, came to the node")
    assert node.count("instances") == 3 and node.count("copies") == 0
    for row in node.rows("instances"):
        assert not row["own_result"] and row["header"]["DeclaredPicture"] == "dermoscopic"
        assert row["header"]["AnatomicRegionCode"] == "66643007"
        picture = read_picture(node.settings.data.folder / row["path"])
        assert corners(picture.pixels) == UPRIGHT


def test_without_a_patient_nothing_is_sent(
    site: tuple[Listening, OrthancChild],  # noqa: F811
    config: Path,
    tmp_path: Path,
) -> None:
    _, child = site
    photo = tmp_path / "a.jpg"
    photo.write_bytes(saved(scene()))
    for options in ((), ("--patient", "P-17"), ("--issuer", "HOSPITAL")):
        code, lines, told = send(config, str(photo), *options)
        assert code == 3 and lines == [] and "patient-unidentified" in told and "P-17" not in told
    for options, word in ((("--body-site", "elsewhere"), "--body-site"), (("--laterality", "up"), "--laterality")):
        code, _, told = send(config, str(photo), "--patient", "P", "--issuer", "X", *options)
        assert code == 2 and word in told
    with child.client() as client:
        assert client.get("/instances").json() == []


def test_every_accepted_class_is_forwarded_and_our_own_results_are_not(
    site: tuple[Listening, OrthancChild],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Photographs as secondary captures come under Modality OT, as our own heat maps do (I18)."""
    node, child = site
    files = []
    for number, photo_class in enumerate(PhotoClass, start=1):
        made = wrap(saved(scene()), PATIENT, occasion(number=number), IMPORTER, photo_class=photo_class)
        files.append(tmp_path / f"{photo_class}.dcm")
        files[-1].write_bytes(made.data)
    capture = dcmread(files[0])
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    capture.Modality, capture.ConversionType = "OT", "DI"
    capture.SeriesInstanceUID = generate_uid()
    for name, model in (("capture.dcm", "Dermatoscope 3"), ("ours.dcm", "dicom-ai-node")):
        capture.ManufacturerModelName = model
        capture.SOPInstanceUID = capture.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        capture.SeriesInstanceUID = generate_uid()
        capture.save_as(tmp_path / name, enforce_file_format=True)
        files.append(tmp_path / name)
    with child.client() as client:
        for file in files:
            stow(client, file)
        until(lambda: len(node.reads) == 3, 40, "three photographs")
        assert len(client.get("/instances").json()) == 4
    arrived = {row["sop_class_uid"] for row in node.rows("instances")}
    assert arrived == {
        "1.2.840.10008.5.1.4.1.1.77.1.4", "1.2.840.10008.5.1.4.1.1.77.1.7", "1.2.840.10008.5.1.4.1.1.7"
    }  # fmt: skip


def test_an_endoscopic_object_is_refused_by_name(
    site: tuple[Listening, OrthancChild],  # noqa: F811
    tmp_path: Path,
) -> None:
    node, _ = site
    made = dcmread(io.BytesIO(wrap(saved(scene()), PATIENT, occasion(), IMPORTER).data))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.1"
    made.save_as(tmp_path / "es.dcm", enforce_file_format=True)
    done = slices.storescu(node.port, [tmp_path / "es.dcm"], calling="MODALITY", options=["-xy"])
    said = done.stdout + done.stderr
    assert "0x0122" in said or "SOPClassNotSupported" in said, said
    good = tmp_path / "good.dcm"
    good.write_bytes(wrap(saved(scene()), PATIENT, occasion(), IMPORTER).data)
    assert slices.storescu(node.port, [good], calling="MODALITY", options=["-xy"]).returncode == 0
    assert node.count("instances") == 1


def test_straight_to_the_node(site: tuple[Listening, OrthancChild], config: Path, tmp_path: Path) -> None:  # noqa: F811
    node, _ = site
    photo = tmp_path / "a.jpg"
    photo.write_bytes(saved(scene()))
    code, lines, told = send(config, str(photo), *WHO, "--to", f"AINODE@127.0.0.1:{node.port}", "--from", "MODALITY")
    assert code == 0 and lines[0]["stored"], told
    until(lambda: node.count("instances") == 1)
