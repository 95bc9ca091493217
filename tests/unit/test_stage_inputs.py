"""What a person names on the command line, by role."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ai_engine.packages import Description
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.stages.inputs import Named, read_case
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
