"""Proof on the disk (S6): studies, uploads and photographs full of marked words go in, and no file holds one of them.

The same without the option finds them, so the search can see.  The database is not part of it: its volume is.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_node.demo.protocol import FLAIR_NUMBER
from dicom_node.demo.study import Fate, make_study
from dicom_node.sealing import at_rest, reseal
from tests.fixtures_packages import make_tiny_package
from tests.support import slices
from tests.support.api import ApiNode, head, nifti
from tests.support.listening import listening, settings_for, until
from tests.support.sealing import add_key, sealing

pytestmark = pytest.mark.component

MARKER = "PHIMARKER"
TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_package(folder)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A series with the marker in every text attribute."""
    made = make_study(tmp_path_factory.mktemp("study"), Fate.LESION, seed=4, only={FLAIR_NUMBER})
    images = sorted(made.folder.rglob("*.dcm"))
    for path in images:
        dataset = dcmread(path)
        for element in dataset:
            if element.VR in TEXT:
                element.value = f"{MARKER}^X" if element.VR == "PN" else MARKER
        dataset.SeriesDescription = f"FLAIR {MARKER}"
        dataset.save_as(path)
    return images


def holding(folder: Path, words: list[bytes]) -> list[str]:
    """Files below a folder that hold one of the words; databases are left out."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and ".sqlite" not in path.name and any(word in path.read_bytes() for word in words)
    )


def secrets_of(images: list[Path]) -> list[bytes]:
    """Words and pixels that must not be found: the marker, and a stretch of the middle slice."""
    pixels = dcmread(images[len(images) // 2]).PixelData
    return [MARKER.encode(), pixels[len(pixels) // 2 : len(pixels) // 2 + 24]]


@pytest.fixture(params=[True, False], ids=["sealed", "plain"])
def is_sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bool]:
    with sealing(tmp_path / "keys") if request.param else nullcontext():
        yield bool(request.param)


def test_the_road_and_the_interface_leave_nothing_readable(
    is_sealed: bool, tmp_path: Path, models: Path, study: list[Path]
) -> None:
    node = ApiNode(tmp_path / "node", models)
    data = tmp_path / "node" / "data"
    try:
        # the road: received images, volume, mask, findings, SEG, SR, PDF
        header = dcmread(study[0], stop_before_pixels=True)
        node.receive(study)
        node.close_series(str(header.SeriesInstanceUID))
        until(lambda: node.current_runs(), 60, "a result")
        until(lambda: len(node.delivered()) >= 3, 60, "delivered")
        assert any(MARKER in str(made.PatientName) for made in node.delivered()), "the archive gets it as it is"

        # requests: DICOM in a zip, NIfTI in a zip, both read from the spool and answered with files
        client = node.client()
        packed, scan = io.BytesIO(), nifti(head(), tmp_path / "scan.nii.gz").read_bytes()
        with zipfile.ZipFile(packed, "w") as archive:
            for number, path in enumerate(study):
                archive.write(path, f"{number}.dcm")
        said = client.post("/api/v1/predict/tiny-bright", files={"image": ("study.zip", packed.getvalue())})
        assert said.status_code == 200, said.text
        overlay = client.get(f"/api/v1/results/{said.json()['id']}/files/overlay.png")
        assert overlay.status_code == 200 and overlay.content.startswith(b"\x89PNG")
        assert "overlay.png" in overlay.headers["content-disposition"]
        with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
            archive.writestr(f"{MARKER}-flair.nii.gz", scan)
        said = client.post("/api/v1/predict/tiny-bright", files={"image": ("scan.zip", packed.getvalue())})
        assert said.status_code == 200, said.text
        mask = client.get(f"/api/v1/results/{said.json()['id']}/files/mask.nii.gz")
        assert mask.content.startswith(b"\x1f\x8b")

        found = holding(data, [*secrets_of(study), scan[64:96], mask.content[64:96]])
        if not is_sealed:
            folders = {Path(name).parts[0] for name in found}
            assert {"vault", "artefacts", "cache", "spool", "predictions"} <= folders
            return
        assert found == []
        assert holding(tmp_path / "node" / "archive", [MARKER.encode()]), "the search can see"
        # every stored file is sealed: none was written past it
        assert set(reseal.census(data)) == {at_rest.use(tmp_path / "keys", seals=True).ids[0]}
    finally:
        node.close()


def test_what_the_door_receives_is_sealed_and_known_again_after_a_start(is_sealed: bool, tmp_path: Path) -> None:
    made = slices.series(tmp_path / "in", 5, size=1100)  # above a megabyte: the part is written in pieces
    settings = settings_for(tmp_path)
    with listening(settings) as node:
        done = slices.storescu(node.port, made.files, calling="MODALITY")
        assert done.returncode == 0, done.stderr
        until(lambda: node.reads, 30, "a closed series")
        rows = node.rows("instances")
    pixels = dcmread(made.files[2]).PixelData[5000:5032]
    found = holding(tmp_path / "data", [slices.MARKER.encode(), pixels])
    assert bool(found) is not is_sealed
    assert all(at_rest.is_sealed(tmp_path / "data" / row["path"]) is is_sealed for row in rows)
    # a key that is added while nothing runs, and files that a restart has to know again
    if is_sealed:
        add_key(tmp_path / "keys")
    with listening(settings) as node:
        assert node.count("instances") == 5
        again = slices.storescu(node.port, made.files, calling="MODALITY")
        assert again.returncode == 0
        until(lambda: all(row["state"] != "waiting" for row in node.rows("copies")), 20, "copies are judged")
        assert node.count("instances") == 5


def test_a_changed_artefact_and_a_changed_image_are_faults_and_no_results(
    tmp_path: Path, models: Path, study: list[Path]
) -> None:
    with sealing(tmp_path / "keys"):
        node = ApiNode(tmp_path / "node", models, works=False)
        try:
            header = dcmread(study[0], stop_before_pixels=True)
            node.receive(study)
            victim = sorted((tmp_path / "node" / "data" / "vault").rglob("*.dcm"))[3]
            stored = bytearray(victim.read_bytes())
            stored[len(stored) // 2] ^= 1
            victim.write_bytes(bytes(stored))
            node.close_series(str(header.SeriesInstanceUID))
            node.engine.run()
            node.quiet(str(header.StudyInstanceUID))
            node.engine.run()
            assert not node.current_runs() and not node.delivered()
        finally:
            node.close()


def test_a_camera_file_is_not_readable_on_the_disk(is_sealed: bool, tmp_path: Path) -> None:
    """A photograph waits in the spool under the digest of what was sent, and is read from there."""
    from dicom_node.spool import Spool

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (600, 800, 3), dtype=np.uint8)).save(buffer, "JPEG")
    spool = Spool(tmp_path / "photos")
    part = spool.part()
    part.write(buffer.getvalue())
    upload = spool.keep(part)
    assert at_rest.read(spool.path(upload.sha256)) == buffer.getvalue()
    assert bool(holding(tmp_path / "photos", [buffer.getvalue()[5000:5032]])) is not is_sealed
