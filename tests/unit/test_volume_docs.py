"""The pages of this room name every refusal, every tolerance and every decoder; the exported names are pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

import dicom_node.volume as room
from dicom_node.refusals import WORDS, RefusalCode
from dicom_node.volume import geometry
from dicom_node.volume.grouping import DISCRIMINATING, MAX_ODD_FRAMES, ODD_ORIENTATION_DEG
from dicom_node.volume.limits import Limits

pytestmark = pytest.mark.unit

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference"


def refusal_rows() -> list[str]:
    """The table of docs/reference/refusals.md as the enum has it."""
    return [f"| `{code.value}` | {WORDS[code][0]} | {WORDS[code][1]} |" for code in RefusalCode]


def test_the_table_of_refusals_is_the_enum():
    written = [line for line in (PAGES / "refusals.md").read_text().splitlines() if line.startswith("| `")]
    assert written == refusal_rows()


def test_the_tolerances_of_the_page_are_those_of_the_code():
    page = (PAGES / "volume.md").read_text()
    assert geometry.COSINE_TOLERANCE == geometry.SHEAR_TOLERANCE == 0.001
    assert (geometry.SPACING_TOLERANCE_MM, geometry.SPACING_TOLERANCE_RATIO) == (0.01, 0.01)
    assert geometry.PIXEL_SPACING_TOLERANCE_RATIO == 1e-4
    assert f"up to {MAX_ODD_FRAMES} images" in page
    assert f"more than {ODD_ORIENTATION_DEG:g} degrees" in page
    assert f"killed after {Limits().child_wall_s:g} s" in page
    assert f"processor time ({Limits().child_cpu_s} s)" in page
    assert len(DISCRIMINATING) == 10


def test_exported_names():
    assert room.__all__ == [
        "PICTURE_CLASSES",
        "CacheDamaged",
        "Limits",
        "SeriesGeometry",
        "build_volume",
        "check_decoders",
        "content_digest",
        "decode_in_child",
        "load_picture",
        "load_volume",
        "nifti_bytes",
        "read_header",
        "read_nifti",
        "read_nifti_guarded",
        "read_picture",
        "read_pictures",
        "save_picture",
        "save_volume",
        "series_geometry",
        "write_nifti",
    ]
    page = (PAGES / "volume.md").read_text()
    for name in room.__all__:
        assert name in page or name in ("CacheDamaged", "Limits", "PICTURE_CLASSES")


def test_the_child_needs_no_dicom_library():
    """Its imports are its start-up time, and its attack surface."""
    import subprocess
    import sys

    code = "import sys, dicom_node.volume.child, dicom_node.volume.codecs; print('pydicom' in sys.modules)"
    said = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "False"
