"""The page as an Encapsulated PDF (PS3.3 A.45.1, C.24.2)."""

from __future__ import annotations

from pydicom.dataset import Dataset

from ai_engine.findings import Code
from dicom_node.results import text
from dicom_node.results.objects import Job, code_item, finish, image_item, object_item, stamp
from dicom_node.results.phrases import words
from dicom_node.words import ObjectKind, ResultObject

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.104.1"
_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
_ST_LONG_ENOUGH = 256


def build_encapsulated(job: Job, pdf: bytes, made: ResultObject | None) -> ResultObject:
    """Wrap the page; its sources are the images and `made` (segmentation or capture), never the report, sent later."""
    document = Dataset()
    document.SOPClassUID = SOP_CLASS_UID
    document.ConversionType = "SYN"
    document.BurnedInAnnotation = "YES"
    document.RecognizableVisualFeatures = "NO"
    document.AcquisitionDateTime = _acquired(job)
    title = words(job.language)["document_title"].format(title=text.plain(job.told(job.findings.model.title)))
    document.DocumentTitle = text.plain(title)[:_ST_LONG_ENOUGH]
    document.ConceptNameCodeSequence = [code_item(_REPORT)]
    document.VerificationFlag = "UNVERIFIED"
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    sources = [image_item(i, with_frames=True) for series in job.sources.series for i in series.images]
    if made is not None:
        sources.append(object_item(made))
    document.SourceInstanceSequence = sources
    document.EncapsulatedDocumentLength = len(pdf)
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    stamp(document, job, ObjectKind.PDF, "DOC")
    return finish(document, ObjectKind.PDF)


def _acquired(job: Job) -> str:
    """(0008,002A), type 2: when the first image was acquired, with the zone of the study."""
    acquired = job.sources.series[0].acquired
    return f"{acquired}{text.dicom_offset(job.sources.offset_minutes)}" if acquired else ""
