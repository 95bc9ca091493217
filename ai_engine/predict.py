"""The pure function behind ``ai-node predict``: volumes in; mask, findings and ``result.json`` out.

Reading files and writing objects is the command's business.  The form of ``result.json`` is
``docs/result.schema.json``; it holds numbers, standard terms and the package's own words, and no patient data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ai_engine.findings import Code, Findings, Measurement, Region
from ai_engine.pictures import InputPicture
from ai_engine.prediction import InputVolume, Prediction
from dicom_node.refusals import Refusal

RESULT_SCHEMA_VERSION = "1"
NO_REGION = "no region above threshold"
"""Said when a run found nothing; it never means "normal" (standards digest 2.6)."""


class Predictor(Protocol):
    """What runs a case: `ai_engine.engine.Engine` in this process, or `ai_engine.host.ModelHost` in a child."""

    def __call__(self, inputs: Mapping[str, InputVolume]) -> Prediction: ...


@dataclass(frozen=True)
class InputFacts:
    """What ``result.json`` says about the input besides the grids.

    Attributes
    ----------
    kind
        ``dicom`` or ``nifti``.
    notes
        What was handled on the way in and what a reader must know, e.g. that the caller declared the spacing.
    """

    kind: str
    notes: tuple[str, ...] = ()


def predict(run: Predictor, inputs: Mapping[str, InputVolume], facts: InputFacts) -> tuple[Prediction, dict[str, Any]]:
    """Run one case and say everything about it.

    Parameters
    ----------
    run
        ``Engine(...).run`` or ``ModelHost(...).predict``.
    inputs
        Role to volume, all on one grid.

    Returns
    -------
    prediction, result
        The prediction, and the tree of ``result.json`` (schema: ``docs/result.schema.json``).

    Raises
    ------
    Refused
        If the input is not what the model was made for; `refused_result` says it as ``result.json``.
    """
    prediction = run(inputs)
    return prediction, result_json(prediction.findings, prediction.timings_s, inputs, facts)


def result_json(
    findings: Findings, timings_s: Mapping[str, float], inputs: Mapping[str, InputVolume], facts: InputFacts
) -> dict[str, Any]:
    """The tree of ``result.json`` for a run that was done."""
    model = findings.model
    return {
        "schema_version": RESULT_SCHEMA_VERSION,
        "model": {
            "name": model.name,
            "version": model.version,
            "digest": model.digest_sha256,
            "title": model.title,
            "intended_use": model.intended_use,
            "settings": dict(model.settings),
        },
        "input": _input(inputs, facts),
        "device": model.device,
        "backend": model.backend,
        "precision": model.precision,
        "timings_s": {stage: round(seconds, 4) for stage, seconds in timings_s.items()},
        "classes": [_class(region) for region in findings.regions],
        "measurements": [entry for region in findings.regions for entry in _measurements(region)],
        "findings": [_finding(region) for region in findings.regions] + _observations(findings),
        "notes": list(findings.notes),
    }


def picture_json(
    findings: Findings, timings_s: Mapping[str, float], picture: InputPicture, facts: InputFacts
) -> dict[str, Any]:
    """The tree of ``result.json`` for a photograph that was answered: no classes, and a statement per output."""
    return {
        **result_json(findings, timings_s, {}, facts),
        "input": _picture_input(picture, facts),
        "measurements": [
            {"region": entry.key, **measured}
            for entry in findings.observations
            for measured in map(_measured, entry.measurements)
        ],
    }


def refused_picture(
    name: str, version: str, digest: str, refusal: Refusal, picture: InputPicture | None, facts: InputFacts
) -> dict[str, Any]:
    """The tree of ``result.json`` for a photograph that was refused: why, and no number of any kind."""
    told = refused_result(name, version, digest, refusal, {}, facts)
    return told if picture is None else {**told, "input": _picture_input(picture, facts)}


def _picture_input(picture: InputPicture, facts: InputFacts) -> dict[str, Any]:
    rows, columns = picture.pixels.shape[:2]
    return {
        "kind": facts.kind,
        "roles": {},
        "picture": {
            "rows": rows,
            "columns": columns,
            "modality": picture.modality,
            "declared": picture.declared,
            "body_site": _code(picture.body_site),
        },
        "notes": list(facts.notes),
    }


def refused_result(
    name: str,
    version: str,
    digest: str,
    refusal: Refusal,
    inputs: Mapping[str, InputVolume],
    facts: InputFacts,
) -> dict[str, Any]:
    """The tree of ``result.json`` for an input that was refused: no classes, no measurements, and why."""
    return {
        "schema_version": RESULT_SCHEMA_VERSION,
        "model": {"name": name, "version": version, "digest": digest},
        "input": _input(inputs, facts),
        "refusal": refusal.to_json(),
    }


def _input(inputs: Mapping[str, InputVolume], facts: InputFacts) -> dict[str, Any]:
    return {
        "kind": facts.kind,
        "roles": {
            role: {
                "shape": list(volume.array.shape),
                "spacing_mm": [round(value, 6) for value in volume.affine.spacing_mm],
                **({"modality": volume.modality} if volume.modality else {}),
            }
            for role, volume in sorted(inputs.items())
        },
        "notes": list(facts.notes),
    }


def _class(region: Region) -> dict[str, Any]:
    volume = region.measure("volume")
    return {
        "label": region.label,
        "composite_of": list(region.composite_of),
        "key": region.key,
        "name": region.name,
        "abbreviation": region.abbreviation,
        "color": "#{:02x}{:02x}{:02x}".format(*region.color_rgb),
        "voxels": region.voxels,
        "percent": region.percent,
        "volume_ml": volume.value if volume is not None else 0.0,
        "confidence": region.confidence,
        "components": region.components,
        "removed": list(region.removed),
    }


def _measurements(region: Region) -> Sequence[dict[str, Any]]:
    return [{"region": region.key, **_measured(entry)} for entry in region.measurements]


def _measured(entry: Measurement) -> dict[str, Any]:
    return {
        "key": entry.key,
        "name": asdict(entry.name),
        "value": entry.value,
        "unit": asdict(entry.unit),
        "method": _code(entry.method),
        "derivation": _code(entry.derivation),
        "note": entry.note,
    }


def _finding(region: Region) -> dict[str, Any]:
    return {
        "key": region.key,
        "name": region.name,
        "category": asdict(region.category),
        "type": asdict(region.type),
        "site": asdict(region.site),
        "present": region.present,
        "statement": f"{region.name}: marked by the model" if region.present else f"{region.name}: {NO_REGION}",
    }


def _observations(findings: Findings) -> list[dict[str, Any]]:
    return [
        {
            "key": entry.key,
            "name": entry.name.meaning,
            "type": asdict(entry.finding),
            "site": asdict(entry.site),
            "present": None,
            "statement": entry.category.meaning if entry.category is not None else entry.finding.meaning,
            "threshold": entry.threshold,
            "category": _code(entry.category),
        }
        for entry in findings.observations
    ]


def _code(code: Code | None) -> dict[str, str] | None:
    return None if code is None else asdict(code)
