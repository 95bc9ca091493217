"""Warm models share a memory budget: the longest unused one makes room, and one that is in use never does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dicom_node import models
from dicom_node.models import WarmModels
from dicom_node.settings import Settings
from tests.fixtures_packages import make_tiny_package

pytestmark = pytest.mark.component

EACH_MB, BUDGET_MB = 400, 1000


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmModels]:
    """Three models of the same size where two fit."""
    for name in ("first", "second", "third"):
        make_tiny_package(tmp_path / "models", name=name)
    monkeypatch.setattr(models, "expected_mb", lambda _folder: EACH_MB)
    monkeypatch.setattr(models, "resident_mb", lambda _pid: EACH_MB)
    engine = {"models": tmp_path / "models", "precision": "f32", "threads": 1, "warm_memory_mb": BUDGET_MB}
    made = WarmModels(Settings(data={"folder": tmp_path / "data"}, engine=engine))
    yield made
    made.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_the_longest_unused_model_makes_room_and_its_process_ends(warm: WarmModels) -> None:
    for name in ("first", "second"):
        warm.describe(name)
    assert warm.warm() == ["first@1.0.0", "second@1.0.0"] and not warm.has_room("third")
    before = children()
    with warm._host("first"):  # used again, so that the second is the longest unused now
        pass
    warm.describe("third")
    assert warm.warm() == ["first@1.0.0", "third@1.0.0"]
    assert len(before - children()) == 1, "one child of the two that were there has ended"


def test_a_model_in_use_stays_though_the_budget_is_passed(warm: WarmModels) -> None:
    with warm._host("first"), warm._host("second"), warm._host("third"):
        assert warm.warm() == ["first@1.0.0", "second@1.0.0", "third@1.0.0"]
