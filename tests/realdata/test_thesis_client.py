"""A client of the thesis's service, written from its description alone, at the models that are shipped.

`POST /api/v1/predict/nnUNet`, `/nnUNet/batch` and `/tensorflow`, form field ``image``: one skull-stripped T1c NIfTI in,
four labels out.  The same contract is held with small networks in `make test`; here real weights answer, which takes
minutes on busy cores, therefore only in `make test-long`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from fastapi.testclient import TestClient

from dicom_node.web_settings import ApiSection
from tests.support.api import ApiNode

pytestmark = [pytest.mark.realdata, pytest.mark.long, pytest.mark.timeout(1800)]

MODELS = Path(__file__).resolve().parents[2] / "models"
CASE = "Brats18_2013_3_1"
ANSWER = {
    "success", "status", "message", "model", "device", "elapsed_time", "unique_classes", "num_classes_detected",
    "class_details", "model_info", "segmentation_path", "segmentation_file", "output_path",
}  # fmt: skip
CLASS = {"nombre", "sigla", "color", "descripcion", "pixeles", "porcentaje"}
MODEL = {"output_shape", "num_classes", "total_params"}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    aliases = {name: alias.model_dump() for name, alias in ApiSection().aliases.items()}
    node = ApiNode(
        tmp_path_factory.mktemp("thesis"), MODELS, api={"aliases": aliases}, engine={"models": MODELS, "threads": 1}
    )
    yield node.client()
    node.close()


@pytest.fixture(scope="module")
def scan(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One T1c under a name that tells nothing, as the thesis's pages sent it."""
    image = nibabel.load(data_dir / "brain" / "brats" / CASE / f"{CASE}_t1ce.nii.bz2")
    path = tmp_path_factory.mktemp("scan") / "imagen.nii.gz"
    new = nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine)
    new.header.set_xyzt_units("mm")
    nibabel.save(new, path)
    return path


def read(told: dict[str, Any], scan: Path, http: TestClient) -> None:
    """What the thesis's pages did with an answer: every field, and the mask behind its URL."""
    assert ANSWER - set(told) == set()
    assert told["success"] is True and told["status"] == "completed" and told["elapsed_time"] > 0
    sent, details = nibabel.load(scan), told["class_details"]
    assert len(details) == 4 and all(set(one) == CLASS for one in details.values())
    assert sum(one["pixeles"] for one in details.values()) == int(np.prod(sent.shape))
    assert sum(one["porcentaje"] for one in details.values()) == pytest.approx(100, abs=0.01)
    assert told["unique_classes"] == [int(label) for label, one in details.items() if one["pixeles"]]
    assert told["num_classes_detected"] == len(told["unique_classes"]) > 1
    assert set(told["model_info"]) == MODEL and told["model_info"]["num_classes"] == 4
    assert tuple(told["model_info"]["output_shape"]) == sent.shape
    assert told["output_path"].endswith(told["segmentation_path"]) and told["segmentation_file"].endswith(".nii.gz")
    mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(http.get(told["output_path"]).content))
    assert mask.shape == sent.shape and np.allclose(mask.affine, sent.affine)
    found, counts = np.unique(np.asanyarray(mask.dataobj), return_counts=True)
    assert {str(k): int(n) for k, n in zip(found, counts, strict=True)} == {
        label: one["pixeles"] for label, one in details.items() if one["pixeles"]
    }


@pytest.mark.parametrize(("name", "parameters"), [("nnUNet", 5.2e6), ("tensorflow", 5.65e6)])
def test_one_scan_by_either_name(http: TestClient, scan: Path, name: str, parameters: float) -> None:
    with scan.open("rb") as file:
        answer = http.post(f"/api/v1/predict/{name}", files={"image": (scan.name, file)})
    assert answer.status_code == 200, answer.text
    read(answer.json(), scan, http)
    assert answer.json()["model_info"]["total_params"] == pytest.approx(parameters, rel=0.02)


def test_a_batch_with_the_fields_of_old(http: TestClient, scan: Path, tmp_path: Path) -> None:
    files = [("images", (name, data)) for name, data in (("a.nii.gz", scan.read_bytes()), ("b.nii.gz", b"no image"))]
    answer = http.post(
        "/api/v1/predict/nnUNet/batch", files=files, data={"output_dir": str(tmp_path), "source_path": "/"}
    )
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["results"]
    read(first, scan, http)
    assert second["success"] is False and second["refusal"]["code"] == "not-nifti"
    assert first["warnings"] and list(tmp_path.iterdir()) == [], "noted, never opened"
