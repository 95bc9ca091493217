"""Rejecting a result set that was superseded or withdrawn (Key Object Selection, PS3.3 A.35.4; PS3.16 TID 2010).

A late slice makes a new revision whose results replace the old ones.  The old objects are never deleted; a document
titled (113001, DCM, Rejected for Quality Reasons) names every one of them, so that lists do not show two results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.dataset import Dataset

from ai_engine.findings import Code
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results import text
from dicom_node.results.objects import Job, code_item, finish, image_item, stamp, study_references
from dicom_node.results.sources import ImageReference
from dicom_node.words import ObjectKind, ResultObject

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.88.59"
REJECTED = Code("113001", "DCM", "Rejected for Quality Reasons")
_DESCRIPTION = Code("113012", "DCM", "Key Object Description")
_OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
_DEVICE = Code("121007", "DCM", "Device")
_IMAGE_KINDS = (ObjectKind.SEG.value, ObjectKind.SC.value)


def build_ko(job: Job, predecessor: Sequence[Mapping[str, Any]], because: str = "") -> ResultObject:
    """The key object selection that rejects every object of an older result set.

    Parameters
    ----------
    predecessor
        ``{"kind", "sop_class_uid", "sop_instance_uid", "series_uid"}`` per object, as in `RunIdentity.predecessor`.
    because
        Why nothing takes the place of the objects, in a sentence; empty where a newer result does.

    Raises
    ------
    Refused
        `validation` when there is nothing to reject.
    """
    rejected = [old for old in predecessor if old["kind"] not in (ObjectKind.KO.value, ObjectKind.REPORT.value)]
    if not rejected:
        raise Refused(RefusalCode.VALIDATION, "at least one object of an older result set", "none")
    document = Dataset()
    document.SOPClassUID = SOP_CLASS_UID
    document.ReferencedPerformedProcedureStepSequence = []
    document.ValueType = "CONTAINER"
    document.ConceptNameCodeSequence = [code_item(REJECTED)]
    document.ContinuityOfContent = "SEPARATE"
    document.ContentTemplateSequence = [_template("2010")]
    document.ContentSequence = [*_observer(job), _description(job, because), *(_reference(old) for old in rejected)]
    by_series = [(str(old["series_uid"]), [_item(old)]) for old in rejected]
    document.CurrentRequestedProcedureEvidenceSequence = [study_references(job.identity.study_uid, by_series)]
    stamp(document, job, ObjectKind.KO, "KO")
    return finish(document, ObjectKind.KO)


def _template(identifier: str) -> Dataset:
    item = Dataset()
    item.MappingResource = "DCMR"
    item.TemplateIdentifier = identifier
    return item


def _item(old: Mapping[str, Any]) -> Dataset:
    return image_item(ImageReference(str(old["sop_class_uid"]), str(old["sop_instance_uid"])))


def _reference(old: Mapping[str, Any]) -> Dataset:
    """An IMAGE or COMPOSITE item; TID 2010 gives neither a concept name."""
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "IMAGE" if old["kind"] in _IMAGE_KINDS else "COMPOSITE"
    item.ReferencedSOPSequence = [_item(old)]
    return item


def _content(relationship: str, value_type: str, name: Code) -> Dataset:
    item = Dataset()
    item.RelationshipType = relationship
    item.ValueType = value_type
    item.ConceptNameCodeSequence = [code_item(name)]
    return item


def _observer(job: Job) -> list[Dataset]:
    """TID 1002 with TID 1004: the device that rejects."""
    kind = _content("HAS OBS CONTEXT", "CODE", _OBSERVER_TYPE)
    kind.ConceptCodeSequence = [code_item(_DEVICE)]
    uid = _content("HAS OBS CONTEXT", "UIDREF", Code("121012", "DCM", "Device Observer UID"))
    uid.UID = job.device_uid
    name = _content("HAS OBS CONTEXT", "TEXT", Code("121013", "DCM", "Device Observer Name"))
    model = job.findings.model
    name.TextValue = text.cut(model.name, text.LO_MAX, model.version)
    return [kind, uid, name]


def _description(job: Job, because: str) -> Dataset:
    item = _content("CONTAINS", "TEXT", _DESCRIPTION)
    if because:
        item.TextValue = f"These software results are withdrawn. {because}"
        return item
    item.TextValue = (
        "These software results are superseded: more images of the series arrived after they were made. "
        f"The current result is revision {job.identity.revision_number}."
    )
    return item
