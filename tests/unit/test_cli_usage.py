"""Exit codes of commands that were used wrongly (design section 7)."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("spacing", ["1,1", "1,1,1,1", "a,b,c", "0,1,1", "1,1,-3", "1,1,100", "nan,1,1", ""])
def test_a_wrong_spacing_is_wrong_usage_and_no_refusal_of_the_input(spacing: str, tmp_path: Path) -> None:
    arguments = ["predict", "--model", "none", "--out", str(tmp_path / "out"), "--spacing-mm", spacing, "--json"]
    found = CliRunner().invoke(app, [*arguments, str(tmp_path / "image.nii.gz")])
    assert found.exit_code == 2, found.output
    assert "refusal" not in found.stdout and not (tmp_path / "out").exists()
