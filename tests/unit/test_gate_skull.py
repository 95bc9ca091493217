"""The gate on heads with and without their skull: ``inputs[].skull`` of a package."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from fixtures_packages import make_tiny_package, tiny_description

from ai_engine.gate import check_input
from ai_engine.geometry import Affine, rearrange
from ai_engine.packages import Description, load_package
from ai_engine.phantom import Tissue, synthesise_head
from ai_engine.prediction import InputVolume
from dicom_node.refusals import RefusalCode, Refused

pytestmark = pytest.mark.unit

HEAD = synthesise_head(9, shape=(14, 128, 128), spacing_mm=(10, 1.8, 1.8))
NATIVE = HEAD.render("flair")
BRAIN = np.isin(HEAD.labels(), (Tissue.GREY, Tissue.WHITE, Tissue.CSF))
STRIPPED = np.where(BRAIN, NATIVE, 0).astype(np.float32)


@pytest.fixture(scope="module")
def descriptions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Description]:
    made = {}
    for skull in ("any", "native", "stripped"):
        values = tiny_description(name="tiny-bright")
        inputs = [{**values["inputs"][0], "skull": skull, "slice_step_mm": [0.5, 12.0]}]
        folder = make_tiny_package(tmp_path_factory.mktemp(skull), description={"inputs": inputs})
        made[skull] = load_package(folder).description
    return made


def _refusal(array: np.ndarray, description: Description, affine: Affine = HEAD.affine) -> Refused | None:
    try:
        check_input(InputVolume(array, affine, modality="MR"), description.inputs[0], description)
    except Refused as refused:
        return refused
    return None


@pytest.mark.parametrize(
    ("skull", "refuses_native", "refuses_stripped"),
    [("any", False, False), ("native", False, True), ("stripped", True, False)],
)
def test_the_other_kind_of_head_is_refused_by_name(
    descriptions: dict[str, Description], skull: str, refuses_native: bool, refuses_stripped: bool
) -> None:
    for array, is_refused, found in (
        (NATIVE, refuses_native, "a native head with its skull"),
        (STRIPPED, refuses_stripped, "a skull-stripped brain"),
    ):
        said = _refusal(array, descriptions[skull])
        assert (said is not None) == is_refused
        if said is not None:
            assert said.refusal.code is RefusalCode.OUT_OF_DISTRIBUTION
            assert said.refusal.found == found
            assert said.refusal.expected
            assert said.refusal.advice


def test_the_way_the_slices_are_stored_does_not_matter(descriptions: dict[str, Description]) -> None:
    for order, is_reversed in itertools.product(((0, 1, 2), (1, 2, 0), (2, 0, 1)), (False, True)):
        flips = (is_reversed, False, is_reversed)
        affine = HEAD.affine.rearranged(order, flips, NATIVE.shape)
        for array, is_refused in ((NATIVE, False), (STRIPPED, True)):
            stored = np.ascontiguousarray(rearrange(array, order, flips))
            assert (_refusal(stored, descriptions["native"], affine) is not None) == is_refused


def test_padding_counts_as_air(descriptions: dict[str, Description]) -> None:
    valid = np.ones(NATIVE.shape, dtype=bool)
    valid[:, :, :6] = False
    padded = np.where(valid, STRIPPED, 30_000).astype(np.float32)
    volume = InputVolume(padded, HEAD.affine, modality="MR", valid=valid)
    with pytest.raises(Refused):
        check_input(volume, descriptions["native"].inputs[0], descriptions["native"])


@pytest.mark.realdata
def test_every_sequence_of_a_real_study_is_told(data_dir: Path) -> None:
    """The sign was found on FLAIR; packages with four inputs ask it of T1, contrast T1 and T2 too."""
    from ai_engine.evaluation.command import read_volume
    from ai_engine.runners.intensity import is_skull_stripped

    for path in sorted((data_dir / "brain" / "brats" / "Brats18_TCIA03_265_1").glob("*.nii.bz2")):
        volume = read_volume(path)
        assert is_skull_stripped(volume.array, volume.affine.spacing_mm), path.name
