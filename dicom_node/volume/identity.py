"""One patient, one study, one series: what must agree before a volume may be built (invariant I2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.attributes import IDENTITY


def check_identity(headers: Sequence[Mapping[str, Any]]) -> None:
    """Refuse headers of more than one patient, study or series.

    Raises
    ------
    Refused
        patient-conflict; uid-conflict (one Series Instance UID in several studies); series-mixed (several series).
    """
    for keyword in IDENTITY:
        if len({_comparable(header.get(keyword, "")) for header in headers}) > 1:
            raise Refused(RefusalCode.PATIENT_CONFLICT, f"one {keyword}", "several")
    series = {header["SeriesInstanceUID"] for header in headers}
    if len({header["StudyInstanceUID"] for header in headers}) > 1:
        code = RefusalCode.UID_CONFLICT if len(series) == 1 else RefusalCode.SERIES_MIXED
        raise Refused(code, "one study", "several")
    if len(series) > 1:
        raise Refused(RefusalCode.SERIES_MIXED, "one series", f"{len(series)}")


def _comparable(value: Any) -> str:
    """Trailing empty name components may be written or not (PS3.5 6.2.1.1)."""
    return str(value).rstrip("^= ")
