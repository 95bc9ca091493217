"""The engine from volume to ``result.json``: geometry, gate, repeatability, schema."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_packages import make_tiny_package

from ai_engine.engine import Engine
from ai_engine.findings import findings_from_json
from ai_engine.geometry import Affine, rearrange
from ai_engine.packages import load_package
from ai_engine.predict import InputFacts, predict, refused_result
from ai_engine.prediction import EngineSettings, InputVolume
from dicom_node.refusals import RefusalCode, Refused

pytestmark = pytest.mark.unit

AXIAL = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "result.schema.json"
SHAPE = (20, 72, 64)
SPACING = (5.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = make_tiny_package(tmp_path_factory.mktemp("models"), description=_two_regions())
    return Engine(load_package(folder), EngineSettings(device="cpu", threads=1))


def _two_regions() -> dict[str, Any]:
    return {"max_tilt_deg": 40}


def _head(lesion: bool = True) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A grey ellipsoid with a bright, off-centre blob that has no symmetry, and a little noise."""
    s, r, c = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]].astype(np.float64)
    head = ((s - 10) / 11) ** 2 + ((r - 36) / 32) ** 2 + ((c - 32) / 27) ** 2 < 1
    picture = head * 100.0 + np.random.default_rng(1).random(SHAPE) * 5
    if lesion:
        picture[_truth()] = 230
    return picture.astype(np.float32)


def _truth() -> np.ndarray[Any, np.dtype[np.bool_]]:
    s, r, c = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]].astype(np.float64)
    body = ((s - 7) / 3) ** 2 + ((r - 24) / 7) ** 2 + ((c - 40) / 5) ** 2 < 1
    arm = (abs(s - 7) < 1) & (abs(r - 34) < 6) & (abs(c - 40) < 2)
    return np.asarray(body | arm)


def _affine(angle_deg: float = 0.0) -> Affine:
    turn = np.radians(angle_deg)
    tilt = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return Affine.from_axes([-30.0, -40.0, 12.0], np.array(AXIAL) @ tilt, SPACING)


def _input(array: Any, affine: Affine, **more: Any) -> Mapping[str, InputVolume]:
    return {"flair": InputVolume(np.ascontiguousarray(array), affine, modality="MR", **more)}


