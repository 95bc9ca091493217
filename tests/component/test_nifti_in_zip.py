"""NIfTI inside a zip: the same answer as for the files alone, roles as for files alone, and no refusal is lost."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from ai_engine.packages import load_package
from dicom_node.refusals import Refused
from dicom_node.stages.inputs import cases_of, parse_argument, read_case
from tests.fixtures_packages import make_random_package, make_tiny_package
from tests.support.api import ApiNode, dicom, head, nifti

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_package(folder, role="t1c")
    make_random_package(folder, patch=(32, 32), channels=3, description={"role_sets": [["flair", "t1"], ["flair"]]})
    return folder


@pytest.fixture(scope="module")
def node(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    made = ApiNode(tmp_path_factory.mktemp("node"), models)
    yield made
    made.close()


@pytest.fixture
def client(node: ApiNode) -> TestClient:
    return node.client()


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return nifti(head(), tmp_path_factory.mktemp("scan") / "scan.nii.gz").read_bytes()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return nifti(head(seed=8), tmp_path_factory.mktemp("scan") / "scan.nii.gz").read_bytes()


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    array = np.eye(48, dtype=np.uint8)[None].repeat(24, 0)
    return nifti(array, tmp_path_factory.mktemp("scan") / "labels.nii.gz").read_bytes()


def packed(entries: Mapping[str, bytes]) -> bytes:
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return box.getvalue()


def ask(client: TestClient, content: bytes, *, model: str = "nnUNet", **fields: str) -> Any:
    return client.post(f"/api/v1/predict/{model}", files={"image": ("case.zip", content)}, data=fields).json()


def test_a_lone_file_gives_the_same_mask_in_a_zip(client: TestClient, scan: bytes) -> None:
    alone = client.post("/api/v1/predict/nnUNet", files={"image": ("a.nii.gz", scan)}).json()
    for name, content in (("scan.nii.gz", scan), ("folder/scan.nii", gzip.decompress(scan))):
        told = ask(client, packed({name: content, "__MACOSX/._scan.nii.gz": b"x", "readme.txt": b"about"}))
        assert told["success"], told
        assert told["class_details"] == alone["class_details"] and told["from_cache"]
        assert told["warnings"] == ["1 files in the archive were no images"]
        assert client.get(told["output_path"]).content == client.get(alone["output_path"]).content


def test_the_role_of_a_lone_file_is_the_callers_then_its_names_then_the_default(
    client: TestClient, scan: bytes
) -> None:
    assert ask(client, packed({"x_flair.nii.gz": scan}), role="t1c")["success"]
    assert ask(client, packed({"BraTS-GLI-00000-000-t1c.nii.gz": scan}))["success"]
    refused = ask(client, packed({"BraTS-GLI-00000-000-t2f.nii.gz": scan}))
    assert (refused["code"], refused["found"]) == ("roles-unfilled", "flair")
    assert ask(client, packed({"scan.nii.gz": scan}), model="tiny-bright")["success"], "no choice is left"


def test_several_files_have_their_roles_by_the_ends_of_their_names(
    client: TestClient, scan: bytes, other: bytes, labels: bytes
) -> None:
    case = {"c/x-t1n.nii.gz": other, "c/x-t2f.nii.gz": scan, "c/x-t2w.nii.gz": scan, "c/x-seg.nii.gz": labels}
    told = ask(client, packed(case), model="tiny-random")
    assert told["success"], told
    result = client.get(told["links"]["files"]["result.json"]).json()
    assert sorted(result["input"]["roles"]) == ["flair", "t1"]
    assert any("t2" in one for one in told["warnings"]) and any("label maps" in one for one in told["warnings"])
    fields = {"t1": ("a", other), "flair": ("b", scan)}
    same = client.post("/api/v1/predict/tiny-random", files=fields).json()
    assert same["class_details"] == told["class_details"]
    each = {"t1": ("a.zip", packed({"a.nii.gz": other})), "flair": ("b.zip", packed({"b.nii.gz": scan}))}
    assert client.post("/api/v1/predict/tiny-random", files=each).json()["class_details"] == told["class_details"]


def tar(content: bytes) -> bytes:
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode="w:gz") as archive:
        entry = tarfile.TarInfo("scan.nii")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return box.getvalue()


def test_what_is_refused(client: TestClient, scan: bytes, labels: bytes, tmp_path: Path) -> None:
    slice_ = dicom(tmp_path / "dicom")[0].read_bytes()
    damaged = scan[:-6] + bytes([scan[-6] ^ 255]) + scan[-5:]  # the end is there, and its check sum is wrong
    refusals: list[tuple[Mapping[str, bytes], Mapping[str, str], str]] = [
        ({"a-t1.nii.gz": scan, "b.nii.gz": scan}, {}, "roles-unfilled"),
        ({"a-t1c.nii.gz": scan, "b_t1ce.nii.gz": scan}, {}, "validation"),
        ({"a-t1.nii.gz": scan, "b-flair.nii.gz": scan}, {"role": "t1c"}, "validation"),
        ({"a.nii.gz": scan, "b.dcm": slice_}, {}, "validation"),
        ({"a-seg.nii.gz": labels}, {"role": "t1c"}, "image-is-label-map"),
        ({"a.nii.gz": tar(scan)}, {}, "archive-nested"),
        ({"a.nii.gz": scan, "b.zip": packed({"a.nii.gz": scan})}, {}, "archive-nested"),
        ({"../a.nii.gz": scan}, {}, "archive-unsafe-path"),
        ({"a.nii": bytes(2_000_000)}, {}, "archive-bomb"),
    ]
    for entries, fields, code in refusals:
        told = ask(client, packed(entries), **fields)
        assert told.get("code") == code, (code, told)
    assert ask(client, packed({"a.nii.gz": damaged}))["code"] == "gzip-damaged"


def test_a_file_that_unpacks_to_too_much_is_found_behind_two_packings(
    tmp_path: Path, models: Path, scan: bytes
) -> None:
    node = ApiNode(tmp_path / "node", models, api={"max_unpacked_mb": 50})
    try:
        large = gzip.compress(gzip.decompress(scan)[:352] + bytes(60_000_000))
        assert ask(node.client(), packed({"a.nii.gz": large}))["code"] == "decompression-bomb"
    finally:
        node.close()


def test_a_transfer_to_an_archive_is_refused_once_the_zip_was_opened(tmp_path: Path, models: Path, scan: bytes) -> None:
    pacs = {"kind": "stow", "url": "http://127.0.0.1:9/dicom-web"}
    node = ApiNode(tmp_path / "node", models, destinations={"pacs": pacs})
    try:
        told = ask(node.client(), packed({"scan.nii.gz": scan}), transfer="pacs")
        assert (told["code"], told["found"]) == ("validation", "NIfTI")
    finally:
        node.close()


def test_files_on_the_command_line_are_read_alike(models: Path, tmp_path: Path, scan: bytes, other: bytes) -> None:
    description = load_package(models / "tiny-random" / "1.0.0", weights=False).segmentation
    (tmp_path / "case.zip").write_bytes(packed({"x-t1n.nii.gz": other, "x-t2f.nii.gz": scan}))
    for name, content in (("t1.nii.gz", other), ("flair.nii.gz", scan)):
        (tmp_path / name).write_bytes(content)

    def volumes(*arguments: str, folder: str) -> dict[str, bytes]:
        (case,) = cases_of([parse_argument(one) for one in arguments], description)
        read = read_case(case, description, None, tmp_path / folder)
        return {role: volume.array.tobytes() for role, volume in read.volumes.items()}

    by_files = volumes(f"t1={tmp_path}/t1.nii.gz", f"flair={tmp_path}/flair.nii.gz", folder="a")
    assert volumes(str(tmp_path / "case.zip"), folder="b") == by_files and set(by_files) == {"t1", "flair"}
    with pytest.raises(Refused) as refused:
        volumes(f"flair={tmp_path}/case.zip", folder="c")
    assert refused.value.refusal.code.value == "validation"
