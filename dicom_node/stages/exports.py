"""Exports: which results go to a destination, the files that only file destinations get, and how files are named.

A file's name is made from the node's own numbers and digests, by a template that the site chooses (`names`): never from
a UID, a name or an accession number (I4, I9).  It is a function of the run and the object, so a resend has the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection

from ai_engine.findings import Findings
from ai_engine.predict import InputFacts, picture_json, result_json
from dicom_node import delivery, files
from dicom_node.record import digest, removals, runs, studies
from dicom_node.record.tables import cases
from dicom_node.settings import FileDestination, Settings
from dicom_node.stages.context import Mask, Tools
from dicom_node.stages.pictures import as_picture
from dicom_node.stages.read import case_inputs
from dicom_node.volume import nifti_bytes
from dicom_node.words import ObjectKind, Picture, Volume

PDF_PAGE, OVERLAY = "pdf-page", "overlay"
MASK_FILE, RESULT_FILE = "mask-file", "result-file"
DICOM_KINDS = (ObjectKind.SEG, ObjectKind.PDF, ObjectKind.SC, ObjectKind.SR, ObjectKind.KO)

_FILES: Mapping[str, tuple[str, str]] = {
    **{kind.value: (kind.value, ".dcm") for kind in DICOM_KINDS},
    "mask": (MASK_FILE, ".nii.gz"),
    "report": (PDF_PAGE, ".pdf"),
    "overlay": (OVERLAY, ".png"),
    "result": (RESULT_FILE, ".json"),
}
"""What `objects` may name, in sending order: the artefact's kind and the ending of its file."""


def chosen(settings: Settings, name: str, kept: Mapping[str, int]) -> list[int]:
    """The artefacts of a run that go to one archive or file destination, in sending order.

    Parameters
    ----------
    kept
        Kind of artefact -> its id, of everything that the run has.
    """
    destination = settings.destinations[name]
    kinds = [kind.value for kind in DICOM_KINDS]
    if isinstance(destination, FileDestination):
        kinds = [artefact for wanted, (artefact, _) in _FILES.items() if wanted in destination.objects]
    if not destination.reject_superseded:
        kinds = [kind for kind in kinds if kind != ObjectKind.KO.value]
    return [kept[kind] for kind in kinds if kind in kept]


def extra_files(
    tools: Tools, names: Iterable[str], run: Any, revisions: Mapping[str, Any], mask: Mask | None, findings: Findings,
    reference: Volume | Picture,
) -> dict[str, bytes]:  # fmt: skip
    """The files that some of these destinations want besides what every run has, by kind of artefact.

    `mask.nii.gz` lies on the grid of the reference series, and a photograph has none; `result.json` is the one of
    ``ai-node predict``.
    """
    destinations = [tools.settings.destinations.get(name) for name in names]
    wanted = {kind for d in destinations if isinstance(d, FileDestination) for kind in d.objects}
    made: dict[str, bytes] = {}
    facts = InputFacts("dicom", tuple(run["identity"]["results"]["notes"]))
    if isinstance(reference, Picture):
        if "result" in wanted:
            told = picture_json(findings, dict(findings.timings_s), as_picture(reference), facts)
            made[RESULT_FILE] = (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()
        return made
    if "mask" in wanted and mask is not None:
        made[MASK_FILE] = nifti_bytes(mask, reference.affine)
    if "result" in wanted:
        inputs = case_inputs(tools, revisions, int(run["identity"]["reference_revision"]))
        told = result_json(findings, dict(findings.timings_s), inputs, facts)
        made[RESULT_FILE] = (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()
    return made


def outgoing_file(
    tools: Tools, connection: Connection, run_id: int, destination: FileDestination, row: Mapping[str, Any]
) -> delivery.OutgoingFile:
    """One artefact of a run as the file that a destination keeps.

    Raises
    ------
    ValueError
        If the stored bytes are not those that were built.
    """
    wanted, ending = next((name, ending) for name, (kind, ending) in _FILES.items() if kind == row["kind"])
    data = files.load(tools.artefact_folder, *removals.place(row))
    return delivery.OutgoingFile.named(
        file_name(tools, connection, run_id, destination, wanted) + ending, data, str(row["sha256"])
    )


def file_name(tools: Tools, connection: Connection, run_id: int, destination: FileDestination, what: str) -> str:
    """The name of a file of a run without its ending, by the destination's template."""
    run = runs.run_row(connection, run_id)
    study = studies.study_row(connection, run["study_uid"])
    case = runs.row(connection, cases, run["case_id"])
    return destination.names.format(
        study=study["public_id"],
        run=digest([tools.site_namespace, run["run_key"]])[:16],
        model=str(case["model"]).partition("@")[0],
        object=what,
        hash=digest([tools.site_namespace, run["run_key"], what])[:32],
    )
