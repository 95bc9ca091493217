"""What the web process and the worker both say about requests: stages and their jobs, files, destinations.

Nothing here reads an image or builds an object, so the web process stays small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping

from dicom_node.durable import Put
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.settings import FhirDestination, FileDestination, Settings
from dicom_node.words import DeliveryState

QUEUES: Mapping[str, str] = {"read": "cpu", "infer": "model", "write": "cpu"}
"""Stage of a request -> the queue it runs on."""

PHOTO, HEAT_MAP, REPORT_BUNDLE = "photo.dcm", "heat_map.png", "report.fhir.json"
PLANES = "planes.png"

FILES: Mapping[str, str] = {
    "mask.nii.gz": "application/gzip",
    "result.json": "application/json",
    "overlay.png": "image/png",
    PLANES: "image/png",
    "seg.dcm": "application/dicom",
    "sr.dcm": "application/dicom",
    "pdf.dcm": "application/dicom",
    "report.pdf": "application/pdf",
    PHOTO: "application/dicom",
    HEAT_MAP: "image/png",
    "sc.dcm": "application/dicom",
    REPORT_BUNDLE: "application/fhir+json",
}
"""Name -> media type of everything that can be fetched."""


def stage_put(row: RowMapping | Mapping[str, Any], suffix: str = "", *, delay_s: float = 0.0) -> Put:
    """The job of the stage that comes next for a request."""
    key = f"predict/{row['id']}/{row['stage']}{suffix}"
    return Put(QUEUES[row["stage"]], "predict", key, (row["id"], row["stage"]), row["priority"], delay_s)


def transfer_puts(row: RowMapping | Mapping[str, Any], suffix: str = "") -> list[Put]:
    """The jobs of the transfers and calls of a request that are still to be made."""
    return [
        Put(
            f"out-{name}",
            "predict",
            f"predict/{row['id']}/send-{name}{suffix}",
            (row["id"], "send", name),
            row["priority"],
        )
        for name, told in (row["transfers"] or {}).items()
        if told["state"] == DeliveryState.PENDING.value
    ]


def takes_results(settings: Settings) -> dict[str, bool]:
    """The destinations that a caller may name, and whether each takes files of any kind or DICOM objects only."""
    return {
        name: isinstance(chosen, FileDestination)
        for name, chosen in settings.destinations.items()
        if not isinstance(chosen, FhirDestination)
    }


def check_transfer(wanted: Sequence[str], takes: Mapping[str, bool], *, is_nifti: bool) -> None:
    """An archive takes DICOM objects, and of a NIfTI file there are none.

    Parameters
    ----------
    takes
        As `takes_results` says.

    Raises
    ------
    Refused
        ``validation``.
    """
    if is_nifti and not all(takes.get(name, True) for name in wanted):
        raise Refused(RefusalCode.VALIDATION, "DICOM input for a transfer to an archive", "NIfTI")
