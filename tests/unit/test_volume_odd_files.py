"""The odd files that pydicom ships: none may end in an unhandled exception, a hang, or a result for a non-image."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom.data import get_testdata_file

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume import build_volume, content_digest, decode_in_child, read_header

pytestmark = pytest.mark.unit

FOLDER = Path(pydicom.data.__file__).parent
ALL = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc", ".json"})
SMALL = [path for path in ALL if path.stat().st_size < 3_000_000]

MUST_RUN = {
    # Whatever refuses them, this is the answer of the header reader; None: a header comes out.
    "MR_truncated.dcm": RefusalCode.DICOM_TRUNCATED,
    "MR_small_padded.dcm": None,
    "rtplan_truncated.dcm": RefusalCode.DICOM_TRUNCATED,
    "badVR.dcm": RefusalCode.UID_MISMATCH,
    "no_meta.dcm": RefusalCode.NOT_DICOM,
    "ExplVR_BigEndNoMeta.dcm": RefusalCode.NOT_DICOM,
    "ExplVR_LitEndNoMeta.dcm": RefusalCode.NOT_DICOM,
    "meta_missing_tsyntax.dcm": RefusalCode.DICOM_MALFORMED,
    "no_meta_group_length.dcm": RefusalCode.UID_INVALID,
    "UN_sequence.dcm": RefusalCode.UID_INVALID,
    "nested_priv_SQ.dcm": RefusalCode.DICOM_MALFORMED,
    "J2K_pixelrep_mismatch.dcm": None,
    "693_J2KI.dcm": None,
    "JPEG2000-embedded-sequence-delimiter.dcm": None,
    "GDCMJ2K_TextGBR.dcm": None,
    "SC_rgb_jpeg.dcm": RefusalCode.DICOM_MALFORMED,
    "SC_rgb_small_odd.dcm": None,
    "MR_small_bigendian.dcm": None,
    "image_dfl.dcm": RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED,
    "liver_1frame.dcm": None,
    "examples_palette.dcm": None,
    "empty_charset_LEI.dcm": RefusalCode.UID_INVALID,
    "reportsi_with_empty_number_tags.dcm": None,
    "rtstruct.dcm": RefusalCode.NOT_DICOM,
    "DICOMDIR": RefusalCode.UID_INVALID,
}


def local(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    if found is None:
        pytest.skip(f"{name} is not shipped with this pydicom")
    return Path(found)


@pytest.mark.parametrize("name", sorted(MUST_RUN))
def test_headers_of_the_named_odd_files(name):
    path = local(name)
    expected = MUST_RUN[name]
    if expected is None:
        assert read_header(path)["SOPInstanceUID"]
        assert len(content_digest(path)) == 64
    else:
        with pytest.raises(Refused) as caught:
            read_header(path)
        assert caught.value.refusal.code is expected


@pytest.mark.parametrize("path", SMALL, ids=[str(path.relative_to(FOLDER)) for path in SMALL])
def test_every_file_ends_in_a_header_or_a_named_refusal(path):
    started = time.monotonic()
    for reader in (read_header, content_digest):
        outcome(reader, path)
    outcome(lambda one: build_volume([one]), path)
    assert time.monotonic() - started < 5


def outcome(reader, path):
    try:
        return reader(path)
    except Refused as refused:
        return refused.refusal.code


@pytest.mark.parametrize("path", SMALL, ids=[path.name for path in SMALL])
def test_no_single_file_is_a_volume_unless_it_is_a_multi_frame_slice_image(path):
    volume = outcome(lambda one: build_volume([one]), path)
    if not isinstance(volume, RefusalCode):
        assert read_header(path)["SOPClassUID"] in ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.2.1")


SOUND = [
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "CT_small.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "693_J2KI.dcm",
    "JPEG2000.dcm",
]


@pytest.mark.parametrize("name", SOUND)
def test_pixels_are_those_that_pydicom_decodes(name):
    path = local(name)
    (ours,) = decode_in_child([path])
    np.testing.assert_array_equal(ours, pydicom.dcmread(path).pixel_array)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MR_small_padded.dcm", RefusalCode.PIXEL_DATA_LENGTH),
        ("JPEG2000-embedded-sequence-delimiter.dcm", RefusalCode.PIXEL_DECODE_FAILED),
        ("liver_1frame.dcm", RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
        ("examples_palette.dcm", RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
        ("SC_rgb_small_odd.dcm", RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
        ("GDCMJ2K_TextGBR.dcm", RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
        ("reportsi_with_empty_number_tags.dcm", RefusalCode.DICOM_MALFORMED),
    ],
)
def test_pixels_that_are_refused(name, code):
    with pytest.raises(Refused) as caught:
        decode_in_child([local(name)])
    assert caught.value.refusal.code is code
