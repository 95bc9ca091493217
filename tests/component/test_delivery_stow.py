"""Delivery to a scripted archive: every row of the table of answers, and what the archive really holds afterwards."""

from __future__ import annotations

import hashlib
import logging
from io import BytesIO

import pytest
from peers.stub_pacs import CHANGES, StubPacs
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from dicom_node.delivery import FolderTarget, OutgoingObject, Seen, StowTarget, send
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused

pytestmark = pytest.mark.component

MARKER = "MARKER^PATIENT"


def make_object(number: int = 1, **changes: object) -> OutgoingObject:
    """A small MR instance with patient text in it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = f"2.25.77001.{number}"
    dataset.StudyInstanceUID = "2.25.7700111"
    dataset.SeriesInstanceUID = "2.25.7700121"
    dataset.Modality = "MR"
    dataset.PatientName = MARKER
    dataset.PatientID = "MARKERID007"
    dataset.IssuerOfPatientID = "MARKERISSUER"
    dataset.PatientBirthDate = "19610203"
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.InstanceNumber = number
    dataset.PixelData = bytes(value for pixel in range(64) for value in (3 * pixel, pixel % 16))
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return OutgoingObject.read(buffer.getvalue())


def target(pacs: StubPacs, **changes: object) -> StowTarget:
    values = {"url": pacs.url, "timeout_s": 1.0, "settle_s": (0.02, 0.05), **changes}
    return StowTarget(**values)


def holds_once(pacs: StubPacs, outgoing: OutgoingObject) -> None:
    """The oracle: the archive has the object once, with the bytes that were built."""
    same = [s for s in pacs.store if s.dataset.SOPInstanceUID == outgoing.sop_instance_uid]
    assert [hashlib.sha256(s.data).hexdigest() for s in same] == [outgoing.sha256]
    assert pacs.count("replaced") == 0


@pytest.mark.parametrize(
    "behaviour",
    [
        "ok",
        "html",
        "empty",
        "error-after-storing:500",
        "error-after-storing:400",
        "error-after-storing:503",
        "conflict-after-storing",
        "conflict-after-storing:0122",
        "hang-after-storing",
        "cut-after-storing",
        "late:2",
    ],
)
def test_what_is_there_is_delivered_whatever_the_answer_was(behaviour):
    outgoing = make_object()
    with StubPacs(script=[behaviour]) as pacs:
        confirmation = send(outgoing, target(pacs))
        assert confirmation.seen is Seen.CONTENT
        assert not confirmation.was_already_there
        holds_once(pacs, outgoing)
        again = send(outgoing, target(pacs), attempt=2)
        assert again.was_already_there
        assert pacs.count("received") == 1
        holds_once(pacs, outgoing)


@pytest.mark.parametrize(
    "behaviour",
    [
        "lie",
        "lie-html",
        "lie-empty",
        "error:500",
        "error:502",
        "error:408",
        "error:429",
        "hang",
        "cut",
        "half-answer",
        "endless",
        "partial:A700",
        "conflict:0110",
        "conflict:B00E",
        "busy",
    ],
)
def test_what_is_not_there_is_sent_again_with_the_same_bytes(behaviour):
    outgoing = make_object()
    with StubPacs(script=[behaviour]) as pacs:
        with pytest.raises(PeerTrouble):
            send(outgoing, target(pacs))
        assert pacs.store == []
        assert not send(outgoing, target(pacs), attempt=2).was_already_there
        assert {entry[2] for entry in pacs.ledger} == {outgoing.sha256}
        holds_once(pacs, outgoing)


@pytest.mark.parametrize(
    "behaviour",
    [
        "error:400",
        "error:403",
        "error:404",
        "error:406",
        "error:413",
        "error:415",
        "error:422",
        "partial:C122",
        "partial:A900",
        "conflict:0122",
        "redirect:/dicom-web/elsewhere",
    ],
)
def test_what_will_never_be_stored_is_held(behaviour):
    with StubPacs(script=[behaviour]) as pacs:
        with pytest.raises(Refused) as refused:
            send(make_object(), target(pacs))
        assert refused.value.refusal.code is RefusalCode.DELIVERY_INCOMPLETE
        assert "HTTP" in refused.value.refusal.found
        assert pacs.count("received") == 1


def test_an_archive_that_says_stored_and_shows_nothing_is_held_after_three_attempts():
    with StubPacs(script=["lie"] * 3) as pacs:
        for attempt in (1, 2):
            with pytest.raises(PeerTrouble):
                send(make_object(), target(pacs), attempt=attempt)
        with pytest.raises(Refused) as refused:
            send(make_object(), target(pacs), attempt=3)
        assert refused.value.refusal.code is RefusalCode.DELIVERY_INCOMPLETE


def test_retry_after_is_handed_to_the_caller():
    with StubPacs(script=["busy:7"]) as pacs, pytest.raises(PeerTrouble) as trouble:
        send(make_object(), target(pacs))
    assert trouble.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("change-pixel", RefusalCode.DELIVERY_CONFLICT),
        ("change-study", RefusalCode.DELIVERY_CONFLICT),
        ("change-patient", RefusalCode.PATIENT_CHANGED),
    ],
)
def test_an_archive_that_changes_what_matters_is_held(change, code):
    with StubPacs(script=[change]) as pacs, pytest.raises(Refused) as refused:
        send(make_object(), target(pacs))
    assert refused.value.refusal.code is code


def test_coerced_patient_text_is_confirmed_and_named_without_its_value():
    with StubPacs(script=["coerce-name"]) as pacs:
        confirmation = send(make_object(), target(pacs))
    assert confirmation.coerced == ("PatientName",)
    assert "MARKER" not in repr(confirmation)


@pytest.mark.parametrize("change", ["change-pixel", "change-study"])
def test_other_content_under_our_uid_is_never_overwritten(change):
    outgoing = make_object()
    with StubPacs() as pacs:
        pacs.keep(outgoing.data, CHANGES[change])
        before = pacs.store[0].data
        with pytest.raises(Refused) as refused:
            send(outgoing, target(pacs))
        assert refused.value.refusal.code is RefusalCode.DELIVERY_CONFLICT
        assert pacs.count("received") == 0
        assert pacs.store[0].data == before


@pytest.mark.parametrize(
    "changes",
    [{"PatientID": "OTHER"}, {"PatientID": "0MARKERID007"}, {"IssuerOfPatientID": "OTHER"}],
)
def test_a_study_the_archive_keeps_under_another_patient_is_held_before_anything_is_sent(changes):
    with StubPacs() as pacs:
        pacs.keep(make_object(50, **changes).data)
        with pytest.raises(Refused) as refused:
            send(make_object(), target(pacs))
        assert refused.value.refusal.code is RefusalCode.PATIENT_CHANGED
        assert "MARKER" not in str(refused.value.refusal.to_json())
        assert pacs.count("received") == 0


def test_a_study_that_exists_twice_is_held():
    with StubPacs() as pacs:
        pacs.keep(make_object(50).data)
        pacs.keep(make_object(51, PatientID="OTHER").data)
        with pytest.raises(Refused) as refused:
            send(make_object(), target(pacs))
        assert refused.value.refusal.code is RefusalCode.PATIENT_CHANGED
        assert refused.value.refusal.found == "2 studies at the destination"


@pytest.mark.parametrize("changes", [{"IssuerOfPatientID": ""}, {"PatientID": "MARKERID007 "}])
def test_padding_and_an_issuer_only_one_side_knows_are_no_contradiction(changes):
    with StubPacs() as pacs:
        pacs.keep(make_object(50, **changes).data)
        assert send(make_object(), target(pacs)).seen is Seen.CONTENT


@pytest.mark.parametrize("queries", [["500"], ["cut"], ["ok", "503"], ["ok", "ok", "500"], ["ok", "ok", "ok", "cut"]])
def test_no_confirmation_without_verification(queries):
    outgoing = make_object()
    with StubPacs(query_script=queries) as pacs:
        with pytest.raises(PeerTrouble):
            send(outgoing, target(pacs))
        send(outgoing, target(pacs), attempt=2)
        assert pacs.count("received") == 1
        holds_once(pacs, outgoing)


def test_credentials_are_read_again_once():
    passwords = ["old", "new", "new"]
    right = "Basic bm9kZTpuZXc="  # node:new
    with StubPacs(credentials=right) as pacs:
        send(make_object(), target(pacs, username="node", secret=lambda: passwords.pop(0)))
        assert passwords == ["new"]
        with pytest.raises(PeerTrouble, match="credentials"):
            send(make_object(2), target(pacs, username="node", secret=lambda: "wrong"))
    assert "wrong" not in repr(target(pacs, username="node", secret=lambda: "wrong"))


def test_redirects_are_not_followed():
    with StubPacs() as elsewhere, StubPacs(script=[f"redirect:{elsewhere.url}/studies"]) as pacs:
        with pytest.raises(Refused):
            send(make_object(), target(pacs))
        assert elsewhere.requests == []


def test_an_endless_answer_is_cut_at_the_limit():
    with StubPacs(script=["endless"]) as pacs:
        with pytest.raises(PeerTrouble):
            send(make_object(), target(pacs))
        assert 10_000_000 <= pacs.endless_bytes < 40_000_000


def test_an_archive_that_is_down_is_peer_trouble():
    pacs = StubPacs().start()
    pacs.stop()
    with pytest.raises(PeerTrouble, match="ConnectError"):
        send(make_object(), target(pacs))


def test_one_object_is_sent_in_one_request_to_its_study():
    outgoing = make_object()
    with StubPacs() as pacs:
        send(outgoing, target(pacs))
        assert [r for r in pacs.requests if r.startswith("POST")] == [f"POST /dicom-web/studies/{outgoing.study_uid}"]


def test_no_patient_text_or_uid_reaches_logs_or_errors(caplog):
    caplog.set_level(logging.DEBUG)
    for behaviour in ("ok", "error:500", "change-pixel", "hang", "error:413"):
        with StubPacs(script=[behaviour]) as pacs:
            try:
                send(make_object(), target(pacs))
            except (PeerTrouble, Refused) as error:
                text = str(error) + repr(error.__cause__)
                assert "MARKER" not in text and "2.25.7700" not in text
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "MARKER" not in text and "2.25.7700" not in text
    assert "MARKER" not in repr(make_object())


# -- objects and folders


def test_damaged_stored_bytes_are_never_sent():
    outgoing = make_object()
    with pytest.raises(ValueError, match="digest"):
        OutgoingObject.read(outgoing.data[:-1] + b"\1", outgoing.sha256)


@pytest.mark.parametrize("data", [b"", b"\0" * 128 + b"DICM", b"%PDF-1.7", make_object().data[:200]])
def test_what_is_no_dicom_object_is_refused(data):
    with pytest.raises(Refused) as refused:
        OutgoingObject.read(data)
    assert refused.value.refusal.code is RefusalCode.NOT_DICOM


def test_a_folder_gets_whole_files_once(tmp_path):
    outgoing = make_object()
    folder = FolderTarget(tmp_path / "out")
    assert not send(outgoing, folder).was_already_there
    assert send(outgoing, folder).was_already_there
    (only,) = (tmp_path / "out").iterdir()
    assert only.read_bytes() == outgoing.data
    assert outgoing.sop_instance_uid not in only.name


def test_a_folder_with_other_content_is_held(tmp_path):
    outgoing = make_object()
    folder = FolderTarget(tmp_path)
    send(outgoing, folder)
    (only,) = tmp_path.iterdir()
    changed = dcmread(only)
    changed.PixelData = bytes(128)
    changed.save_as(only)
    with pytest.raises(Refused) as refused:
        send(outgoing, folder)
    assert refused.value.refusal.code is RefusalCode.DELIVERY_CONFLICT


def test_a_folder_that_cannot_be_written_is_peer_trouble(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(PeerTrouble):
        send(make_object(), FolderTarget(blocked / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
