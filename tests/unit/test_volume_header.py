"""The header reader: what comes out, what is refused, and that nothing hostile hangs it or fills memory."""

from __future__ import annotations

import os
import resource
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from volume_series import COLUMNS, NATIVE, ROWS, enhanced, in_syntax, series, write

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume import Limits, read_header
from dicom_node.volume.attributes import MACROS, TOP_LEVEL

pytestmark = pytest.mark.unit

PRE = b"\0" * 128 + b"DICM"


def explicit(tag, vr, value):
    group, element = tag >> 16, tag & 0xFFFF
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHI", group, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def uid(text):
    data = text.encode() if isinstance(text, str) else text
    return data + b"\0" * (len(data) % 2)


def minimal(body=b"", *, syntax="1.2.840.10008.1.2.1", sop="1.2.3", meta_sop="1.2.3", head=b"", tail=b""):
    """A small object written by hand; `body` goes between the UIDs of groups 0008 and 0020."""
    meta = explicit(0x00020002, b"UI", uid("1.2.840.10008.5.1.4.1.1.4"))
    meta += explicit(0x00020003, b"UI", uid(meta_sop)) + explicit(0x00020010, b"UI", uid(syntax))
    data = head + explicit(0x00080016, b"UI", uid("1.2.840.10008.5.1.4.1.1.4")) + explicit(0x00080018, b"UI", uid(sop))
    data += body + explicit(0x0020000D, b"UI", uid("1.2.4")) + explicit(0x0020000E, b"UI", uid("1.2.5")) + tail
    return PRE + meta + data


def refusal(data, tmp_path, **options):
    path = tmp_path / "object.dcm"
    path.write_bytes(data)
    with pytest.raises(Refused) as caught:
        read_header(path, **options)
    return caught.value.refusal


def read_or_refusal(path):
    try:
        return read_header(path)
    except Refused as refused:
        return refused.refusal.code


CUT_CODES = {
    RefusalCode.NOT_DICOM,
    RefusalCode.DICOM_TRUNCATED,
    RefusalCode.DICOM_MALFORMED,
    RefusalCode.UID_INVALID,
}

# -- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", NATIVE)
def test_values_are_json_values_by_keyword_in_every_native_syntax(tmp_path, syntax):
    ds = series(1)[0]
    ds.PatientName = "Æsop^Ødegård"
    ds.RescaleSlope, ds.RescaleIntercept, ds.PixelPaddingValue = "1.5", "-3", 7
    header = read_header(write(in_syntax(ds, syntax), tmp_path / "a.dcm"))
    expected = {
        "TransferSyntaxUID": syntax,
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "NONE"],
        "PatientName": "Æsop^Ødegård",
        "PatientID": "T-1",
        "EchoTime": 100.0,
        "InstanceNumber": 1,
        "ImagePositionPatient": [-10.0, 20.0, 30.0],
        "PixelSpacing": [0.9, 0.8],
        "Rows": ROWS,
        "Columns": COLUMNS,
        "RescaleSlope": 1.5,
        "RescaleIntercept": -3.0,
        "PixelPaddingValue": 7,
        "PixelDataLength": 2 * ROWS * COLUMNS,
        "HasContrastBolusSequence": False,
    }
    assert {keyword: header[keyword] for keyword in expected} == expected
    assert "UnreadableAttributes" not in header
    assert set(header) - {"HasContrastBolusSequence", "PixelDataLength", "TransferSyntaxUID"} <= {
        one.keyword for one in TOP_LEVEL.values()
    }


def test_the_kept_attributes_are_those_of_the_dictionary():
    from pydicom.datadict import dictionary_VR, keyword_for_tag

    for tag, attribute in TOP_LEVEL.items():
        assert keyword_for_tag(tag) == attribute.keyword
        assert attribute.vr == "XS" or attribute.vr in dictionary_VR(tag)
    renamed = {0x00189082: "EchoTime", 0x00189079: "InversionTime", 0x00089007: "ImageType",
               0x00189074: "AcquisitionDateTime", 0x00209128: "TemporalPositionIdentifier",
               0x00189342: "ContrastBolusAgentAdministered"}  # fmt: skip
    for macro, table in MACROS.items():
        assert dictionary_VR(macro) == "SQ"
        for tag, attribute in table.items():
            assert attribute.keyword == renamed.get(tag, keyword_for_tag(tag))
            assert attribute.vr == dictionary_VR(tag)


