"""What a request leaves behind: mask, numbers, pictures and, for DICOM, the checked objects; and the short answer.

Built for the images at hand, whether the model was asked or its answer came out of the cache.  Names of files are ours
and the same for every request; `prediction_words.FILES` is the whole list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

from ai_engine.findings import Findings
from ai_engine.packages import ModelPackage
from ai_engine.packages.parameters import count_parameters
from ai_engine.predict import InputFacts, result_json
from dicom_node import files
from dicom_node.record import digest
from dicom_node.results import build, check
from dicom_node.results.phrases import words
from dicom_node.results.pictures import montage
from dicom_node.results.planes import three_planes
from dicom_node.stages.context import Mask, Tools
from dicom_node.stages.inputs import as_input
from dicom_node.stages.prediction_cache import is_hit
from dicom_node.stages.prediction_words import PLANES
from dicom_node.stages.producer import producer
from dicom_node.volume import nifti_bytes
from dicom_node.words import ObjectKind, RunIdentity, Volume

_OBJECTS = {ObjectKind.SEG: "seg.dcm", ObjectKind.PDF: "pdf.dcm", ObjectKind.SR: "sr.dcm"}


@dataclass(frozen=True)
class Written:
    """The short answer, and what can be fetched: name -> path relative to the request's folder."""

    answer: dict[str, Any]
    files: dict[str, str]


def write_files(
    tools: Tools,
    row: RowMapping,
    volumes: Mapping[str, Volume],
    mask: Mask,
    findings: Findings,
    package: ModelPackage,
    target: Path,
) -> Written:
    """Write everything of one request into a folder of this start.

    Raises
    ------
    Refused
        If the objects for DICOM cannot be built, or are not what the mask says (`result-check-failed`).
    """
    reference = next(iter(volumes.values()))
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    inputs = {role: as_input(volume) for role, volume in volumes.items()}
    facts = InputFacts(str(row["options"]["kind"]), tuple(row["options"]["notes"]))
    timings = {**row["seconds"]}
    result = result_json(findings, timings, inputs, facts)
    files.write_sealed(target / "mask.nii.gz", nifti_bytes(mask, reference.affine))
    files.write_sealed(target / "result.json", (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    names = ["mask.nii.gz", "result.json", "overlay.png", PLANES]
    say = words(tools.settings.node.language)
    banner = f"{say['unreviewed']} · {say['banner']}. {say['not_clinical']}"
    if facts.kind == "dicom":
        names += _write_objects(tools, row, reference, mask, findings, target)
    else:
        picture = montage(reference, mask, findings.regions, banner, say["slice"])
        files.write_sealed(target / "overlay.png", picture)
    files.write_sealed(target / PLANES, three_planes(reference, mask, findings.regions, banner, say))
    shape = list(reference.array.shape)
    answer = {
        "device": findings.model.device,
        "backend": findings.model.backend,
        "precision": findings.model.precision,
        "model": result["model"],
        "classes": result["classes"],
        "shape": shape[::-1] if facts.kind == "nifti" else shape,
        "voxels": int(mask.size),
        "parameters": count_parameters(package.folder / package.description.weights[0]),
        "from_cache": is_hit(findings),
    }
    return Written(answer, {name: f"{target.name}/{name}" for name in names})


def _write_objects(
    tools: Tools, row: RowMapping, reference: Volume, mask: Mask, findings: Findings, target: Path
) -> list[str]:
    """SEG, PDF and SR for the patient of these images, checked as those of the road are."""
    node = tools.settings.node
    identity = RunIdentity(
        run_key=digest(["prediction", row["public_id"], findings.model.digest_sha256]),
        site_namespace=tools.site_namespace,
        created=row["created_at"],
        study_uid=reference.study_uid,
        notes=tuple(row["options"]["notes"]),
        timezone_offset=node.offset_of(reference.attributes),
    )
    built = build(identity, reference, mask, findings, producer(tools), language=node.language)
    check(built, reference, mask, findings)
    written = ["report.pdf"]
    for item in built.objects:
        files.write_sealed(target / _OBJECTS[item.kind], item.data)
        written.append(_OBJECTS[item.kind])
    files.write_sealed(target / "report.pdf", built.pdf)
    files.write_sealed(target / "overlay.png", built.overlay_png)
    return written
