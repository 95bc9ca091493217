"""The parts of preparation that need no real head: motions, grids, the way back, scores, gates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures_packages import make_tiny_package, tiny_description

from ai_engine.engine import Engine
from ai_engine.gate import check_patient
from ai_engine.geometry import Affine
from ai_engine.packages import StudyPreparation, load_package
from ai_engine.phantom import Tissue, synthesise_head
from ai_engine.prediction import EngineSettings, InputVolume
from ai_engine.preparation.atlas import CASES, load_atlas
from ai_engine.preparation.extraction import BrainQuality
from ai_engine.preparation.measure import JUDGED
from ai_engine.preparation.prepared import PreparedStudy
from ai_engine.preparation.registration import Sequence, averaged, blurred_as
from ai_engine.preparation.rigid import Grid, Rigid, carry, in_one_order
from ai_engine.preparation.score import Quality, normalised_information
from ai_engine.preparation.study import prepare_study, working_grid
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.routing.facts import age_in_years

pytestmark = pytest.mark.unit

TILTED = Rigid.about((3.0, -4.0, 5.0), (10.0, -20.0, 5.0), (7.0, 0.0, -2.0))
AXIAL = Affine.from_axes((-50.0, -60.0, -20.0), np.eye(3)[::-1], (5.0, 0.9, 0.9))
HEAD = synthesise_head(9, shape=(28, 128, 128), spacing_mm=(5.0, 1.8, 1.8))
NATIVE = HEAD.render("flair")
STRIPPED = np.where(np.isin(HEAD.labels(), (Tissue.GREY, Tissue.WHITE, Tissue.CSF)), NATIVE, 0).astype(np.float32)


def code_of(refused: pytest.ExceptionInfo[Refused]) -> RefusalCode:
    return refused.value.refusal.code


def test_motions_compose_invert_and_survive_simpleitk():
    points = np.random.default_rng(1).normal(0, 80, (20, 3))
    np.testing.assert_allclose(TILTED.inverse()(TILTED(points)), points, atol=1e-9)
    other = Rigid.about((0, 0, 0), (0, 0, 30.0), (1, 2, 3))
    np.testing.assert_allclose(other.after(TILTED)(points), other(TILTED(points)), atol=1e-9)
    np.testing.assert_allclose(Rigid.from_simpleitk(TILTED.to_simpleitk()).matrix, TILTED.matrix, atol=1e-9)
    assert TILTED.angle_deg == pytest.approx(np.linalg.norm((10, -20, 5)))


def test_a_volume_is_carried_to_where_the_motion_says():
    """The value at a target voxel is the volume's at the moved point: checked at one bright voxel off every axis."""
    volume = np.zeros((12, 40, 44), np.float32)
    volume[4, 11, 29] = 1.0
    motion = Rigid.about((0, 0, 0), (0, 0, 0), (3 * 0.9, -5 * 0.9, 10.0))  # columns +3, rows -5, slices +2
    moved = carry(volume, AXIAL, Grid.of(volume, AXIAL), motion)
    assert np.unravel_index(moved.argmax(), moved.shape) == (2, 16, 26)
    assert moved.max() == pytest.approx(1.0, abs=1e-5)


def test_fine_pixels_are_averaged_where_they_lie():
    fine = Affine.from_axes((1.0, 2.0, 3.0), np.eye(3)[::-1], (5.0, 0.45, 0.45))
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32), (3, 40, 40)).copy()
    small, where = averaged(ramp, fine)
    assert where.spacing_mm == pytest.approx((5.0, 0.9, 0.9))
    assert small[0, 0, 3] == pytest.approx(6.5)
    np.testing.assert_allclose(where.to_patient((0, 0, 3)), fine.to_patient((0, 0.5, 6.5)))


