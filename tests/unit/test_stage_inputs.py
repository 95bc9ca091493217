"""What a person names on the command line, by role."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from ai_engine.geometry import Affine
from ai_engine.packages import Description
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.stages.inputs import Named, read_case
from dicom_node.volume import write_nifti
from tests.fixtures_packages import tiny_description
from tests.support import slices

pytestmark = pytest.mark.unit


def two_inputs() -> Description:
    tree = tiny_description(role="t1c", intensity="none")
    tree["inputs"].append({**tree["inputs"][0], "role": "flair"})
    return Description.model_validate(tree)


TWO = two_inputs()


def zipped(folder: Path, name: str) -> tuple[Path, str]:
    brought = slices.series(folder / name, 3)
    target = folder / f"{name}.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for file in brought.files:
            archive.write(file, file.name)
    return target, brought.series_uid


def test_archives_of_two_roles_do_not_overwrite_each_other(tmp_path: Path) -> None:
    first, first_uid = zipped(tmp_path, "one")
    second, second_uid = zipped(tmp_path, "two")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    read = read_case([Named(first, "t1c"), Named(second, "flair")], TWO, None, scratch)
    assert {role: volume.series_uid for role, volume in read.volumes.items()} == {"t1c": first_uid, "flair": second_uid}


def test_nifti_and_dicom_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_case([Named(tmp_path / "a.nii.gz", "t1c"), Named(tmp_path, "flair")], TWO, None, tmp_path)
    assert refused.value.refusal.code is RefusalCode.VALIDATION


def image(folder: Path, name: str) -> Path:
    grey = np.arange(6**3, dtype=np.float32).reshape(6, 6, 6)
    write_nifti(grey, Affine(np.diag([1.0, 1.0, 1.0, 1.0])), folder / name)
    return folder / name


def read_alone(tree: dict[str, object], path: Path) -> set[str]:
    return set(read_case([Named(path, "")], Description.model_validate(tree), None, path.parent).volumes)


def test_a_lone_file_is_told_by_its_name_or_by_the_model_that_reads_one_sequence(tmp_path: Path) -> None:
    choice = TWO.model_dump(mode="json", exclude_none=True) | {"role_sets": [["t1c", "flair"], ["t1c"]]}
    assert read_alone(choice, image(tmp_path, "case_t1ce.nii.gz")) == {"t1c"}
    assert read_alone(choice, image(tmp_path, "BraTS-GLI-00000-000-t1c.nii.gz")) == {"t1c"}
    assert read_alone(tiny_description(role="t1c", intensity="none"), image(tmp_path, "scan.nii.gz")) == {"t1c"}


@pytest.mark.parametrize("name", ["scan.nii.gz", "case_0000.nii.gz", "case_t1.nii.gz", "case-flair.nii.gz"])
def test_what_a_lone_file_shows_is_never_guessed(tmp_path: Path, name: str) -> None:
    choice = TWO.model_dump(mode="json", exclude_none=True) | {"role_sets": [["t1c", "flair"], ["t1c"]]}
    with pytest.raises(Refused) as refused:
        read_alone(choice, image(tmp_path, name))
    assert refused.value.refusal.code is RefusalCode.ROLES_UNFILLED