def test_finds_the_blob_where_it_is(engine: Engine) -> None:
    prediction = engine.run(_input(_head(), _affine()))
    assert np.array_equal(prediction.mask > 0, _truth())
    (region,) = prediction.findings.regions
    assert region.voxels == _truth().sum()
    assert region.components == 1
    assert region.percent == 100
    assert region.confidence is not None
    assert 0.9 < region.confidence <= 1
    volume = region.measure("volume")
    assert volume is not None
    assert volume.value == pytest.approx(_truth().sum() * 5 / 1000)
    assert region.measure("mean").value == pytest.approx(230, abs=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_all_48_axis_orders_and_flips_come_back_where_they_were(engine: Engine, order: tuple[int, int, int]) -> None:
    """I16: the mask of a turned volume is the turned mask, on the turned grid."""
    for flips in itertools.product((False, True), repeat=3):
        array = np.ascontiguousarray(rearrange(_head(), order, flips))
        affine = _affine().rearranged(order, flips, SHAPE)
        prediction = engine.run(_input(array, affine))
        assert np.array_equal(prediction.mask > 0, rearrange(_truth(), order, flips))
        assert prediction.affine is affine


def test_an_oblique_grid_keeps_its_geometry(engine: Engine) -> None:
    prediction = engine.run(_input(_head(), _affine(25)))
    assert np.array_equal(prediction.mask > 0, _truth())
    assert prediction.affine.close_to(_affine(25))


def test_the_same_input_twice_is_the_same_bytes(engine: Engine, tmp_path: Path) -> None:
    """I14, in one process and in a second engine of the same package."""
    first, second = (engine.run(_input(_head(), _affine())) for _ in range(2))
    folder = make_tiny_package(tmp_path, description=_two_regions())
    third = Engine(load_package(folder), EngineSettings(device="cpu", threads=1)).run(_input(_head(), _affine()))
    assert first.mask.tobytes() == second.mask.tobytes() == third.mask.tobytes()
    spoken = [json.dumps({**p.findings.to_json(), "timings_s": []}, sort_keys=True) for p in (first, second, third)]
    assert spoken[0] == spoken[1] == spoken[2]


def test_padding_is_air_and_not_measured(engine: Engine) -> None:
    picture, valid = _head(), np.ones(SHAPE, dtype=bool)
    picture[:, :, 58:], valid[:, :, 58:] = 30_000, False
    prediction = engine.run(_input(picture, _affine(), valid=valid))
    assert np.array_equal(prediction.mask > 0, _truth())


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (RefusalCode.IMAGE_BLANK, lambda a, f: ({"flair": InputVolume(a * 0, f)})),
        (RefusalCode.IMAGE_BLANK, lambda a, f: ({"flair": InputVolume(a * np.float32("nan"), f)})),
        (RefusalCode.IMAGE_BLANK, lambda a, f: ({"flair": InputVolume(a, f, valid=np.zeros(a.shape, dtype=bool))})),
        (RefusalCode.MODALITY_UNSUPPORTED, lambda a, f: ({"flair": InputVolume(a, f, modality="CT")})),
        (RefusalCode.TOO_FEW_SLICES, lambda a, f: ({"flair": InputVolume(a[:3], f)})),
        (RefusalCode.TOO_FEW_SLICES, lambda a, f: ({"flair": InputVolume(a[:1], f)})),
        (RefusalCode.ROLES_UNFILLED, lambda a, f: ({"t1": InputVolume(a, f)})),
        (RefusalCode.ROLES_UNFILLED, lambda a, f: ({})),
        (RefusalCode.ORIENTATION_UNSUPPORTED, lambda a, f: ({"flair": InputVolume(a, _affine(43))})),
        (RefusalCode.PROTOCOL_UNSUPPORTED, lambda a, f: ({"flair": InputVolume(a, _spaced(12, 1, 1))})),
        (RefusalCode.PROTOCOL_UNSUPPORTED, lambda a, f: ({"flair": InputVolume(a, _spaced(5, 0.1, 0.1))})),
        (RefusalCode.PROTOCOL_UNSUPPORTED, lambda a, f: ({"flair": InputVolume(a, _spaced(5, 4.1, 1))})),
    ],
)
def test_the_gate_refuses_by_name(engine: Engine, code: RefusalCode, change: Any) -> None:
    with pytest.raises(Refused) as caught:
        engine.run(change(_head(), _affine()))
    assert caught.value.refusal.code is code
    assert caught.value.refusal.expected
    assert caught.value.refusal.found


def _spaced(step: float, row: float, column: float) -> Affine:
    return Affine.from_axes([0, 0, 0], AXIAL, [step, row, column])


def test_thick_sagittal_slices_are_refused_as_orientation(engine: Engine) -> None:
    sagittal = Affine.from_axes([0, 0, 0], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], [5.0, 1.0, 1.0])
    with pytest.raises(Refused) as caught:
        engine.run(_input(_head(), sagittal))
    assert caught.value.refusal.code is RefusalCode.ORIENTATION_UNSUPPORTED


def test_result_json_is_as_its_schema_says(engine: Engine) -> None:
    from jsonschema import Draft202012Validator

    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for lesion in (True, False):
        inputs = _input(_head(lesion), _affine())
        prediction, result = predict(engine.run, inputs, InputFacts("nifti", ("spacing declared by the caller",)))
        validator.validate(json.loads(json.dumps(result, allow_nan=False)))
        (entry,) = result["classes"]
        assert entry["voxels"] == np.count_nonzero(prediction.mask)
        assert entry["volume_ml"] == pytest.approx(entry["voxels"] * 5 / 1000)
        assert (entry["confidence"] is None) is not lesion
        assert ("no region above threshold" in result["findings"][0]["statement"]) is not lesion
        assert "normal" not in json.dumps(result["findings"]).lower().replace("abnormal", "")
        assert findings_from_json(json.loads(json.dumps(prediction.findings.to_json()))) == prediction.findings
    refusal = Refused(RefusalCode.IMAGE_BLANK, "a picture", "none").refusal
    said = refused_result("tiny-bright", "1.0.0", engine.identity.digest_sha256, refusal, inputs, InputFacts("dicom"))
    validator.validate(said)
    assert not validator.is_valid({**said, "classes": []}), "a refusal never carries a result"
    del result["classes"]
    assert not validator.is_valid(result)
