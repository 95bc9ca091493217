"""Patient and study attributes: every character set, odd and over-long values, zones."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom.config
import pytest
from fixtures_results import PRODUCER, asymmetric_phantom, findings_of, plain_volume, run_identity, write_series
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from ai_engine.geometry import Affine
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results import build, check, text
from dicom_node.results.attributes import check_agreement, clean_attributes
from dicom_node.words import ObjectKind, ResultSet

pytestmark = pytest.mark.unit

AXIAL = Affine.from_axes((-10.0, -10.0, 0.0), [[0, 0, 1], [0, 1, 0], [1, 0, 0]], (4.0, 1.0, 1.0))

NAMES = {
    "latin-1": (["ISO_IR 100"], "Müller^Jörg"),
    "cyrillic": (["ISO_IR 144"], "Люкceмбypг"),
    "greek": (["ISO_IR 126"], "Διονυσιος"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "japanese-katakana": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "chinese-gb18030": (["GB18030"], "Wang^XiaoDong=王^小东"),
    "utf-8": (["ISO_IR 192"], "Wang^XiaoDong=王^小東=홍"),
    "arabic": (["ISO_IR 127"], "قباني^لنزار"),
    "thai": (["ISO_IR 166"], "สมชาย^ใจดี"),
}


def written(tmp_path: Path, **changes) -> ResultSet:
    array, mask = asymmetric_phantom((6, 16, 16))
    volume = plain_volume(write_series(tmp_path, array, AXIAL, **changes))
    findings = findings_of(mask, volume.affine)
    result = build(run_identity(volume.study_uid), volume, mask, findings, PRODUCER)
    check(result, volume, mask, findings)
    return result


@pytest.mark.parametrize("name", NAMES)
def test_names_of_every_character_set_arrive_unchanged_in_every_object(tmp_path, name):
    charset, person = NAMES[name]
    result = written(tmp_path, SpecificCharacterSet=charset if len(charset) > 1 else charset[0], PatientName=person)
    for made in result.objects:
        document = dcmread(BytesIO(made.data))
        assert document.SpecificCharacterSet == "ISO_IR 192"
        assert str(document.PatientName).rstrip("=") == person.rstrip("=")


def test_no_library_warns_about_values(tmp_path, recwarn, caplog):
    """A one-component name makes highdicom warn and quote it, an odd value pydicom: neither is heard (I4)."""
    array, mask = asymmetric_phantom((6, 16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = plain_volume(write_series(tmp_path, array, AXIAL, PatientName="MARKERNAME", PatientAge="MARKERAGE"))
    recwarn.clear()
    caplog.clear()
    result = build(run_identity(), volume, mask, findings_of(mask, volume.affine), PRODUCER)
    check(result, volume, mask, findings_of(mask, volume.affine))
    heard = [str(one.message) for one in recwarn] + [record.getMessage() for record in caplog.records]
    assert not [line for line in heard if "MARKER" in line]


def raw(**values: bytes) -> Dataset:
    """A header whose text elements hold these bytes as received."""
    header = Dataset()
    base = {"StudyInstanceUID": b"1.2.3", "PatientID": b"SYN-1"}
    for keyword, value in {**base, **values}.items():
        tag = Tag(keyword)
        vr = pydicom.datadict.dictionary_VR(keyword)
        header._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True, False)
    return header


def test_bytes_above_127_without_a_character_set_are_refused():
    with pytest.raises(Refused) as refused:
        clean_attributes(raw(PatientName=b"M\xfcller"))
    assert refused.value.refusal.code is RefusalCode.DICOM_MALFORMED
    assert "ller" not in str(refused.value.refusal.to_json())


def test_bytes_outside_the_declared_character_set_are_refused():
    with pytest.raises(Refused):
        clean_attributes(raw(SpecificCharacterSet=b"ISO_IR 192", PatientName=b"M\xfcller"))
    with pytest.raises(Refused):
        clean_attributes(raw(SpecificCharacterSet=b"ISO_IR 6", PatientName=b"M\xfcller"))
    with pytest.raises(Refused):
        clean_attributes(raw(SpecificCharacterSet=b"NO SUCH SET", PatientName=b"M\xfcller"))


def test_names_with_escapes_are_read_and_names_without_are_not_guessed():
    """The example of PS3.5 annex K, and the same name from a writer that forgot the escapes."""
    escaped = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="
    attributes, _ = clean_attributes(raw(SpecificCharacterSet=b"\\ISO 2022 IR 58", PatientName=escaped))
    assert str(attributes.PatientName) == "Zhang^XiaoDong=张^小东"
    forgotten = escaped.replace(b"\x1b$)A", b"")
    with pytest.raises(Refused):
        clean_attributes(raw(SpecificCharacterSet=b"\\ISO 2022 IR 58", PatientName=forgotten))


def test_the_same_name_in_two_character_sets_is_no_conflict():
    one = raw(SpecificCharacterSet=b"ISO_IR 100", PatientName=b"M\xfcller^J")
    two = raw(SpecificCharacterSet=b"ISO_IR 192", PatientName="Müller^J^^ ".encode())
    check_agreement([one, two])
    with pytest.raises(Refused):
        check_agreement([one, raw(SpecificCharacterSet=b"ISO_IR 100", PatientName=b"M\xe4ller^J")])


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("StudyDescription", b"x" * 90, "x" * 61 + "..."),
        ("AccessionNumber", b"1234567890123456789", ""),
        ("StudyID", b"1234567890123456789", ""),
        ("PatientSex", b"MALE", ""),
        ("PatientSex", b"F ", "F"),
        ("PatientBirthDate", b"19701341", ""),
        ("PatientBirthDate", b"1970", ""),
        ("StudyTime", b"25:00", ""),
        ("StudyTime", b"101500.25", "101500.25"),
        ("PatientName", b"A" * 90, "A" * 64),
        ("ReferringPhysicianName", b"", ""),
        ("IssuerOfPatientID", b"y" * 70, None),
        ("PatientAge", b"***", None),
        ("PatientAge", b"053Y", "053Y"),
        ("StudyDescription", b"a\x0bb\\c\x07", "a b/c"),
    ],
)
def test_values_are_cut_or_left_out_by_design(keyword, value, kept):
    attributes, _ = clean_attributes(raw(**{keyword: value}))
    assert attributes.get(keyword) == kept


def test_what_was_changed_is_told_by_name_only():
    _, altered = clean_attributes(raw(StudyDescription=b"x" * 90, PatientAge=b"***", PatientSex=b"F"))
    assert altered == ("PatientAge", "StudyDescription")


@pytest.mark.parametrize("value", [b"A" * 65, b"one\\two"])
def test_a_patient_id_that_does_not_fit_is_refused(value):
    with pytest.raises(Refused) as refused:
        clean_attributes(raw(PatientID=value))
    assert refused.value.refusal.code is RefusalCode.PATIENT_UNIDENTIFIED


def test_an_invalid_study_uid_is_refused():
    for value in (b"", b"1.02.3", b"1." * 33 + b"1", b"abc"):
        with pytest.raises(Refused) as refused:
            clean_attributes(raw(StudyInstanceUID=value))
        assert refused.value.refusal.code is RefusalCode.UID_INVALID


def test_issuer_qualifiers_are_copied_without_private_elements(tmp_path):
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3.4", "ISO"
    issuer.add_new(0x00090010, "LO", "PRIVATE")
    result = written(tmp_path, IssuerOfPatientID="HOSP", IssuerOfPatientIDQualifiersSequence=[issuer])
    for made in result.objects:
        document = dcmread(BytesIO(made.data))
        (item,) = document.IssuerOfPatientIDQualifiersSequence
        assert (document.IssuerOfPatientID, item.UniversalEntityID, len(item)) == ("HOSP", "1.2.3.4", 2)


def test_no_private_or_acquisition_attribute_is_copied(tmp_path):
    result = written(
        tmp_path, InstitutionName="MARKER HOSPITAL", StationName="MARKER1", ProtocolName="MARKER", ConversionType="WSD"
    )
    for made in result.objects:
        document = dcmread(BytesIO(made.data))
        assert b"MARKER HOSPITAL" not in made.data and "ProtocolName" not in document
        assert not any(element.tag.is_private for element in document.iterall())
        assert made.data[:128] == bytes(128)


def test_deidentified_stays_deidentified(tmp_path):
    result = written(tmp_path, PatientIdentityRemoved="YES", DeidentificationMethod="basic profile " * 5)
    for made in result.objects:
        document = dcmread(BytesIO(made.data))
        assert document.PatientIdentityRemoved == "YES" and len(document.DeidentificationMethod) <= 64


@pytest.mark.parametrize(
    ("source", "site", "expected", "hour"),
    [("-0300", "+01:00", "-0300", "070000"), (None, "+05:30", "+0530", "153000"), (None, "+00:00", "+0000", "100000")],
)
def test_times_are_in_the_zone_of_the_study(tmp_path, source, site, expected, hour):
    array, mask = asymmetric_phantom((6, 16, 16))
    changes = {} if source is None else {"TimezoneOffsetFromUTC": source}
    volume = plain_volume(write_series(tmp_path, array, AXIAL, **changes))
    result = build(run_identity(timezone_offset=site), volume, mask, findings_of(mask, volume.affine), PRODUCER)
    for made in result.objects:
        document = dcmread(BytesIO(made.data))
        assert (document.TimezoneOffsetFromUTC, document.ContentTime, document.InstanceCreationTime) == (
            expected,
            hour,
            hour,
        )


def test_lossy_source_stays_lossy(tmp_path):
    result = written(
        tmp_path,
        LossyImageCompression="01",
        LossyImageCompressionRatio="9.5",
        LossyImageCompressionMethod="ISO_10918_1",
    )
    seg = dcmread(BytesIO(result.objects[0].data))
    assert result.objects[0].kind is ObjectKind.SEG
    assert (seg.LossyImageCompression, str(seg.LossyImageCompressionRatio)) == ("01", "9.5")
    assert seg.LossyImageCompressionMethod == "ISO_10918_1"


def test_decimal_strings_fit():
    for value in (0.0, 1.0, -1.0, 1 / 3, 43.2008065188267, 1e-12 / 3, -2.5e-7 / 3, 123456789.123456789, 1e300 / 3):
        written_value = text.decimal_string(value)
        assert len(written_value) <= 16
        assert float(written_value) == pytest.approx(value, rel=1e-8)
    with pytest.raises(ValueError, match="finite"):
        text.decimal_string(float(np.nan))


@pytest.mark.parametrize(("value", "minutes"), [("+0530", 330), ("-03:00", -180), ("+1500", None), ("Z", None)])
def test_offsets(value, minutes):
    assert text.offset_minutes(value) == minutes