def test_the_finer_volume_is_blurred_only_along_the_thick_slices():
    point = np.zeros((41, 41, 41), np.float32)
    point[20, 20, 20] = 1.0
    even = Affine.from_axes((0, 0, 0), np.eye(3)[::-1], (1.0, 1.0, 1.0))
    blurred = blurred_as(Sequence(point, even, point > 0), Sequence(point, AXIAL, point > 0))
    assert blurred[22, 20, 20] > 0.05
    assert blurred[20, 22, 20] == blurred[20, 20, 22] == 0.0


def test_labels_come_back_with_the_greatest_share_and_background_has_a_vote():
    grid = Grid((8, 8, 8), Affine.from_axes((0, 0, 0), np.eye(3)[::-1], (1.0, 1.0, 1.0)))
    mask = np.zeros(grid.shape, np.uint8)
    mask[:, :, 2:4], mask[:, :, 4:6] = 1, 2
    source = Grid((4, 4, 3), Affine.from_axes((2.4, 1.0, 1.0), np.eye(3)[::-1], (1.0, 1.0, 1.2)))  # x = 2.4, 3.6, 4.8
    volume = InputVolume(np.zeros(grid.shape, np.float32), grid.affine)
    study = PreparedStudy({"t1c": volume}, source, False)
    back, probability = study.back(mask, {1: (mask == 1).astype(np.float16)})
    assert back.shape == source.shape
    assert back[0, 0].tolist() == [1, 2, 2]
    assert probability[1][0, 0].tolist() == pytest.approx([1.0, 0.4, 0.0], abs=1e-3)
    thin = np.zeros(grid.shape, np.uint8)
    thin[:, :, 3] = 1
    assert study.back(thin, {})[0][0, 0].tolist() == [0, 0, 0]  # 0.4 of label, 0.6 of background


def test_the_working_grid_covers_the_source_at_the_asked_step():
    source = Grid((26, 256, 200), AXIAL)
    grid = working_grid(source, 1.0)
    assert grid.affine.spacing_mm == pytest.approx((1.0, 1.0, 1.0))
    np.testing.assert_allclose(grid.affine.origin_mm, AXIAL.origin_mm)
    last = AXIAL.to_index(grid.affine.to_patient(np.array(grid.shape) - 1))
    assert (last <= np.array(source.shape) - 1 + 1e-9).all()
    assert (last > np.array(source.shape) - 1 - 1 / np.array(AXIAL.spacing_mm) - 1e-9).all()


def test_information_is_none_between_strangers_and_full_with_oneself():
    random = np.random.default_rng(0)
    one, two = random.normal(size=(2, 60_000)).astype(np.float32)
    assert normalised_information(one, two) < 0.02
    assert normalised_information(one, one) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "quality", [Quality(0.0, 0.5, 1.0), Quality(0.2, 5.0, 1.0), Quality(0.2, 0.5, 0.4)], ids=["peak", "spread", "view"]
)
def test_each_part_of_the_score_refuses_alone(quality: Quality):
    Quality(0.2, 0.5, 1.0).require("flair", "t1c")
    with pytest.raises(Refused) as refused:
        quality.require("flair", "t1c")
    assert code_of(refused) is RefusalCode.REGISTRATION_FAILED


@pytest.mark.parametrize(
    "quality",
    [
        BrainQuality(0.7, 0.95, 1400, (0.95, 1.1)),
        BrainQuality(0.95, 0.5, 1400, (0.95, 1.1)),
        BrainQuality(0.95, 0.95, 300, (0.95, 1.1)),
        BrainQuality(0.95, 0.95, 1400, (0.5, 1.1)),
    ],
    ids=["agreement", "dark", "volume", "stretch"],
)
def test_each_part_of_the_brains_score_refuses_alone(quality: BrainQuality):
    BrainQuality(0.95, 0.95, 1400, (0.95, 1.1)).require()
    with pytest.raises(Refused) as refused:
        quality.require()
    assert code_of(refused) is RefusalCode.BRAIN_NOT_FOUND


