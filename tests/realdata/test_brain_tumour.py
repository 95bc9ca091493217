"""The shipped brain-tumour: what its card promises is there, and it reads a real case the right way round.

The shipped network has learnt from every patient there is, so a Dice here shows that pictures, labels and grid fit
together, never how good it is; the figures of the folds do that.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ai_engine.engine import Engine
from ai_engine.evaluation.agreement import agreement
from ai_engine.evaluation.datasets import open_dataset, read_image, read_label
from ai_engine.packages import ModelPackage, load_package
from ai_engine.prediction import EngineSettings, InputVolume
from ai_engine.training.tumour_cases import REGIONS
from dicom_node.refusals import RefusalCode, Refused

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(300)]

FOLDER = Path(__file__).resolve().parents[2] / "models" / "brain-tumour" / "1.1.0"
CASE = "Brats18_TCIA02_135_1"


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return load_package(FOLDER)


@pytest.fixture(scope="module")
def engine(package: ModelPackage) -> Engine:
    return Engine(package, EngineSettings(device="cpu", threads=2))


@pytest.fixture
def inputs(data_dir: Path) -> Mapping[str, InputVolume]:
    case = next(case for case in open_dataset(data_dir / "brain" / "brats").cases if case.name == CASE)
    return {role: read_image(case.images[role]) for role in ("t1c", "flair")}


def test_every_role_set_has_figures_and_the_card_names_every_patient(package: ModelPackage, data_dir: Path) -> None:
    description = package.description
    measured = {(metric.roles, metric.region) for metric in description.metrics if metric.n == 9}
    regions = ("whole_tumour", "tumour_core", "enhancing_tumour")
    assert measured == {(roles, region) for roles in description.accepted_roles for region in regions}
    card = (FOLDER / "CARD.md").read_text(encoding="utf-8")
    with (data_dir / "brain" / "brats" / "cases.csv").open(newline="", encoding="utf-8") as stream:
        names = [row["case"] for row in csv.DictReader(stream)]
    assert all(card.count(f"| {name} |") == len(description.accepted_roles) for name in names)
    assert sum(len(data) for name, data in package.files.items() if name in description.weights) <= 20_000_000


def test_a_real_case_comes_out_the_right_way_round(
    engine: Engine, inputs: Mapping[str, InputVolume], data_dir: Path
) -> None:
    dataset = open_dataset(data_dir / "brain" / "brats")
    case = next(case for case in dataset.cases if case.name == CASE)
    truth = read_label(case.label, inputs["t1c"], dataset.names) > 0
    prediction = engine.run(inputs)
    found = agreement(prediction.mask > 0, truth, inputs["t1c"].affine.spacing_mm, 2.0)
    assert found.dice > 0.7
    unions = {region.abbreviation: region.voxels for region in prediction.findings.regions}
    for name in ("WT", "TC"):
        assert unions[name] == int(np.isin(prediction.mask, REGIONS[name]).sum())


def test_t1c_alone_is_read_and_said(engine: Engine, inputs: Mapping[str, InputVolume]) -> None:
    prediction = engine.run({"t1c": inputs["t1c"]})
    assert any("without flair" in note for note in prediction.findings.notes)
    assert (prediction.mask > 0).any()
    with pytest.raises(Refused) as caught:
        engine.run({"flair": inputs["flair"]})
    assert caught.value.refusal.code is RefusalCode.ROLES_UNFILLED


def test_a_head_with_its_skull_is_refused(engine: Engine, data_dir: Path) -> None:
    native = read_image(
        data_dir / "brain" / "lgg-flair" / "TCGA_CS_4941_19960909_flair.nii.bz2", spacing_mm=(0.95, 0.95, 5.0)
    )
    with pytest.raises(Refused) as caught:
        engine.run({"t1c": native})
    assert caught.value.refusal.code is RefusalCode.BRAIN_NOT_FOUND
