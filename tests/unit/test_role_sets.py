"""A package may list which inputs may come together; a channel left out by contract is zero, the rest is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ai_engine.engine import Engine
from ai_engine.geometry import Affine
from ai_engine.packages import DescriptionError, load_package
from ai_engine.packages.schema import parse_description
from ai_engine.prediction import EngineSettings, InputVolume
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.registry import roles_of
from tests.fixtures_packages import make_random_package

pytestmark = pytest.mark.unit

TORCH = EngineSettings(device="cpu", backend="torch", threads=1)


def _volume(seed: int) -> InputVolume:
    values = np.random.default_rng(seed).normal(100, 20, (12, 20, 20)).astype(np.float32)
    return InputVolume(values, Affine(np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]), modality="MR")


def _engine(root: Path, role_sets: list[list[str]]) -> Engine:
    folder = make_random_package(root, patch=(8, 16, 16), channels=2, description={"role_sets": role_sets})
    return Engine(load_package(folder), TORCH)


def test_without_role_sets_every_input_is_needed(tmp_path: Path) -> None:
    engine = _engine(tmp_path, [])
    assert engine.package.description.accepted_roles == (("flair", "t1"),)
    with pytest.raises(Refused) as caught:
        engine.run({"flair": _volume(1)})
    assert caught.value.refusal.code is RefusalCode.ROLES_UNFILLED


def test_a_channel_left_out_by_contract_is_zero_and_said(tmp_path: Path) -> None:
    engine = _engine(tmp_path, [["flair", "t1"], ["flair"]])
    assert roles_of(engine.package.description) == (frozenset({"flair", "t1"}), frozenset({"flair"}))
    both = engine.run({"flair": _volume(1), "t1": _volume(2)})
    alone = engine.run({"flair": _volume(1)})
    assert not any("without" in note for note in both.findings.notes)
    assert any("without t1" in note for note in alone.findings.notes)
    channels, _ = engine._channels({"flair": _volume(1)}, engine._check({"flair": _volume(1)})[1])
    assert channels.shape[0] == 2
    assert not channels[1].any()


def test_a_set_that_is_not_listed_is_refused_with_the_sets(tmp_path: Path) -> None:
    engine = _engine(tmp_path, [["flair", "t1"], ["flair"]])
    with pytest.raises(Refused) as caught:
        engine.run({"t1": _volume(1)})
    assert caught.value.refusal.expected == "flair, t1 or flair"


@pytest.mark.parametrize(
    "role_sets", [[["t1"]], [["flair", "t2"]], [["flair"], ["flair"]], [["flair", "flair"]], [[]]], ids=str
)
def test_sets_that_contradict_the_inputs_are_refused(tmp_path: Path, role_sets: list[list[str]]) -> None:
    folder = make_random_package(tmp_path, patch=(8, 16, 16), channels=2)
    text = (folder / "model.yaml").read_text(encoding="utf-8")
    with pytest.raises(DescriptionError, match="role_sets"):
        parse_description(f"{text}role_sets: {role_sets}\n".encode())