def test_enhanced_frames_come_flattened_under_the_classic_keywords(tmp_path):
    header = read_header(write(enhanced(series(4), [2, 0, 3, 1]), tmp_path / "e.dcm"))
    assert header["PixelSpacing"] == [0.9, 0.8]
    assert header["ImageOrientationPatient"] == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert [frame["ImagePositionPatient"][2] for frame in header["Frames"]] == [38.0, 30.0, 42.0, 34.0]
    assert header["Frames"][0]["EchoTime"] == 100.0
    assert header["Frames"][0]["RescaleSlope"] == 2.0


@pytest.mark.parametrize("syntax", NATIVE)
def test_nested_values_do_not_stand_in_for_those_of_the_object(tmp_path, syntax):
    ds = series(1)[0]
    item = Dataset()
    item.PatientID, item.Rows, item.StudyInstanceUID = "OTHER", 3, "9.9"
    ds.ReferencedStudySequence = DicomSequence([item])
    header = read_header(write(in_syntax(ds, syntax), tmp_path / "a.dcm"))
    assert (header["PatientID"], header["Rows"]) == ("T-1", ROWS)


def test_contrast_sequence_is_seen(tmp_path):
    ds = series(1)[0]
    ds.ContrastBolusAgentSequence = DicomSequence([Dataset()])
    assert read_header(write(ds, tmp_path / "a.dcm"))["HasContrastBolusSequence"] is True


@pytest.mark.parametrize(
    ("charset", "raw", "expected"),
    [("ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
     ("ISO_IR 192", "Ζωή^Α".encode(), "Ζωή^Α"),
     ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎")],
)  # fmt: skip
def test_character_sets(tmp_path, charset, raw, expected):
    body = explicit(0x00080005, b"CS", charset.encode() + b" " * (len(charset) % 2))
    name = explicit(0x00100010, b"PN", raw + b" " * (len(raw) % 2))
    path = tmp_path / "a.dcm"
    path.write_bytes(minimal(name, head=body))
    assert read_header(path)["PatientName"] == expected


def test_undecodable_text_keeps_different_bytes_different(tmp_path):
    names = []
    for raw in (b"M\xfcller", b"M\xe4ller"):
        path = tmp_path / "a.dcm"
        path.write_bytes(
            minimal(explicit(0x00100020, b"LO", raw + b" "), head=explicit(0x00080005, b"CS", b"ISO_IR 192"))
        )
        header = read_header(path)
        assert header["UnreadableAttributes"] == ["PatientID"]
        assert "�" not in header["PatientID"]
        names.append(header["PatientID"])
    assert names[0] != names[1]


@pytest.mark.parametrize(("raw", "vr", "tag", "keyword"), [
    (b"1A", b"IS", 0x00200013, "InstanceNumber"),
    (b"nan ", b"DS", 0x00180081, "EchoTime"),
    (b"1e999 ", b"DS", 0x00180081, "EchoTime"),
    (b"1_0 ", b"DS", 0x00180081, "EchoTime"),
    (b"\x01", b"US", 0x00280010, "Rows"),
    (b"x" * 70_000, b"UT", 0x00180081, "EchoTime"),
])  # fmt: skip
def test_a_value_that_is_none_is_named_and_left_out(tmp_path, raw, vr, tag, keyword):
    element = explicit(tag, vr, raw)
    before_study, after = (element, b"") if tag < 0x0020000D else (b"", element)
    path = tmp_path / "a.dcm"
    path.write_bytes(minimal(before_study, tail=after))
    header = read_header(path)
    assert header["UnreadableAttributes"] == [keyword]
    assert keyword not in header


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "code"),
    [("", "uid-invalid"), ("1." * 32 + "1", "uid-invalid"), ("1.2/../../etc", "uid-invalid"), ("1.2.a", "uid-invalid"),
     ("1..2", "uid-invalid"), (".1", "uid-invalid"), ("1.", "uid-invalid"), ("1.2 .3", "uid-invalid"),
     (b"1.2\0.3", "uid-invalid"), ("1.2.3\n", "uid-invalid"), ("１.2", "uid-invalid"),
     ("1.2.007", None), ("1.2.3 ", None), ("2.25." + "3" * 39, None), ("1." * 31 + "12", None)],
)  # fmt: skip
def test_uids(tmp_path, bad, code):
    data = minimal(sop=bad, meta_sop=bad if code is None else "1.2.3")
    if code is None:
        (tmp_path / "a.dcm").write_bytes(data)
        assert read_header(tmp_path / "a.dcm")["SOPInstanceUID"] == bad.rstrip()
    else:
        assert refusal(data, tmp_path).code.value == code


