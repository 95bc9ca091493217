"""Every cause has its status (PS3.7 C, hardening section 3), and the comment is the code alone."""

from __future__ import annotations

import errno

import pytest
from sqlalchemy.exc import OperationalError

from dicom_node.door.answers import STATUS, answer
from dicom_node.door.table import SOP_CLASSES, TRANSFER_SYNTAXES, is_input, is_kept
from dicom_node.refusals import RefusalCode, Refused

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("error", "status", "comment"),
    [
        (Refused(RefusalCode.STORAGE_FULL), 0xA700, "storage-full"),
        (Refused(RefusalCode.NOT_READY), 0xA700, "not-ready"),
        (Refused(RefusalCode.UID_MISMATCH, "1.2.3", "secret"), 0xA900, "uid-mismatch"),
        (Refused(RefusalCode.DICOM_TRUNCATED), 0xC002, "dicom-truncated"),
        (Refused(RefusalCode.TOO_LARGE), 0xC003, "too-large"),
        (Refused(RefusalCode.UID_INVALID), 0xC005, "uid-invalid"),
        (Refused(RefusalCode.SOP_CLASS_UNSUPPORTED), 0x0122, "sop-class-unsupported"),
        (Refused(RefusalCode.NOT_AUTHORISED), 0x0124, "not-authorised"),
        (OSError(errno.ENOSPC, "MARKERPHI"), 0xA700, "storage-full"),
        (OSError(errno.EIO, "MARKERPHI"), 0xA700, "not-ready"),
        (OperationalError("INSERT MARKERPHI", {}, Exception()), 0xA700, "not-ready"),
        (ZeroDivisionError("MARKERPHI"), 0x0110, "processing-failure"),
    ],
)
def test_status_by_cause(error: Exception, status: int, comment: str) -> None:
    response = answer(error)
    assert (response.Status, response.ErrorComment) == (status, comment)


def test_comments_fit_their_value_representation() -> None:
    assert all(len(code.value) <= 64 for code in STATUS)


def test_the_table_of_classes() -> None:
    assert "1.2.840.10008.5.1.4.1.1.66.7" in SOP_CLASSES, "label map segmentations come back"
    assert not is_input("1.2.840.10008.5.1.4.1.1.66.7")
    assert not is_input("1.2.840.10008.5.1.4.1.1.88.34")
    assert is_input("1.2.840.10008.5.1.4.1.1.4")
    photographs = ("1.2.840.10008.5.1.4.1.1.77.1.4", "1.2.840.10008.5.1.4.1.1.77.1.7", "1.2.840.10008.5.1.4.1.1.7")
    assert all(is_input(uid) for uid in photographs)
    endoscopic = "1.2.840.10008.5.1.4.1.1.77.1.1"
    assert endoscopic in SOP_CLASSES and not is_kept(endoscopic), "negotiated, then refused by name"
    assert "1.2.840.10008.5.1.4.1.1.66" not in SOP_CLASSES, "raw data"
    assert "1.2.840.10008.1.2.1.99" not in TRANSFER_SYNTAXES, "deflated"
    assert "1.2.840.10008.1.2.2" not in TRANSFER_SYNTAXES, "big endian"
