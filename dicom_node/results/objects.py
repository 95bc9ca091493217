"""What every result object has in common: modules that PS3.3 asks of all of them, and writing to bytes.

General Series, General and Enhanced General Equipment, SOP Common with Contributing Equipment, and the patient and
study attributes of the source.  Written as Explicit VR Little Endian with a preamble of 128 zero bytes and our own
implementation identification, so that the bytes depend on nothing but the run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from ai_engine.findings import Code, Findings
from dicom_node.results import text, uids
from dicom_node.results.producer import Producer
from dicom_node.results.sources import ImageReference, SeriesUsed, SourceStudy
from dicom_node.sayings import said
from dicom_node.words import ObjectKind, ResultObject, RunIdentity

SERIES_NUMBERS = {
    ObjectKind.SEG: 9101,
    ObjectKind.SR: 9102,
    ObjectKind.PDF: 9103,
    ObjectKind.SC: 9104,
    ObjectKind.KO: 9105,
}
"""Above every acquired number, so that a viewer opens images first; + 10 x model slot."""

_PURPOSE_PROCESSING = Code("109102", "DCM", "Processing Equipment")
_SERIES_WORDS = {
    ObjectKind.SEG: "AI SEG",
    ObjectKind.SR: "AI SR",
    ObjectKind.PDF: "AI REPORT",
    ObjectKind.SC: "AI SC",
    ObjectKind.KO: "AI REJECTED",
}


@dataclass(frozen=True, eq=False)
class Job:
    """One run with everything its objects are made from."""

    identity: RunIdentity
    producer: Producer
    findings: Findings
    sources: SourceStudy
    language: str = "en"

    @property
    def created(self) -> datetime:
        """The run's time in the zone of the study: the only clock results show."""
        return text.local_time(self.identity.created, self.sources.offset_minutes)

    def told(self, sentence: str) -> str:
        """A sentence of the node or of the model's package, in the language of the page."""
        return said(sentence, self.language, self.findings.model.words.get(self.language))

    def figure(self, number: str) -> str:
        """A number as the page's language writes it."""
        return number.replace(".", ",") if self.language == "es" else number

    @property
    def device_uid(self) -> str:
        model = self.findings.model
        return self.producer.device_uid(model.name, model.version)

    def instance_uid(self, kind: ObjectKind) -> str:
        return uids.instance_uid(self.identity, kind, self.producer.uid_root)

    def series_uid(self, kind: ObjectKind) -> str:
        return uids.series_uid(self.identity, kind, self.producer.uid_root)

    def series_number(self, kind: ObjectKind) -> int:
        return SERIES_NUMBERS[kind] + 10 * self.producer.model_slot

    def tracking_uid(self, region_key: str) -> str:
        return uids.tracking_uid(
            self.identity.site_namespace, self.identity.study_uid, region_key, self.producer.uid_root
        )

    def series_description(self, kind: ObjectKind) -> str:
        """``AI SEG <title> - <model> <version> [RUO] [rev N]``, at most 64 characters with its tail kept."""
        model = self.findings.model
        tail = f"- {model.name} {model.version}"
        if self.producer.is_research_use_only:
            tail += " RUO"
        if self.identity.revision_number > 1:
            tail += f" rev {self.identity.revision_number}"
        head = f"{_SERIES_WORDS[kind]} {text.plain(model.title) or model.name}"
        return text.cut(head, text.LO_MAX, tail)

    @property
    def versions(self) -> list[str]:
        """(0018,1020): the node, then the model."""
        model = self.findings.model
        return [
            text.cut("node", text.LO_MAX, self.producer.version),
            text.cut(model.name, text.LO_MAX, model.version),
        ]


def code_item(code: Code) -> Dataset:
    """One item of a code sequence (PS3.3 table 8.8-1)."""
    item = Dataset()
    if len(code.value) > text.SH_MAX:
        item.LongCodeValue = code.value
    else:
        item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = text.cut(code.meaning, text.LO_MAX)
    return item


def contributing_equipment(job: Job) -> Dataset:
    """The algorithm as Processing Equipment: equal values in TID 1004, TID 4019 and the SEG's algorithm macro."""
    model = job.findings.model
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(_PURPOSE_PROCESSING)]
    item.Manufacturer = text.cut(model.manufacturer, text.LO_MAX)
    item.ManufacturerModelName = text.cut(model.name, text.LO_MAX)
    item.SoftwareVersions = text.cut(model.version, text.LO_MAX)
    item.DeviceUID = job.device_uid
    return item