def test_meta_and_data_set_must_name_the_same_object(tmp_path):
    assert refusal(minimal(meta_sop="1.2.9"), tmp_path).code is RefusalCode.UID_MISMATCH


@pytest.mark.parametrize("missing", [0x00080016, 0x00080018, 0x0020000D, 0x0020000E])
def test_missing_uids(tmp_path, missing):
    ds = series(1)[0]
    path = write(ds, tmp_path / "whole.dcm")
    data = path.read_bytes()
    element = ds[missing]
    raw = explicit(missing, b"UI", uid(str(element.value)))
    start = data.index(raw, data.index(b"ISO_IR 192"))
    assert refusal(data[:start] + data[start + len(raw) :], tmp_path).code is RefusalCode.UID_INVALID


@pytest.mark.parametrize("magic", [b"MZ", b"\x7fELF", b"#!/bin/sh", b"%PDF-1.7", b"PK\x03\x04", b"\xcf\xfa\xed\xfe"])
def test_programs_in_the_preamble(tmp_path, magic):
    data = minimal()
    assert refusal(magic + data[len(magic) :], tmp_path).code is RefusalCode.PREAMBLE_EXECUTABLE


@pytest.mark.parametrize("magic", [b"II*\0", b"MM\0*", b"anything"])
def test_other_preambles_are_legal(tmp_path, magic):
    data = minimal()
    (tmp_path / "a.dcm").write_bytes(magic + data[len(magic) :])
    assert read_header(tmp_path / "a.dcm")["SOPInstanceUID"] == "1.2.3"


@pytest.mark.parametrize("data", [b"", b"DICM", b"\0" * 132, b"x" * 500, b"GIF89a" + b"\0" * 300])
def test_what_is_not_dicom(tmp_path, data):
    assert refusal(data, tmp_path).code is RefusalCode.NOT_DICOM


def test_a_pipe_or_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(Refused) as caught:
            read_header(path)
        assert caught.value.refusal.code is RefusalCode.NOT_DICOM


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1.99", "1.2.840.113619.5.2", "1.2.3.4", "1.2.840.10008.1.20"])
def test_deflated_private_and_unknown_syntaxes(tmp_path, syntax):
    assert refusal(minimal(syntax=syntax), tmp_path).code is RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED


def test_no_transfer_syntax(tmp_path):
    assert refusal(minimal(syntax=""), tmp_path).code is RefusalCode.DICOM_MALFORMED


def test_a_file_cut_anywhere_is_refused(tmp_path):
    ds = series(1, rows=2, columns=2)[0]
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3.4"
    ds.ReferencedImageSequence = DicomSequence([item, item])
    for syntax in NATIVE:
        data = write(in_syntax(ds, syntax), tmp_path / "whole.dcm").read_bytes()
        boundaries_passed = 0
        for end in range(0, len(data), 1 if syntax == NATIVE[1] else 5):
            (tmp_path / "cut.dcm").write_bytes(data[:end])
            outcome = read_or_refusal(tmp_path / "cut.dcm")
            if isinstance(outcome, RefusalCode):
                assert outcome in CUT_CODES
            else:
                # Cut exactly between two elements: whole as a data set, but no image any more.
                boundaries_passed += 1
                assert outcome["PixelDataLength"] == 0
        assert boundaries_passed < 40


