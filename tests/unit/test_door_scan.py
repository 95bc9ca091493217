"""The byte-level look at a data set: who it is, whether it is whole, and nothing that hangs or recurses."""

from __future__ import annotations

import struct
import time
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicom_node.door import scan
from dicom_node.refusals import RefusalCode, Refused

pytestmark = pytest.mark.unit

CLASS, INSTANCE = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.4"
UIDS_END = 50
"""Bytes of the two first elements of `small()`: what follows may be anything."""


def encoded(ds: Dataset, *, implicit: bool = False) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, ds)
    return bytes(buffer.parent.getvalue()) if hasattr(buffer.parent, "getvalue") else bytes(buffer.getvalue())


def small(**changes: object) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CLASS, INSTANCE
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2", "1.3"
    ds.PatientName = "A^B"
    ds.Rows = ds.Columns = 8
    ds.BitsAllocated = 16
    ds.PixelData = bytes(128)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def code_of(data: bytes, *, explicit: bool = True, size: int | None = None) -> RefusalCode | None:
    try:
        scan.identify(data, len(data) if size is None else size, explicit=explicit)
    except Refused as refused:
        return refused.refusal.code
    return None


@pytest.mark.parametrize("implicit", [False, True])
def test_the_four_uids_are_found(implicit: bool) -> None:
    data = encoded(small(), implicit=implicit)
    found = scan.identify(data, len(data), explicit=not implicit)
    assert found == scan.Identity(CLASS, INSTANCE, "1.2", "1.3")


@pytest.mark.parametrize("implicit", [False, True])
def test_sequences_before_the_uids_are_stepped_over(implicit: bool) -> None:
    item = Dataset()
    item.CodeValue, item.SOPInstanceUID = "en", "9.9.9"
    ds = small(LanguageCodeSequence=Sequence([item, item]))
    for undefined in (False, True):
        ds["LanguageCodeSequence"].is_undefined_length = undefined
        for part in ds.LanguageCodeSequence:
            part.is_undefined_length_sequence_item = undefined
        data = encoded(ds, implicit=implicit)
        assert scan.identify(data, len(data), explicit=not implicit).sop_instance_uid == INSTANCE


def test_an_unknown_sequence_of_undefined_length_holds_implicit_elements() -> None:
    inside = struct.pack("<HHI", 0x0008, 0x0018, 4) + b"9.9\0"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inside + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    unknown = struct.pack("<HH2sHI", 0x0008, 0x0001, b"UN", 0, 0xFFFFFFFF) + item
    data = unknown + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) + encoded(small())
    assert scan.identify(data, len(data), explicit=True).sop_instance_uid == INSTANCE


def test_every_cut_of_the_pixel_data_is_truncated() -> None:
    data = encoded(small())
    assert code_of(data) is None
    for missing in (1, 2, 64, 128):
        assert code_of(data[:-missing]) is RefusalCode.DICOM_TRUNCATED


def test_the_declared_length_is_compared_with_the_whole_not_with_the_head() -> None:
    data = encoded(small())
    assert code_of(data[:-100], size=len(data)) is None
    assert code_of(data[:-100], size=len(data) - 1) is RefusalCode.DICOM_TRUNCATED


def test_an_element_that_claims_4_gb_is_truncated() -> None:
    data = encoded(small())[:UIDS_END] + struct.pack("<HH2sHI", 0x0009, 0x0001, b"OB", 0, 0xFFFFFFF0)
    assert code_of(data) is RefusalCode.DICOM_TRUNCATED


def test_another_encoding_than_negotiated_is_no_data_set() -> None:
    assert code_of(encoded(small(), implicit=True), explicit=True) is RefusalCode.DICOM_MALFORMED
    assert code_of(encoded(small()), explicit=False) in (RefusalCode.DICOM_TRUNCATED, RefusalCode.UID_INVALID)


def test_an_odd_value_representation_after_the_uids_is_not_the_doors_matter() -> None:
    data = encoded(small())
    position = data.index(b"PN")
    assert code_of(data[:position] + b"??" + data[position + 2 :]) is None


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "1.2.x", "1" * 65, "1 2"])
def test_a_uid_that_is_none(uid: str) -> None:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    element = struct.pack("<HH2sH", 0x0008, 0x0018, b"UI", len(value)) + value
    data = struct.pack("<HH2sH", 0x0008, 0x0016, b"UI", 4) + b"1.2\0" + element
    assert code_of(data) is RefusalCode.UID_INVALID


def test_leading_zeros_are_left_alone() -> None:
    assert scan.is_uid("1.02.003")


def test_deep_nesting_ends_at_32_levels_without_recursion() -> None:
    level = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    head = encoded(small())[:UIDS_END]
    assert code_of(head + level * 5000) is RefusalCode.NESTING_TOO_DEEP


def test_300_000_empty_items_cost_less_than_a_second() -> None:
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 130_000
    data = encoded(small())[:UIDS_END] + struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + items
    begun = time.process_time()
    code_of(data)
    assert time.process_time() - begun < 1.0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.booleans(), st.integers(0, 1000))
def test_any_bytes_end_in_a_named_refusal(data: bytes, explicit: bool, more: int) -> None:
    code = code_of(data, explicit=explicit, size=len(data) + more)
    assert code is None or isinstance(code, RefusalCode)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damaged_header_ends_in_a_named_refusal(data: st.DataObject) -> None:
    raw = bytearray(encoded(small()))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    code = code_of(bytes(raw))
    assert code is None or isinstance(code, RefusalCode)


def test_the_helper_writes_what_pydicom_writes() -> None:
    ds, whole = small(), BytesIO()
    ds.file_meta = Dataset()  # type: ignore[assignment]
    dcmwrite(whole, ds, implicit_vr=False, little_endian=True)
    assert whole.getvalue().endswith(encoded(ds)[-64:])