def test_nobody_who_is_judged_is_in_the_atlas():
    assert not {brats for _, brats in JUDGED} & set(CASES)
    atlas = load_atlas()
    assert atlas.brain.shape == atlas.flair.shape == atlas.grid.shape
    assert 1100 < np.count_nonzero(atlas.brain > 0.5) * 8 / 1000 < 1600  # mL


def test_a_native_head_is_refused_where_the_package_takes_none_and_without_flair():
    native = InputVolume(NATIVE, HEAD.affine)
    with pytest.raises(Refused) as refused:
        prepare_study({"flair": native}, StudyPreparation(native="refuse"), "flair")
    assert code_of(refused) is RefusalCode.BRAIN_NOT_FOUND
    with pytest.raises(Refused) as refused:
        prepare_study({"t1c": native}, StudyPreparation(native="extract"), "t1c")
    assert code_of(refused) is RefusalCode.BRAIN_NOT_FOUND
    assert "flair" in refused.value.refusal.expected


def test_a_mixture_and_a_small_field_of_view_are_refused():
    both = {"t1c": InputVolume(NATIVE, HEAD.affine), "flair": InputVolume(STRIPPED, HEAD.affine)}
    with pytest.raises(Refused) as refused:
        prepare_study(both, StudyPreparation(native="extract"), "t1c")
    assert code_of(refused) is RefusalCode.OUT_OF_DISTRIBUTION
    slab = InputVolume(STRIPPED[:10], HEAD.affine)  # 50 mm high
    with pytest.raises(Refused) as refused:
        prepare_study({"flair": slab}, StudyPreparation(), "flair")
    assert "field of view" in refused.value.refusal.expected


def test_the_engine_prepares_only_where_the_package_asks(tmp_path: Path):
    values = tiny_description(name="tiny-bright")
    entry = {**values["inputs"][0], "slice_step_mm": [0.5, 12.0]}
    plain = make_tiny_package(tmp_path / "plain", description={"inputs": [entry]})
    asking = make_tiny_package(
        tmp_path / "asking", description={"inputs": [entry], "study_preparation": {"native": "refuse"}}
    )
    settings = EngineSettings(device="cpu", threads=1)
    engines = [Engine(load_package(folder), settings) for folder in (plain, asking)]
    stripped = {"flair": InputVolume(STRIPPED, HEAD.affine, modality="MR")}
    masks = [engine.run(stripped).mask for engine in engines]
    np.testing.assert_array_equal(*masks)
    native = {"flair": InputVolume(NATIVE, HEAD.affine, modality="MR")}
    engines[0].run(native)
    with pytest.raises(Refused) as refused:
        engines[1].run(native)
    assert code_of(refused) is RefusalCode.BRAIN_NOT_FOUND


def test_age_and_body_part_are_gated_where_they_are_known(tmp_path: Path):
    limits = {"patient": {"age_years": [18, 100], "body_parts": ["BRAIN", "HEAD"]}}
    description = load_package(make_tiny_package(tmp_path, description=limits)).description

    def volume(age: float | None, part: str) -> InputVolume:
        return InputVolume(NATIVE, HEAD.affine, modality="MR", age_years=age, body_part=part)

    for age, part in ((None, ""), (56.0, "HEAD"), (18.0, "brain ")):
        check_patient(volume(age, part), description)
    for age, part in ((7.5, "HEAD"), (56.0, "KNEE")):
        with pytest.raises(Refused) as refused:
            check_patient(volume(age, part), description)
        assert code_of(refused) is RefusalCode.OUT_OF_DISTRIBUTION
        assert "7.5" not in refused.value.refusal.found + refused.value.refusal.expected


def test_ages_are_read_as_dicom_writes_them():
    assert [age_in_years(text) for text in ("056Y", "018M", "", None, "56")] == [56.0, 1.5, None, None, None]


def test_registration_adds_up_in_one_order():
    """Several work units, SimpleITK's default, are added as they finish: results differed from run to run (I14)."""
    method = in_one_order()
    assert (method.GetNumberOfThreads(), method.GetNumberOfWorkUnits()) == (1, 1)