def stamp(target: Dataset, job: Job, kind: ObjectKind, modality: str) -> None:
    """Write patient, study, series, equipment and SOP Common attributes over whatever is there."""
    for element in job.sources.attributes:
        target[element.tag] = element
    stamp_series(target, job, kind, modality)
    stamp_common(target, job, kind)


def stamp_series(target: Dataset, job: Job, kind: ObjectKind, modality: str) -> None:
    """General Series and Enhanced General Equipment (PS3.3 C.7.3.1, C.7.5.2)."""
    producer = job.producer
    target.Modality = modality
    target.SeriesInstanceUID = job.series_uid(kind)
    target.SeriesNumber = job.series_number(kind)
    target.SeriesDescription = job.series_description(kind)
    target.SeriesDate = target.ContentDate = f"{job.created:%Y%m%d}"
    target.SeriesTime = target.ContentTime = f"{job.created:%H%M%S}"
    target.InstanceNumber = 1
    target.Manufacturer = text.cut(producer.manufacturer, text.LO_MAX)
    target.ManufacturerModelName = text.cut(producer.product, text.LO_MAX)
    target.DeviceSerialNumber = text.cut(producer.instance_id, text.LO_MAX)
    target.SoftwareVersions = job.versions


def stamp_common(target: Dataset, job: Job, kind: ObjectKind) -> None:
    """SOP Common (PS3.3 C.12.1): character set, creation time, zone, contributing equipment, private schemes."""
    target.SpecificCharacterSet = "ISO_IR 192"
    target.SOPInstanceUID = job.instance_uid(kind)
    target.InstanceCreationDate = target.ContentDate
    target.InstanceCreationTime = target.ContentTime
    target.TimezoneOffsetFromUTC = text.dicom_offset(job.sources.offset_minutes)
    target.ContributingEquipmentSequence = [contributing_equipment(job)]
    schemes = [_private_scheme(name) for name in sorted(_designators(target)) if name.startswith("99")]
    if schemes:
        target.CodingSchemeIdentificationSequence = schemes


def _designators(target: Dataset) -> set[str]:
    """Coding schemes used; frames are skipped, they hold standard codes only and there are many."""
    found = set()
    for element in target:
        if element.VR != "SQ" or element.keyword == "PerFrameFunctionalGroupsSequence":
            continue
        for item in element.value:
            found |= {str(e.value) for e in item.iterall() if e.keyword == "CodingSchemeDesignator"}
    return found


def _private_scheme(designator: str) -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = designator
    item.CodingSchemeUID = uids.coding_scheme_uid(designator)
    return item


def image_item(image: ImageReference, *, with_frames: bool = False) -> Dataset:
    """A referenced SOP item (PS3.3 table 10-11, or 10-3 with frame numbers)."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    if with_frames and image.frame_numbers:
        item.ReferencedFrameNumber = list(image.frame_numbers)
    return item


def object_item(made: ResultObject) -> Dataset:
    """A reference to an object of our own."""
    return image_item(ImageReference(made.sop_class_uid, made.sop_instance_uid))


def study_references(study_uid: str, series: list[tuple[str, list[Dataset]]]) -> Dataset:
    """A hierarchical reference: study, series, instances (PS3.3 table C.17-3)."""
    study = Dataset()
    study.StudyInstanceUID = study_uid
    study.ReferencedSeriesSequence = []
    for series_uid, items in series:
        entry = Dataset()
        entry.SeriesInstanceUID = series_uid
        entry.ReferencedSOPSequence = items
        study.ReferencedSeriesSequence.append(entry)
    return study


def source_references(series: SeriesUsed) -> tuple[str, list[Dataset]]:
    """A series and its images, as `study_references` takes them."""
    return series.series_uid, [image_item(image) for image in series.images]


def finish(target: Dataset, kind: ObjectKind) -> ResultObject:
    """Write the object; from here on its bytes are fixed."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = target.SOPClassUID
    meta.MediaStorageSOPInstanceUID = target.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    plain = Dataset()
    for element in target:
        if element.tag.group != 2:
            plain[element.tag] = element
    plain.file_meta = meta
    plain.preamble = b"\0" * 128
    buffer = BytesIO()
    dcmwrite(buffer, plain, enforce_file_format=True)
    data = buffer.getvalue()
    return ResultObject(
        kind=kind,
        sop_class_uid=str(target.SOPClassUID),
        sop_instance_uid=str(target.SOPInstanceUID),
        series_uid=str(target.SeriesInstanceUID),
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
    )
