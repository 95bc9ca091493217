"""Every bad upload gets its refusal by name, and the next good one is served (hardening 4.6, 4.8; S13, S14, S15).

One table: what is sent, the status, the code.  The files are made from a good one by changing what the row says.
"""

from __future__ import annotations

import gzip
import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from portal.api.answers import refusal_problem
from tests.fixtures_packages import make_tiny_package
from tests.support.api import ApiNode, dicom, head, nifti, patched

pytestmark = pytest.mark.component

Bad = Callable[[Path], bytes]

# offsets of nifti1.h
_DIM, _DATATYPE, _BITPIX, _PIXDIM, _VOX_OFFSET, _SLOPE = 40, 70, 72, 76, 108, 112
_UNITS, _QFORM, _SFORM, _QOFFSET, _SROW, _MAGIC = 123, 252, 254, 268, 280, 344


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nifti(head(), tmp_path_factory.mktemp("good") / "good.nii")


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return dicom(tmp_path_factory.mktemp("slices"), PatientID="P")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    folder = tmp_path_factory.mktemp("refusals")
    make_tiny_package(folder / "models", role="t1c")
    api = {"max_upload_mb": 4, "max_unpacked_mb": 3, "max_megavoxels": 0.2, "images_per_minute": 1000}
    made = ApiNode(folder / "node", folder / "models", api=api)
    yield made
    made.close()


def field(offset: int, form: str, *values: object) -> Bad:
    return lambda path: patched(path, offset, form, *values)


def volume(array: np.ndarray) -> Bad:
    def make(path: Path) -> bytes:
        return nifti(array, path.with_name("other.nii")).read_bytes()

    return make