@pytest.mark.parametrize("vr", [b"OB", b"UN", b"LO", b"SQ"])
def test_a_length_beyond_the_file_costs_no_memory(tmp_path, vr):
    length = struct.pack("<H", 0xFFF0) if vr == b"LO" else b"\0\0" + struct.pack("<I", 0xFFFFFFF0)
    body = struct.pack("<HH2s", 0x0009, 0x1001, vr) + length
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(minimal(body), tmp_path).code in (RefusalCode.DICOM_TRUNCATED, RefusalCode.DICOM_MALFORMED)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def nested(levels, *, defined):
    inner = b""
    for _ in range(levels):
        if defined:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
            inner = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, len(item)) + item
        else:
            head = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
            ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
            inner = head + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + ends
    return inner


@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize(("levels", "refused"), [(32, False), (33, True), (5000, True)])
def test_nesting(tmp_path, levels, refused, defined):
    data = minimal(nested(levels, defined=defined))
    if refused:
        assert refusal(data, tmp_path).code is RefusalCode.NESTING_TOO_DEEP
    else:
        (tmp_path / "a.dcm").write_bytes(data)
        read_header(tmp_path / "a.dcm")


def test_many_empty_items(tmp_path):
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 300_000
    started = time.monotonic()
    assert refusal(minimal(explicit(0x00081140, b"SQ", items)), tmp_path).code is RefusalCode.TOO_LARGE
    assert time.monotonic() - started < 2


def test_many_elements(tmp_path):
    body = b"".join(explicit(0x00090000 + k, b"LO", b"") for k in range(0x1000, 0x1000 + 20_001))
    assert refusal(minimal(body), tmp_path).code is RefusalCode.TOO_LARGE


def test_a_long_header(tmp_path):
    body = explicit(0x00091001, b"UN", b"\0" * (17 << 20))
    assert refusal(minimal(body), tmp_path).code is RefusalCode.TOO_LARGE


def test_a_large_file(tmp_path):
    assert refusal(minimal(), tmp_path, limits=Limits(max_file_bytes=100)).code is RefusalCode.TOO_LARGE


def test_time_is_bounded(tmp_path):
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 40_000
    data = minimal(explicit(0x00081140, b"SQ", items))
    assert refusal(data, tmp_path, limits=Limits(scan_s=0.0)).code is RefusalCode.TOO_LARGE


@pytest.mark.parametrize(
    "body",
    [
        explicit(0x00100020, b"LO", b"A ") + explicit(0x00100020, b"LO", b"B "),
        explicit(0x00100020, b"LO", b"A ") + explicit(0x00100010, b"PN", b"B "),
        explicit(0x00100020, b"??", b"A "),
        explicit(0x00100020, b"\0\0", b"A "),
        struct.pack("<HHI", 0xFFFE, 0xE000, 0),
        struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        explicit(0x00081140, b"SQ", b"\0" * 16),
        explicit(0x00081140, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 100)),
        explicit(0x00081140, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 10) + explicit(0x00080050, b"SH", b"A" * 8)),
        struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFFF),
        explicit(0x00000100, b"US", b"\1\0"),
    ],
    ids=["repeated", "misplaced", "bad VR", "no VR", "item outside", "delimiter outside", "no items", "long item",
         "long element", "undefined OB", "command element"],
)  # fmt: skip
def test_broken_structure(tmp_path, body):
    assert refusal(minimal(body), tmp_path).code in (RefusalCode.DICOM_MALFORMED, RefusalCode.DICOM_TRUNCATED)


def test_a_tail_of_zeros_is_ignored_and_any_other_is_not(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(minimal() + b"\0" * 1001)
    assert read_header(path)["SOPInstanceUID"] == "1.2.3"
    assert refusal(minimal() + b"\0\0\0\1", tmp_path).code is RefusalCode.DICOM_TRUNCATED


WHOLE: list[bytes] = []


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_end_in_a_header_or_a_named_refusal(tmp_path, data):
    if not WHOLE:
        ds = enhanced(series(3))
        WHOLE.extend(write(in_syntax(ds, syntax), tmp_path / "w.dcm").read_bytes() for syntax in NATIVE)
    whole = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.dcm"
    path.write_bytes(whole)
    started = time.monotonic()
    read_or_refusal(path)  # anything but a header or a refusal raises
    assert time.monotonic() - started < 2


def test_refusals_never_repeat_what_was_in_the_file(tmp_path):
    found = refusal(minimal(sop="SECRET^NAME"), tmp_path)
    assert "SECRET" not in found.expected + found.found
