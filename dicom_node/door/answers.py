"""Every answer of the door to C-STORE, by cause (PS3.4 B.2.3, PS3.7 C; hardening section 3)."""

from __future__ import annotations

import errno

from pydicom.dataset import Dataset
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.refusals import RefusalCode, Refused

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
OUT_OF_RESOURCES = 0xA700

STATUS: dict[RefusalCode, int] = {
    RefusalCode.TOO_BUSY: OUT_OF_RESOURCES,
    RefusalCode.STORAGE_FULL: OUT_OF_RESOURCES,
    RefusalCode.NOT_READY: OUT_OF_RESOURCES,
    RefusalCode.NOT_AUTHORISED: 0x0124,
    RefusalCode.SOP_CLASS_UNSUPPORTED: 0x0122,
    RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED: 0xC001,
    RefusalCode.UID_MISMATCH: 0xA900,
    RefusalCode.NOT_DICOM: 0xC002,
    RefusalCode.DICOM_TRUNCATED: 0xC002,
    RefusalCode.DICOM_MALFORMED: 0xC002,
    RefusalCode.NESTING_TOO_DEEP: 0xC002,
    RefusalCode.TOO_LARGE: 0xC003,
    RefusalCode.UID_INVALID: 0xC005,
}


def code_of(error: Exception) -> RefusalCode | None:
    """The code that stands for an error; None for a fault of ours."""
    if isinstance(error, Refused):
        return error.refusal.code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RefusalCode.STORAGE_FULL
    if isinstance(error, OSError | SQLAlchemyError):
        return RefusalCode.NOT_READY
    return None


def answer(error: Exception) -> Dataset:
    """Status and Error Comment (0000,0902): the comment is the code alone, never input data."""
    code = code_of(error)
    response = Dataset()
    response.Status = PROCESSING_FAILURE if code is None else STATUS.get(code, PROCESSING_FAILURE)
    response.ErrorComment = "processing-failure" if code is None else code.value
    return response
