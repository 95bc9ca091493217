"""The shipped routes and models on real studies: who goes to which model, and what everybody is told.

Without Orthanc and listener: stored files in, the node's own record, result objects and reports out.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from pydicom import dcmread
from typer.testing import CliRunner

from ai_engine.evaluation.run import as_volume
from ai_engine.geometry import Affine
from ai_engine.preparation.known import acquired, known_motion, read_head
from ai_engine.training.cases import lgg_flair_cases, read_pair
from dicom_node.cli import app
from dicom_node.demo.found import dice
from dicom_node.record.tables import cases, runs
from dicom_node.stages.context import unpack_mask
from dicom_node.volume import write_nifti
from tests.support.api import ApiNode
from tests.support.node import Node
from tests.support.wrapped import Wrapped, words, wrap

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = REPOSITORY / "models"
CASE = "Brats18_TCIA02_135_1"
NATIVE_HEAD = "TCGA_HT_8018_19970411"


def routes() -> str:
    """The shipped file, switched on."""
    book = yaml.safe_load((REPOSITORY / "config" / "routes.yaml").read_text(encoding="utf-8"))
    for route in book["routes"]:
        route |= {"publish": "all", "destinations": ["archive"]}
    return str(yaml.safe_dump(book, sort_keys=False))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    engine = {"models": MODELS, "threads": 2}
    made = Node(tmp_path_factory.mktemp("tumour-road"), MODELS, routes(), engine=engine)
    yield made
    made.close()


def bring(node: Node, *series: Wrapped) -> list[dict[str, Any]]:
    """Bring a study, end its quiet period; its runs."""
    for one in series:
        node.receive(one.files)
        node.close_series(one.series_uid)
    node.engine.run()
    node.quiet(series[0].study_uid)
    node.engine.run()
    assert node.engine.errors == {}
    return runs_of(node, series[0].study_uid)


def runs_of(node: Node, study_uid: str) -> list[dict[str, Any]]:
    routed = {c["id"]: c["route"] for c in node.rows(cases)}
    return [{**r, "route": routed[r["case_id"]]} for r in node.rows(runs) if r["study_uid"] == study_uid]


def mask_of(node: Node, run_id: int) -> npt.NDArray[np.uint8]:
    with node.database.read() as connection:
        data = node.tools.load(connection, run_id, "mask")
    assert data is not None
    return unpack_mask(data)


def told_by(node: Node, study_uid: str) -> str:
    """What the structured report of a study says."""
    (sr,) = [d for d in node.delivered() if d.StudyInstanceUID == study_uid and d.Modality == "SR"]
    return words(sr)


def brats(data_dir: Path, sequence: str) -> tuple[npt.NDArray[Any], Affine]:
    head = read_head(data_dir / "brain" / "brats" / CASE / f"{CASE}_{sequence}.nii.bz2")
    return head.array, head.affine


def test_the_native_study_goes_to_brain_flair_and_everybody_is_told_why(
    node: Node, data_dir: Path, tmp_path: Path
) -> None:
    with tarfile.open(data_dir / "dicom" / "tumour-study-philips.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    by_series: dict[str, list[Path]] = {}
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
        head = dcmread(path, stop_before_pixels=True)
        study_uid = str(head.StudyInstanceUID)
        by_series.setdefault(str(head.SeriesInstanceUID), []).append(path)
    found = bring(node, *(Wrapped(study_uid, uid, tuple(files)) for uid, files in by_series.items()))
    assert [(r["route"], r["state"]) for r in found] == [("brain-tumour", "superseded"), ("brain-flair", "built")]
    assert found[0]["refusal"]["code"] == "brain-not-found"
    ready = [e["detail"] for e in node.events("case.ready") if e["study_uid"] == study_uid]
    assert ready[-1]["stands_in_for"] == {"brain-tumour": "brain-not-found"}
    told = told_by(node, study_uid)
    assert "brain-flair stands in for brain-tumour" in told and "a native head with its skull" in told
    objects = [d for d in node.delivered() if d.StudyInstanceUID == study_uid]
    assert sorted(d.Modality for d in objects) == ["DOC", "SEG", "SR"]
    assert mask_of(node, found[1]["id"]).sum() > 1000


def test_flair_alone_goes_to_brain_flair(node: Node, data_dir: Path, tmp_path: Path) -> None:
    (case,) = [case for case in lgg_flair_cases(data_dir / "brain" / "lgg-flair") if case.name == NATIVE_HEAD]
    pair = read_pair(case)
    series = wrap(pair.image, as_volume(pair).affine, NATIVE_HEAD, "flair", tmp_path)
    (run,) = bring(node, series)
    assert (run["route"], run["state"]) == ("brain-flair", "built")
    assert "no series for t1c" in told_by(node, series.study_uid)
    assert dice(mask_of(node, run["id"]) > 0, pair.mask > 0) > 0.8


def test_a_stripped_study_goes_to_brain_tumour(node: Node, data_dir: Path, tmp_path: Path) -> None:
    series = [
        wrap(*brats(data_dir, name), CASE, role, tmp_path) for role, name in (("t1c", "t1ce"), ("flair", "flair"))
    ]
    (run,) = bring(node, *series)
    assert (run["route"], run["state"]) == ("brain-tumour", "built")
    assert "stands in" not in told_by(node, series[0].study_uid)
    truth = read_head(data_dir / "brain" / "brats" / CASE / f"{CASE}_seg.nii.gz").array
    assert dice(mask_of(node, run["id"]) > 0, truth > 0) > 0.5  # it has learnt from this person: shows the grid only


def test_a_child_is_refused_by_age_and_nobody_can_stand_in(node: Node, data_dir: Path, tmp_path: Path) -> None:
    """brain-flair takes native heads only, so both refusals stand and no result leaves."""
    series = [
        wrap(*brats(data_dir, name), "child", role, tmp_path, PatientAge="010Y")
        for role, name in (("t1c", "t1ce"), ("flair", "flair"))
    ]
    first, second = bring(node, *series)
    assert first["refusal"]["code"] == "out-of-distribution" and "18 to 120 years" in first["refusal"]["expected"]
    assert (second["route"], second["state"]) == ("brain-flair", "refused")
    assert second["refusal"]["expected"] == "a native head with its skull"
    assert [d for d in node.delivered() if d.StudyInstanceUID == series[0].study_uid] == []


# -- the other ways in -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def displaced(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """T1c, and its FLAIR displaced by a known motion and cut into 5 mm slices, as NIfTI."""
    folder = tmp_path_factory.mktemp("displaced")
    t1c, affine = brats(data_dir, "t1ce")
    flair = read_head(data_dir / "brain" / "brats" / CASE / f"{CASE}_flair.nii.bz2")
    middle = affine.to_patient(np.argwhere(t1c > 0).mean(axis=0))
    moved = acquired(flair, known_motion(np.random.default_rng(5), middle))
    made = {"t1c": folder / "case_t1c.nii.gz", "flair": folder / "case_flair.nii.gz"}
    write_nifti(t1c, affine, made["t1c"])
    write_nifti(moved.array, moved.affine, made["flair"])
    return made


def read_mask(path: Path) -> npt.NDArray[Any]:
    return np.asanyarray(nibabel.load(path).dataobj).transpose(2, 1, 0)


def test_a_displaced_pair_is_laid_on_each_other_by_cli_and_by_http_alike(
    displaced: dict[str, Path], data_dir: Path, tmp_path: Path
) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(yaml.safe_dump({"engine": {"models": str(MODELS), "threads": 2}}), encoding="utf-8")
    given = [f"{role}={path}" for role, path in displaced.items()]
    out = tmp_path / "out"
    command = ["--config", str(config), "predict", "--json", "--model", "brain-tumour", "--out", str(out), *given]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    notes = json.loads((out / "result.json").read_text(encoding="utf-8"))["notes"]
    assert any(note.startswith("flair was laid on t1c:") for note in notes)
    by_cli = read_mask(out / "mask.nii.gz")
    truth = read_head(data_dir / "brain" / "brats" / CASE / f"{CASE}_seg.nii.gz").array
    assert by_cli.shape == truth.shape
    assert dice(by_cli > 0, truth > 0) > 0.5
    node = ApiNode(tmp_path / "api", MODELS, engine={"models": MODELS, "threads": 2})
    try:
        with node.client() as client:
            files = [(role, (path.name, path.read_bytes())) for role, path in displaced.items()]
            answer = client.post("/api/v1/predict/brain-tumour", files=files)
            assert answer.status_code == 200, answer.text
            mask = client.get(answer.json()["output_path"])
        (tmp_path / "api.nii.gz").write_bytes(mask.content)
    finally:
        node.close()
    assert np.array_equal(read_mask(tmp_path / "api.nii.gz"), by_cli)
