"""The structured report against TID 1500 by pixelmed's validator (two runs: a Java machine each)."""

from __future__ import annotations

import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures_results import PRODUCER, asymmetric_phantom, findings_of, plain_volume, run_identity, write_series
from pydicom import dcmread

from ai_engine.geometry import Affine
from dicom_node.results import build

pytestmark = pytest.mark.system

AXIAL = Affine.from_axes((-10.0, -10.0, 0.0), [[0, 0, 1], [0, 1, 0], [1, 0, 0]], (4.0, 1.0, 1.0))
JARS = Path("/usr/share/java")


def template_errors(path: Path) -> list[str]:
    """Lines in which the validator reports an error; warnings name items newer than its templates of 2022."""
    if shutil.which("java") is None or not (JARS / "pixelmed.jar").exists():
        pytest.fail("libpixelmed-java and a JRE are missing: make setup-test installs them")
    limits = [f"-Djdk.xml.xpath{name}=0" for name in ("ExprOpLimit", "TotalOpLimit", "ExprGrpLimit")]
    done = subprocess.run(
        ["java", *limits, "-cp", f"{JARS}/pixelmed.jar:{JARS}/*", "com.pixelmed.validate.DicomSRValidator", str(path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "Found Root Template TID_1500" in said, said[-500:]
    return [line for line in said.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("kind", ["segments", "absent"])
def test_report_follows_its_templates(tmp_path, kind):
    """Groups of TID 1411 alone, and of TID 1501 alone.

    A report that mixes both is what we write for composites; this validator then applies TID 1411 to every group,
    whatever template the group names, so the mixed case is taken apart here.
    """
    array, mask = asymmetric_phantom((5, 16, 16))
    volume = plain_volume(write_series(tmp_path, array, AXIAL))
    if kind == "absent":
        mask = np.zeros_like(mask)
    result = build(run_identity(), volume, mask, findings_of(mask, volume.affine), PRODUCER)
    report = dcmread(BytesIO(result.objects[-1].data))
    if kind == "segments":
        measurements = next(
            item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"
        )
        measurements.ContentSequence = [
            group
            for group in measurements.ContentSequence
            if group.ContentTemplateSequence[0].TemplateIdentifier == "1411"
        ]
    path = tmp_path / "sr.dcm"
    report.save_as(path)
    assert template_errors(path) == []
