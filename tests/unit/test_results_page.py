"""The page and the pictures: what stands on them, in which proportion and orientation, with which fonts."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures_results import PRODUCER, asymmetric_phantom, findings_of, plain_volume, run_identity, write_series
from PIL import Image
from pydicom import dcmread

from ai_engine.geometry import Affine
from dicom_node.results import build
from dicom_node.results.phrases import LANGUAGES, words
from dicom_node.results.pictures import colours_of, draw_slice, grey_window, key_slices, orientation_letters
from dicom_node.results.sheet import drawable, shown, shown_name
from dicom_node.words import Grade, ResultSet, Volume

pytestmark = pytest.mark.unit

AXIAL = Affine.from_axes((-40.0, -50.0, -10.0), [[0, 0, 1], [0, 1, 0], [1, 0, 0]], (5.0, 2.0, 1.0))
SHAPE = (8, 20, 24)


def poppler(tool: str, *arguments: str) -> str:
    if shutil.which(tool) is None:
        pytest.fail(f"{tool} is missing: install poppler-utils")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60, check=True).stdout


def page_text(result: ResultSet, folder: Path) -> str:
    (folder / "page.pdf").write_bytes(result.pdf)
    return " ".join(poppler("pdftotext", "-layout", str(folder / "page.pdf"), "-").split())


@pytest.fixture
def volume(tmp_path) -> Volume:
    array, _ = asymmetric_phantom(SHAPE)
    return plain_volume(write_series(tmp_path, array, AXIAL, IssuerOfPatientID="HOSP", PatientName="Müller^Jörg=山田",
                                     SpecificCharacterSet="ISO_IR 192"))  # fmt: skip


def test_everything_a_reader_needs_stands_on_one_page(volume, tmp_path):
    _, mask = asymmetric_phantom(SHAPE)
    findings = findings_of(mask, volume.affine, notes=("Spacing of the training data is unknown.",))
    noted = dataclasses.replace(volume, notes=("One duplicate slice was dropped.",))
    result = build(run_identity(grade=Grade.WEAK), noted, mask, findings, PRODUCER)
    seen = page_text(result, tmp_path)
    volumes = [f"{region.measurements[0].value:.1f} mL" for region in findings.regions]
    for expected in (
        "Software output for review by a qualified professional",
        "UNREVIEWED",
        "Not for clinical use.",
        "Müller Jörg",
        "SYN-1 (issuer HOSP)",
        "1970-01-01",
        volume.study_uid,
        "ACC-1",
        "brain-flair 1.2.0",
        "Read first",
        "One duplicate slice was dropped.",
        "weak: nothing confirmed",
        *volumes,
        "FLAIR abnormality",
        "Whole tumour (union)",
        "MR 3 “FLAIR”, acquired 2026-01-01 10:15, 8 slices, 2.00 × 1.00 mm, step 5.00 mm",
        "nearest in time",
        "Analysed: 2026-11-22 10:00 +00:00",
        "Spacing of the training data is unknown.",
        "not a probability of disease",
        "ai@example.org",
        "page 1 of 1",
    ):
        assert expected in seen, expected
    assert "山" not in seen, "characters that the font lacks are left out, not drawn as boxes"
    for forbidden in ("diagnosis:", "no tumour", "normal", "benign", "safe to"):
        assert not re.search(rf"\b{forbidden}", seen.lower())
    information = poppler("pdfinfo", str(tmp_path / "page.pdf"))
    assert "Pages:           1" in information and "A4" in information
    fonts = [line.split() for line in poppler("pdffonts", str(tmp_path / "page.pdf")).splitlines()[2:]]
    assert fonts and all("DejaVu" in line[0] for line in fonts) and all(line[-5] == "yes" for line in fonts)


def test_the_page_speaks_spanish(volume, tmp_path):
    _, mask = asymmetric_phantom(SHAPE)
    result = build(run_identity(), volume, mask, findings_of(mask, volume.affine), PRODUCER, language="es")
    seen = page_text(result, tmp_path)
    for expected in ("Resultado de software para que lo revise", "SIN REVISAR", "Paciente", "Diámetro", "No sustituye"):
        assert expected in seen
    document = dcmread(BytesIO(result.objects[1].data))
    assert document.DocumentTitle.endswith("sin revisar")


def test_both_languages_say_the_same_things():
    tables = [words(language) for language in LANGUAGES]
    assert tables[0].keys() == tables[1].keys()
    for key in tables[0]:
        assert drawable(tables[0][key]) and drawable(tables[1][key]), key
    with pytest.raises(ValueError, match="one of en, es"):
        words("fr")


def test_nothing_found_is_said_in_words(volume, tmp_path):
    empty = np.zeros(SHAPE, np.uint8)
    seen = page_text(build(run_identity(), volume, empty, findings_of(empty, volume.affine), PRODUCER), tmp_path)
    assert "No region above threshold." in seen and "does not exclude disease" in seen
    assert "0.0 mL" not in seen


def test_a_replacing_page_says_so(volume, tmp_path):
    _, mask = asymmetric_phantom(SHAPE)
    identity = run_identity(revision_number=2, predecessor={"objects": []})
    seen = page_text(build(identity, volume, mask, findings_of(mask, volume.affine), PRODUCER), tmp_path)
    assert "This result replaces an earlier one (revision 2)." in seen and "rev 2" in seen


def test_much_text_stays_on_the_page_and_is_counted(volume, tmp_path):
    _, mask = asymmetric_phantom(SHAPE)
    many = [f"Note {n}: " + "a long remark that wraps over more than one line of the page " * 3 for n in range(60)]
    findings = findings_of(mask, volume.affine, notes=many)
    noted = dataclasses.replace(volume, notes=tuple(many))
    result = build(run_identity(notes=tuple(many)), noted, mask, findings, PRODUCER)
    seen = page_text(result, tmp_path)
    assert "Pages:           1" in poppler("pdfinfo", str(tmp_path / "page.pdf"))
    assert seen.count("more in the structured report.") == 3


def test_a_small_volume_is_not_printed_as_zero(volume, tmp_path):
    tiny = np.zeros(SHAPE, np.uint8)
    tiny[4, 10, 12] = 1
    seen = page_text(build(run_identity(), volume, tiny, findings_of(tiny, volume.affine), PRODUCER), tmp_path)
    assert "< 0.1 mL" in seen


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada Tarou"),
        ("=山田^太郎", "(none)"),
        ("Müller^Jörg^^Dr.", "Müller Jörg Dr."),
        ("Люкс^Анна", "Люкс Анна"),
        ("كريم^علي", "(none)"),
        ("", ""),
    ],
)
def test_names_are_shown_without_boxes(name, seen):
    assert shown_name(name, "(none)") == seen


def test_other_text_is_shown_without_boxes():
    assert shown("T2 頭部 a\u202eb\x1b[31m") == "T2 ·· a b [31m"


@pytest.mark.parametrize(
    ("column", "row", "letters"),
    [
        ([1, 0, 0], [0, 1, 0], ("R", "L", "A", "P")),
        ([0, 1, 0], [0, 0, -1], ("A", "P", "H", "F")),
        ([1, 0, 0], [0, 0, -1], ("R", "L", "H", "F")),
        ([-1, 0, 0], [0, 1, 0], ("L", "R", "A", "P")),
        ([np.cos(0.6), np.sin(0.6), 0], [-np.sin(0.6), np.cos(0.6), 0], ("RA", "LP", "AL", "PR")),
    ],
)
def test_letters_come_from_the_affine(column, row, letters):
    affine = Affine.from_axes((0, 0, 0), [np.cross(column, row), row, column], (1.0, 1.0, 1.0))
    assert orientation_letters(affine) == letters


def test_pictures_keep_the_true_proportion(volume):
    """20 rows of 2 mm by 24 columns of 1 mm: the picture is taller than wide."""
    _, mask = asymmetric_phantom(SHAPE)
    colours = {1: (255, 0, 0), 2: (0, 255, 0)}
    picture = np.asarray(draw_slice(volume, mask, colours, 2, 400, grey_window(volume)))
    filled = np.abs(picture.astype(int) - (12, 12, 14)).sum(axis=2) > 0
    assert filled[:, 120].all() and abs(int(filled[50].sum()) - 240) <= 2, "400 px high, 240 px wide"
    red = np.argwhere((picture == (255, 0, 0)).all(axis=2))
    left = (400 - 240) / 2
    box = (red.min(axis=0) - (0, left)) / 10, (red.max(axis=0) + 1 - (0, left)) / 10
    assert np.allclose(box[0], [2 * 2, 3], atol=0.2) and np.allclose(box[1], [10 * 2, 8], atol=0.2)


def test_key_slices_show_the_largest_and_the_extent():
    mask = np.zeros((20, 16, 8), np.uint8)
    for index in range(5, 15):
        mask[index, : index - 3, :4] = 1
    keys = key_slices(mask, 3)
    assert [k.index for k in keys if k.is_largest] == [14]
    assert all(5 <= k.index < 15 for k in keys) and len({k.index for k in keys}) == 3
    assert [k.index for k in key_slices(np.zeros((9, 4, 4), np.uint8), 3)] == [2, 4, 6]
    only = np.zeros((9, 4, 4), np.uint8)
    only[0, 1, 1] = 1
    assert [k.index for k in key_slices(only, 3)] == [0, 1, 2]
    assert len(key_slices(np.ones((2, 4, 4), np.uint8), 6)) == 2


def test_window_ignores_padding_and_blank_images(volume):
    low, high = grey_window(volume)
    assert low < high
    blank = dataclasses.replace(volume, array=np.zeros(SHAPE, np.float32))
    assert grey_window(blank) == (0.0, 1.0)
    valid = np.ones(SHAPE, bool)
    valid[:4] = False
    padded = volume.array.copy()
    padded[:4] = -2000
    assert grey_window(dataclasses.replace(volume, array=padded, valid=valid))[0] > -2000


def test_overlay_shows_outlines_in_the_segments_colours(volume):
    _, mask = asymmetric_phantom(SHAPE)
    findings = findings_of(mask, volume.affine)
    result = build(run_identity(), volume, mask, findings, PRODUCER)
    sheet = np.asarray(Image.open(BytesIO(result.overlay_png)))
    for colour in colours_of(findings.regions).values():
        assert (sheet == colour).all(axis=2).sum() > 300