def zipped_(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def with_wrong_crc(path: Path) -> bytes:
    packed = bytearray(zipped_(path.read_bytes()))
    packed[-8] ^= 0xFF
    return bytes(packed)


NIFTI: dict[str, tuple[Bad, int, str]] = {
    "empty": (lambda path: b"", 400, "input-empty"),
    "junk": (lambda path: b"\x00" * 1000, 422, "not-nifti"),
    "wrong magic": (field(_MAGIC, "<4s", b"abc\0"), 422, "not-nifti"),
    "header of a .hdr/.img pair": (field(_MAGIC, "<4s", b"ni1\0"), 422, "not-nifti"),
    "size of header in no byte order": (field(0, "<i", 349), 422, "not-nifti"),
    "cut in the header": (lambda path: path.read_bytes()[:300], 422, "nifti-truncated"),
    "cut in the values": (lambda path: path.read_bytes()[:-1], 422, "nifti-truncated"),
    "bytes behind the values": (lambda path: path.read_bytes() + b"\0", 422, "nifti-size-mismatch"),
    "dims smaller than the data": (field(_DIM, "<8h", 3, 40, 48, 12, 1, 1, 1, 1), 422, "nifti-size-mismatch"),
    "dims larger than the data": (field(_DIM, "<8h", 3, 40, 48, 48, 1, 1, 1, 1), 422, "nifti-truncated"),
    "four dimensions": (field(_DIM, "<8h", 4, 40, 48, 12, 2, 1, 1, 1), 422, "nifti-dimensions"),
    "seven dimensions": (field(_DIM, "<8h", 7, 40, 48, 6, 2, 2, 1, 1), 422, "nifti-dimensions"),
    "no dimensions": (field(_DIM, "<8h", 0, 40, 48, 24, 1, 1, 1, 1), 422, "nifti-dimensions"),
    "a negative dimension": (field(_DIM, "<8h", 3, -40, 48, 24, 1, 1, 1, 1), 422, "nifti-dimensions"),
    "a dimension over 2048": (field(_DIM, "<8h", 3, 3000, 1, 1, 1, 1, 1, 1), 422, "nifti-dimensions"),
    "more voxels than allowed": (field(_DIM, "<8h", 3, 2000, 2000, 2000, 1, 1, 1, 1), 413, "too-large"),
    "a data type that is not read": (field(_DATATYPE, "<hh", 128, 24), 422, "nifti-datatype-unsupported"),
    "complex values": (field(_DATATYPE, "<hh", 32, 64), 422, "nifti-datatype-unsupported"),
    "bits that are not the type's": (field(_BITPIX, "<h", 16), 422, "nifti-header-invalid"),
    "values before the header's end": (field(_VOX_OFFSET, "<f", 348.0), 422, "nifti-header-invalid"),
    "values past the end": (field(_VOX_OFFSET, "<f", 1e9), 422, "nifti-header-invalid"),
    "half an offset": (field(_VOX_OFFSET, "<f", 352.5), 422, "nifti-header-invalid"),
    "spacing zero": (field(_PIXDIM, "<8f", 1, 0, 2, 3, 0, 0, 0, 0), 422, "nifti-header-invalid"),
    "spacing not a number": (field(_PIXDIM, "<8f", 1, float("nan"), 2, 3, 0, 0, 0, 0), 422, "nifti-header-invalid"),
    "spacing of kilometres": (field(_PIXDIM, "<8f", 1, 2, 2, 3000, 0, 0, 0, 0), 422, "nifti-header-invalid"),
    "no units": (field(_UNITS, "<B", 0), 422, "nifti-units-missing"),
    "metres": (field(_UNITS, "<B", 1), 422, "nifti-units-missing"),
    "a slope that is infinite": (field(_SLOPE, "<ff", float("inf"), 0), 422, "nifti-header-invalid"),
    "no orientation": (field(_QFORM, "<hh", 0, 0), 422, "nifti-orientation-missing"),
    "sform of zeros": (
        lambda path: _twice(path, (_QFORM, "<hh", (0, 1)), (_SROW, "<12f", (0.0,) * 12)), 422, "nifti-header-invalid"
    ),
    "sform and qform apart": (field(_QOFFSET, "<3f", 90.0, -48.0, 0.0), 422, "nifti-orientation-conflict"),
    "a shear": (
        lambda path: _twice(
            path, (_QFORM, "<hh", (0, 1)), (_SROW, "<12f", (-2, 0.5, 0, 0, 0, -2, 0, 0, 0, 0, 3, 0))
        ),
        422,
        "nifti-not-orthogonal",
    ),
    "a label map": (volume(np.arange(24 * 48 * 40).reshape(24, 48, 40).astype(np.int16) % 5), 422,
                    "image-is-label-map"),
    "one value everywhere": (volume(np.full((24, 48, 40), 7, np.float32)), 422, "image-blank"),
    "a value that is none": (
        lambda path: path.read_bytes()[:-4] + struct.pack("<f", float("nan")), 422, "nifti-values-invalid"
    ),
    "gzip with a wrong check sum": (with_wrong_crc, 422, "gzip-damaged"),
    "gzip without its end": (lambda path: zipped_(path.read_bytes())[:-9], 422, "gzip-damaged"),
    "gzip with more behind it": (lambda path: zipped_(path.read_bytes()) + zipped_(b"x"), 422, "gzip-damaged"),
    "gzip that unpacks to too much": (
        lambda path: zipped_(path.read_bytes()[:352] + bytes(60_000_000)), 413, "decompression-bomb"
    ),
}  # fmt: skip


def _twice(path: Path, *changes: tuple[int, str, tuple[float, ...]]) -> bytes:
    raw = bytearray(path.read_bytes())
    for offset, form, values in changes:
        struct.pack_into(form, raw, offset, *values)
    return bytes(raw)


@pytest.mark.parametrize("what", NIFTI)
def test_a_bad_nifti_file_has_its_refusal(node: ApiNode, good: Path, what: str) -> None:
    make, status, code = NIFTI[what]
    answer = node.client().post("/api/v1/predict/nnUNet", files={"image": ("scan.nii.gz", make(good))})
    told = answer.json()
    assert (answer.status_code, told.get("code")) == (status, code), told
    assert answer.headers["content-type"] == "application/problem+json"
    assert told["type"] == f"urn:ainode:problem:{code}" and told["success"] is False
    assert_it_is_said_in_spanish(told)


def archive(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in entries:
            opened.writestr(name, data)
    return buffer.getvalue()


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def encrypted(data: bytes) -> bytes:
    raw = bytearray(archive(("a.dcm", data)))
    raw[6] |= 1
    central = raw.index(b"PK\x01\x02")
    raw[central + 8] |= 1
    return bytes(raw)


def damaged(data: bytes) -> bytes:
    raw = bytearray(archive(("a.dcm", data)))
    middle = 30 + len("a.dcm") + 40
    raw[middle : middle + 20] = bytes(20)
    return bytes(raw)


def other_name_inside(data: bytes) -> bytes:
    """The local header says another name than the directory."""
    raw = bytearray(archive(("a.dcm", data)))
    raw[30:35] = b"b.dcm"
    return bytes(raw)


ZIP: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "a path out of it": (lambda dcm: archive(("../a.dcm", dcm)), 422, "archive-unsafe-path"),
    "an absolute path": (lambda dcm: archive(("/etc/a.dcm", dcm)), 422, "archive-unsafe-path"),
    "a drive": (lambda dcm: archive(("C:a.dcm", dcm)), 422, "archive-unsafe-path"),
    "backslashes": (lambda dcm: archive(("..\\a.dcm", dcm)), 422, "archive-unsafe-path"),
    "a link": (lambda dcm: archive((link(), b"/etc/passwd")), 422, "archive-unsafe-entry"),
    "a password": (encrypted, 422, "archive-encrypted"),
    "an archive inside": (lambda dcm: archive(("a.zip", archive(("a.dcm", dcm)))), 422, "archive-nested"),
    "gzip inside": (lambda dcm: archive(("a.nii.gz", gzip.compress(dcm))), 422, "archive-nested"),
    "one name twice": (lambda dcm: archive(("a.dcm", dcm), ("a.dcm", dcm)), 422, "archive-damaged"),
    "local and central header apart": (other_name_inside, 422, "archive-damaged"),
    "damage": (damaged, 422, "archive-damaged"),
    "a cut": (lambda dcm: archive(("a.dcm", dcm))[:-30], 422, "archive-damaged"),
    "more than 5000 files": (lambda dcm: archive(*((str(n), b"") for n in range(5001))), 413,
                             "archive-too-many-entries"),
    "a bomb": (lambda dcm: archive(("a.dcm", bytes(50_000_000))), 413, "archive-bomb"),
    "a bomb in parts": (lambda dcm: archive(*((f"{n}.dcm", bytes(1_000_000)) for n in range(10))), 413, "archive-bomb"),
    "nothing": (lambda dcm: archive(), 400, "input-empty"),
    "only what is skipped": (lambda dcm: archive(("DICOMDIR", dcm), ("__MACOSX/a", b"x")), 400, "input-empty"),
    "no DICOM": (lambda dcm: archive(("a.txt", b"hello" * 100)), 422, "not-dicom"),
    "a program": (lambda dcm: archive(("a.dcm", b"MZ" + dcm[2:])), 422, "preamble-executable"),
    "one slice": (lambda dcm: archive(("a.dcm", dcm)), 422, "too-few-slices"),
}  # fmt: skip


@pytest.mark.parametrize("what", ZIP)
def test_a_bad_archive_has_its_refusal(node: ApiNode, slices: list[Path], what: str) -> None:
    make, status, code = ZIP[what]
    answer = node.client().post(
        "/api/v1/predict/nnUNet", files={"image": ("study.zip", make(slices[12].read_bytes()))}, data={"role": "t1c"}
    )
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert_it_is_said_in_spanish(answer.json())


def assert_it_is_said_in_spanish(told: dict[str, Any]) -> None:
    """What really came, as somebody reads it who asked with ``Accept-Language: es``."""
    _, spanish = refusal_problem(told, "", "es")
    for key in ("title", "detail", "expected", "found"):
        words = set(spanish[key].lower().replace(",", " ").split())
        assert not words & {"the", "of", "at", "another", "with", "none", "is", "not"}, spanish[key]
        assert bool(spanish[key]) == bool(told[key]), key
    assert spanish["title"] != told["title"] and spanish["code"] == told["code"]


def test_who_asks_in_spanish_is_answered_in_spanish(node: ApiNode, slices: list[Path], good: Path) -> None:
    client, asked = node.client(), {"Accept-Language": "es-CL,es;q=0.9,en;q=0.1"}
    sent = {"image": ("scan.nii.gz", patched(good, _DATATYPE, "<h", 128))}
    told = client.post("/api/v1/predict/nnUNet", files=sent, headers=asked).json()
    assert told["expected"] == "u8, i16, u16, i32, f32 o f64" and told["found"] == "código 128"
    for path, title in (("/api/v1/results/" + "0" * 32, "Aquí no hay nada."), ("/nowhere", "Aquí no hay nada.")):
        assert client.get(path, headers=asked).json()["title"] == title
        assert client.get(path).json()["title"] == "There is nothing here."
    stranger = TestClient(node.app, base_url="http://localhost")
    unknown = stranger.get("/api/v1/results/" + "0" * 32, headers={**asked, "Accept": "application/json"})
    assert unknown.status_code == 401 and unknown.json()["title"] == "Quien llama no dijo quién es."


def test_two_patients_in_one_upload(node: ApiNode, slices: list[Path], tmp_path: Path) -> None:
    other = dicom(tmp_path, PatientID="Q")
    answer = node.client().post("/api/v1/predict/nnUNet", files=[("files", p.read_bytes()) for p in (*slices, *other)])
    assert (answer.status_code, answer.json()["code"]) == (422, "patient-conflict")


def test_a_slice_is_missing(node: ApiNode, slices: list[Path]) -> None:
    some = [("files", path.read_bytes()) for path in slices if path is not slices[10]]
    answer = node.client().post("/api/v1/predict/nnUNet", files=some)
    assert (answer.status_code, answer.json()["code"]) == (422, "slices-missing")


def test_limits_of_the_form(node: ApiNode, good: Path) -> None:
    client = node.client()
    url = "/api/v1/predict/nnUNet"
    image = {"image": ("a.nii", good.read_bytes())}
    big = client.post(url, files={"image": ("a.nii", bytes(5_000_000))})
    assert (big.status_code, big.json()["type"]) == (413, "urn:ainode:problem:too-large")

    def endless() -> Iterator[bytes]:  # no Content-Length: counted while it arrives
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(80):
            yield bytes(100_000)

    chunked = client.post(url, content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert chunked.status_code == 413
    assert client.post(url, json={"image": "x"}).json()["code"] == "validation"
    assert client.post(url, files=image, data={"priority": "now"}).json()["code"] == "validation"
    assert client.post(url, files=image, data={"spacing_mm": "1,2"}).json()["code"] == "validation"
    assert client.post(url, files=image, data={"wait": "perhaps"}).json()["code"] == "validation"
    assert client.post(url, files={"picture": image["image"]}).json()["code"] == "validation"
    assert client.post(url, data={"role": "x" * 5000}, files=image).status_code == 413
    cut = client.post(
        url,
        content=b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc',
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert (cut.status_code, cut.json()["code"]) == (400, "validation")
    assert client.post(url, files={"role": (None, "t1c")}).json()["code"] == "input-empty"
    arriving = node.settings.data.folder / "spool" / "arriving"
    assert list(arriving.glob(".*")) == []  # what was begun was taken back


def test_without_a_key_nothing_is_read_and_nothing_kept(node: ApiNode, good: Path) -> None:
    before = sorted((node.settings.data.folder / "spool").rglob("*"))
    for key in ("", "ain_00000000_" + "x" * 43):
        answer = node.client(key=key).post("/api/v1/predict/nnUNet", files={"image": good.read_bytes() + b"new"})
        assert answer.status_code == 401
    assert sorted((node.settings.data.folder / "spool").rglob("*")) == before


def test_names_from_outside_become_no_path(node: ApiNode, good: Path) -> None:
    """I9: whatever a file is called, it lies under its digest; ids and names in URLs are looked up."""
    client = node.client()
    for name in ("../../../etc/cron.d/x.nii", "a\0b.nii", "C:\\x.nii", "x" * 5000):
        client.post("/api/v1/predict/nnUNet?wait=false", files={"image": (name, good.read_bytes())})
    names = {path.name for path in node.settings.data.folder.parent.rglob("*")}
    assert not any("cron" in name or "x.nii" in name for name in names)
    for path in ("/api/v1/results/..%2f..%2frecords.sqlite", f"/api/v1/results/{'0' * 32}/files/..%2frow"):
        assert client.get(path).status_code in (400, 404)


def test_after_all_of_this_a_good_file_is_served(node: ApiNode, good: Path) -> None:
    answer = node.client().post("/api/v1/predict/nnUNet", files={"image": ("scan.nii", good.read_bytes())})
    assert answer.status_code == 200 and answer.json()["success"], answer.text
