"""Exit codes of commands that were used wrongly (design section 7)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.cli.doctor import _clock

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("spacing", ["1,1", "1,1,1,1", "a,b,c", "0,1,1", "1,1,-3", "1,1,100", "nan,1,1", ""])
def test_a_wrong_spacing_is_wrong_usage_and_no_refusal_of_the_input(spacing: str, tmp_path: Path) -> None:
    arguments = ["predict", "--model", "none", "--out", str(tmp_path / "out"), "--spacing-mm", spacing, "--json"]
    found = CliRunner().invoke(app, [*arguments, str(tmp_path / "image.nii.gz")])
    assert found.exit_code == 2, found.output
    assert "refusal" not in found.stdout and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("apart_s", "level"), [(0, "ok"), (-3, "ok"), (60, "bad"), (-3600, "bad")])
def test_doctor_compares_the_clock_with_orthancs_own(apart_s: float, level: str) -> None:
    """Orthanc 1.10 sends no Date header; it tells its time, in UTC, where it is asked for it."""
    told = (datetime.now(UTC) + timedelta(seconds=apart_s)).strftime("%Y%m%dT%H%M%S")
    assert _clock(f"{told}\n").level == level


def test_an_orthanc_that_tells_no_time_is_said() -> None:
    assert (_clock("<html>").level, _clock("").level) == ("warning", "warning")
