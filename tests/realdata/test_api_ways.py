"""One real case, the same mask: by `ai-node predict`, by HTTP as NIfTI and as DICOM, and by C-STORE through the road.

The cache is off, so that every way asks the model itself.  ``AI_NODE_TEST_MODELS`` names another folder of packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from pydicom import dcmread

from ai_engine.geometry import Affine
from dicom_node import files
from dicom_node.demo.sending import storescu
from dicom_node.demo.site import Site, SiteOptions
from dicom_node.record import Database, keys, runs
from dicom_node.stages.context import unpack_mask
from dicom_node.volume import write_nifti
from tests.support.wrapped import wrap

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = Path(os.environ.get("AI_NODE_TEST_MODELS", REPOSITORY / "models"))
BRATS = "Brats18_TCIA02_135_1"
FLAIR_SERIES = "s0701_flair_axial"

ROUTES = """
schema_version: 1
routes:
  - name: tumour
    when: {{attribute: Modality, equals: MR}}
    role_sets: {role_sets}
    model: {model}
    result_family: tested
    destinations: [pacs]
    publish: all
"""


def brats(data_dir: Path, folder: Path, roles: tuple[str, ...]) -> dict[str, Path]:
    """Series folders by role, and beside each the same grey values as NIfTI."""
    source = data_dir / "brain" / "brats" / BRATS
    made = {}
    for role in roles:
        image = nibabel.load(next(source.glob(f"*_{'t1ce' if role == 't1c' else role}.nii.bz2")))
        affine = Affine.from_nifti(image.affine)
        array = np.clip(np.asarray(image.get_fdata()).transpose(2, 1, 0), 0, 65535).astype(np.uint16)
        wrap(array, affine, BRATS, role, folder)
        made[role] = folder / role
        write_nifti(array, affine, folder / f"case_{role}.nii.gz")
    return made


def native(data_dir: Path, folder: Path) -> dict[str, Path]:
    """The native FLAIR of the tumour study."""
    with tarfile.open(data_dir / "dicom" / "tumour-study-philips.tar.xz") as archive:
        members = [m for m in archive.getmembers() if f"/{FLAIR_SERIES}/" in m.name]
        archive.extractall(folder, members=members, filter="data")
    return {"flair": next(folder.rglob(FLAIR_SERIES))}


class Ways:
    """A running site, and one case brought to its model in every way."""

    def __init__(self, site: Site, folder: Path, model: str, series: Mapping[str, Path]) -> None:
        self.site, self.folder, self.model, self.series = site, folder, model, series
        self._database = Database(site.settings.records_url)
        self._key = keys.create(self._database, "ways", ["predict:run"])

    def by_cli(self, *arguments: str) -> npt.NDArray[Any]:
        out = self.folder / f"cli-{len(list(self.folder.glob('cli-*')))}"
        command = [sys.executable, "-m", "dicom_node.cli", "--config", str(self.site.config), "predict", "--json"]
        done = subprocess.run(
            [*command, "--model", self.model, "--out", str(out), *arguments], capture_output=True, timeout=600
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return _mask((out / "mask.nii.gz").read_bytes(), self.folder)

    def by_http(self, uploads: list[tuple[str, Path]]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        with httpx.Client(headers={"X-API-Key": self._key}, timeout=600, trust_env=False) as http:
            sent = [(field, (path.name, path.read_bytes())) for field, path in uploads]
            answer = http.post(f"{self.site.web_url}/api/v1/predict/{self.model}", files=sent)
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert told["from_cache"] is False
            return _mask(http.get(told["output_path"]).content, self.folder), told

    def by_c_store(self) -> npt.NDArray[Any]:
        for folder in self.series.values():
            storescu(folder, self.site.orthanc_peer, calling_ae_title="DEMO")
        uid = str(dcmread(next(next(iter(self.series.values())).iterdir())).StudyInstanceUID)
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            story = self.site.story(uid)
            built = [run for run in (story or {}).get("run_rows", ()) if run["state"] == "built"]
            if built:
                with self._database.read() as connection:
                    row = runs.artefact(connection, int(built[0]["id"]), "mask")
                assert row is not None
                folder = self.site.settings.data.folder / "artefacts"
                return unpack_mask(files.load(folder, row["path"], row["sha256"]))
            time.sleep(0.5)
        pytest.fail(self.site.log_tail())

    def close(self) -> None:
        self._database.close()


def _mask(data: bytes, folder: Path) -> npt.NDArray[Any]:
    """(S, R, C), by another reader than the one that wrote it."""
    path = folder / "read.nii.gz"
    path.write_bytes(data)
    return np.asanyarray(nibabel.load(path).dataobj).transpose(2, 1, 0)


@pytest.fixture
def ways(request: pytest.FixtureRequest, data_dir: Path, tmp_path: Path) -> Iterator[Ways]:
    model, roles = request.param
    if not (MODELS / model).is_dir():
        pytest.skip(f"no package {model} in the models folder")
    series = native(data_dir, tmp_path / "case") if not roles else brats(data_dir, tmp_path / "case", roles)
    routes = tmp_path / "routes.yaml"
    routes.write_text(ROUTES.format(role_sets=json.dumps([list(series)]), model=model), encoding="utf-8")
    gather = {"quiet_s": 1.0, "cap_s": 4.0, "study_quiet_s": 4.0}
    options = SiteOptions(tmp_path / "site", MODELS, routes, changes={"gather": gather, "engine": {"cache_mb": 0}})
    with Site(options) as site:
        site.wait_ready()
        made = Ways(site, tmp_path, model, series)
        yield made
        made.close()


@pytest.mark.parametrize("ways", [("brain-flair", ()), ("brain-tumour", ("t1c", "flair"))], indirect=True)
def test_every_way_gives_the_same_mask(ways: Ways) -> None:
    by_store = ways.by_c_store()
    assert by_store.any()
    archive = ways.folder / "study.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for folder in ways.series.values():
            for file in folder.iterdir():
                opened.write(file, f"{folder.name}/{file.name}")
    by_zip, told = ways.by_http([("image", archive)])
    assert np.array_equal(by_zip, by_store)
    assert sum(one["pixeles"] for one in told["class_details"].values()) == by_store.size
    for label, one in told["class_details"].items():
        assert one["pixeles"] == int((by_store == int(label)).sum())
    assert np.array_equal(ways.by_cli(str(archive)), by_store)
    images = {role: ways.folder / "case" / f"case_{role}.nii.gz" for role in ways.series}
    if all(path.exists() for path in images.values()):
        by_nifti, _ = ways.by_http(list(images.items()))
        assert np.array_equal(by_nifti, by_store)
        assert np.array_equal(ways.by_cli(*(f"{role}={path}" for role, path in images.items())), by_store)
        alone, told = ways.by_http([("t1c", images["t1c"])])
        assert len(told["class_details"]) == 4 and alone.shape == by_store.shape
