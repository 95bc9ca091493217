"""What must not depend on the slice step, and what an evaluation does with cases that the package refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from fixtures_packages import make_tiny_package, tiny_description

from ai_engine.evaluation.command import EvaluationRequest, run_evaluation
from ai_engine.geometry import Affine, rearrange
from ai_engine.packages import Description, load_package
from ai_engine.phantom import Lesion, Tissue, synthesise_head
from ai_engine.postprocess import postprocess

pytestmark = pytest.mark.unit

AXIAL = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def _with(tmp_path: Path, rule: dict[str, Any], skull: str = "any", version: str = "1.0.0") -> Path:
    values = tiny_description(name="tiny-bright")
    labels = [{**values["labels"][0], "postprocessing": {**rule, "measured_effect": "none, a test"} if rule else {}}]
    inputs = [{**values["inputs"][0], "skull": skull, "slice_step_mm": [0.5, 20.0], "spacing_in_plane_mm": [0.5, 5.0]}]
    return make_tiny_package(tmp_path, version=version, description={"labels": labels, "inputs": inputs})


def _described(tmp_path: Path, rule: dict[str, Any]) -> Description:
    return load_package(_with(tmp_path, rule)).description


def _parts() -> np.ndarray:
    mask = np.zeros((10, 30, 30), dtype=np.uint8)
    mask[1:3, 2:7, 2:6] = 1  # 2 slices of 20 pixels
    mask[6:8, 10:16, 10:20] = 1  # 2 slices of 60 pixels
    return mask


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_parts_removed_by_area_are_the_same_at_every_step(tmp_path: Path, order: tuple[int, int, int]) -> None:
    description = _described(tmp_path, {"min_component_mm2": 100.0})
    mask = np.ascontiguousarray(rearrange(_parts(), order, (False, False, False)))
    for step in (1.0, 3.0, 5.0, 7.0):
        affine = Affine.from_axes([0, 0, 0], AXIAL, [step, 1.0, 1.0]).rearranged(order, (False,) * 3, _parts().shape)
        result, words = postprocess(mask, affine, description)
        assert result.sum() == 120, step
        assert "1 component under 100 mm2" in words[1][0]


def test_parts_removed_by_volume_are_not(tmp_path: Path) -> None:
    description = _described(tmp_path, {"min_component_mm3": 100.0})
    sums = [
        int(postprocess(_parts(), Affine.from_axes([0, 0, 0], AXIAL, [step, 1, 1]), description)[0].sum())
        for step in (1.0, 7.0)
    ]
    assert sums == [120, 160]


def test_an_evaluation_names_the_cases_that_the_package_refuses(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    head = synthesise_head(9, shape=(14, 128, 128), spacing_mm=(10, 1.8, 1.8), lesion=Lesion())
    native = head.render("flair")
    inside = np.isin(head.labels(), (Tissue.GREY, Tissue.WHITE, Tissue.CSF)) | head.truth()
    rows = ["case,image,mask"]
    for name, picture in (("native", native), ("bare", np.where(inside, native, 0))):
        for kind, array in (("image", picture), ("mask", head.truth())):
            image = nibabel.Nifti1Image(array.astype(np.float32).transpose(2, 1, 0), head.affine.to_nifti())
            nibabel.save(image, data / f"{name}-{kind}.nii")
        rows.append(f"{name},{name}-image.nii,{name}-mask.nii")
    (data / "cases.csv").write_text("\n".join(rows))
    said: list[str] = []
    request = EvaluationRequest(_with(tmp_path, {}, "native"), data, tmp_path / "out", side="all", threads=1)
    written = run_evaluation(request, said.append)
    assert written["refused"] == {"bare": "out-of-distribution"}
    assert [case["case"] for case in written["cases"]] == ["native"]
    assert any("bare" in line and "expected a native head" in line for line in said)
    everything = EvaluationRequest(_with(tmp_path, {}, "any", "1.0.1"), data, tmp_path / "out2", side="all", threads=1)
    assert len(run_evaluation(everything, said.append)["cases"]) == 2
