"""The numbers as a structured report (Comprehensive 3D SR, PS3.3 A.35.13; PS3.16 TID 1500).

One measurement group per region: TID 1411 with a reference to its segment where there is one, TID 1501 for composites,
for regions that are absent and for image-level observations.  "Ran, no region above threshold" is such a group with
volume 0 and the evaluation *Absent*; it never says normal.  Values keep all the digits a DS holds and the double
beside them (0040,A161): rounding is for the page.

The document is complete, unverified and preliminary: nobody has looked at it yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.sr import RelationshipTypeValues as Rel
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai_engine.findings import Code, Measurement, Observation, Region
from dicom_node.results import text
from dicom_node.results.image_library import image_library, picture_library
from dicom_node.results.objects import Job, finish, object_item, source_references, stamp, study_references
from dicom_node.results.remarks import remarks
from dicom_node.results.seg import algorithm_parameters, concept, segment_numbers
from dicom_node.results.uids import tracking_key
from dicom_node.words import ObjectKind, Picture, ResultObject, SliceSource, Volume

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.88.34"
ENHANCED_SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.88.22"
"""For statements about a whole picture: nothing in them has coordinates (PS3.3 A.35.2)."""

IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
VOLUME = Code("118565006", "SCT", "Volume")
PRESENCE = Code("121052", "DCM", "Presence of property")
ABSENT = Code("272519000", "SCT", "Absent")
_CUBIC_CENTIMETRE = Code("cm3", "UCUM", "cubic centimeter")
_SUM_OF_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")
_NEOPLASM = Code("108369006", "SCT", "Neoplasm")
_ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
_COMMENT = Code("121106", "DCM", "Comment")
_FAMILY = Code("123110", "DCM", "Artificial Intelligence")
_CATEGORY_OF_OBSERVATION = Code("operating-point-category", "99AINODE", "Model operating-point category")
_THRESHOLD = Code("operating-point", "99AINODE", "Model operating point")
_PROCEDURES = {
    "MR": Code("25056-3", "LN", "MR Unspecified body region"),
    "CT": Code("25045-6", "LN", "CT Unspecified body region"),
}
_ANY_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
_NO_REGION_KEY = "no-region"


def build_sr(
    job: Job, volume: Volume, mask: npt.NDArray[np.uint8], seg: ResultObject | None, others: Sequence[ResultObject]
) -> ResultObject:
    """The structured report of a run.

    Parameters
    ----------
    mask
        (S, R, C) uint8 on the volume's own grid; composites name the images on which they lie.
    seg
        The segmentation its groups point at; None when no region is present.
    others
        Further objects of the result set that the report lists as evidence (secondary captures; never the PDF).
    """
    report = hd.sr.MeasurementReport(
        observation_context=_observation_context(job),
        procedure_reported=concept(_PROCEDURES.get(volume.modality, _ANY_PROCEDURE)),
        imaging_measurements=_groups(job, volume, mask, seg),
    )
    *context, measurements = report[0].ContentSequence
    # TID 1500 rows: the image library stands before the measurements, qualitative evaluations after them.
    children = [*context, image_library(job.sources, volume), measurements, _evaluations(job, volume.notes)]
    made = [o for o in (seg, *others) if o is not None]
    return finish(_document(job, report[0], children, made, SOP_CLASS_UID), ObjectKind.SR)


def build_picture_sr(job: Job, picture: Picture, others: Sequence[ResultObject]) -> ResultObject:
    """The structured report of a photograph: one group per output, Enhanced SR.

    Parameters
    ----------
    others
        Further objects of the result set that the report lists as evidence (the secondary capture; never the PDF).
    """
    source = SliceSource(picture.sop_class_uid, picture.sop_instance_uid, picture.path)
    report = hd.sr.MeasurementReport(
        observation_context=_observation_context(job),
        procedure_reported=concept(_ANY_PROCEDURE),
        imaging_measurements=[
            _observation(job, o, source, tracking_key(picture.sop_instance_uid, o.key))
            for o in job.findings.observations
        ],
    )
    *context, measurements = report[0].ContentSequence
    children = [*context, picture_library(job.sources, picture), measurements, _evaluations(job, picture.notes)]
    return finish(_document(job, report[0], children, others, ENHANCED_SOP_CLASS_UID), ObjectKind.SR)


def _document(
    job: Job, root: Dataset, children: Sequence[Dataset], made: Sequence[ResultObject], sop_class_uid: str
) -> Dataset:
    """SR Document General and SR Document Content around the tree (PS3.3 C.17.2, C.17.3)."""
    document = Dataset()
    document.SOPClassUID = sop_class_uid
    for element in root:
        if element.keyword not in ("ContentSequence", "RelationshipType"):
            document[element.tag] = element
    document.ContentSequence = list(children)
    document.CompletionFlag = "COMPLETE"
    document.VerificationFlag = "UNVERIFIED"
    document.PreliminaryFlag = "PRELIMINARY"
    document.AuthorObserverSequence = [_author(job)]
    document.PerformedProcedureCodeSequence = []
    document.ReferencedPerformedProcedureStepSequence = []
    evidence = [source_references(series) for series in job.sources.series]
    evidence += [(o.series_uid, [object_item(o)]) for o in made]
    document.CurrentRequestedProcedureEvidenceSequence = [study_references(job.identity.study_uid, evidence)]
    predecessors = _predecessors(job)
    if predecessors:
        document.PredecessorDocumentsSequence = [study_references(job.identity.study_uid, predecessors)]
    stamp(document, job, ObjectKind.SR, "SR")
    return document


def _author(job: Job) -> Dataset:
    """Author Observer: a device (PS3.3 table C.17-2)."""
    author = Dataset()
    author.ObserverType = "DEV"
    author.Manufacturer = text.cut(job.findings.model.manufacturer, text.LO_MAX)
    author.ManufacturerModelName = text.cut(job.findings.model.name, text.LO_MAX)
    author.DeviceUID = job.device_uid
    author.StationName = text.cut(job.producer.instance_id, text.SH_MAX)
    author.InstitutionName = ""
    author.InstitutionCodeSequence = []
    return author


def _predecessors(job: Job) -> list[tuple[str, list[Dataset]]]:
    """The structured report that this one replaces."""
    result = []
    for old in (job.identity.predecessor or {}).get("objects", ()):
        if old["kind"] == ObjectKind.SR.value:
            item = Dataset()
            item.ReferencedSOPClassUID = old["sop_class_uid"]
            item.ReferencedSOPInstanceUID = old["sop_instance_uid"]
            result.append((str(old["series_uid"]), [item]))
    return result


def _observation_context(job: Job) -> hd.sr.ObservationContext:
    """TID 1001 with TID 1004: the model version as observing device."""
    model = job.findings.model
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=job.device_uid,
        name=text.cut(model.name, text.LO_MAX, model.version),
        manufacturer_name=text.cut(model.manufacturer, text.LO_MAX),
        model_name=text.cut(model.name, text.LO_MAX),
        serial_number=text.cut(job.producer.instance_id, text.LO_MAX),
    )
    return hd.sr.ObservationContext(hd.sr.ObserverContext(codes.DCM.Device, device))


def _evaluations(job: Job, notes: tuple[str, ...]) -> Dataset:
    """TID 1500 *Qualitative Evaluations*: what a reader must know, as text."""
    container = hd.sr.ContainerContentItem(
        name=concept(_QUALITATIVE_EVALUATIONS), relationship_type=Rel.CONTAINS, is_content_continuous=False
    )
    container.ContentSequence = hd.sr.ContentSequence(
        [
            hd.sr.TextContentItem(name=concept(_COMMENT), value=remark, relationship_type=Rel.CONTAINS)
            for remark in remarks(job, "en", notes)
        ]
    )
    return container


# -- measurement groups -----------------------------------------------------------------------------------------------


def _groups(
    job: Job, volume: Volume, mask: npt.NDArray[np.uint8], seg: ResultObject | None
) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
    numbers = segment_numbers(job.findings.regions)
    groups = []
    for region in job.findings.regions:
        if not region.present:
            groups.append(_absent(job, region.key, region.type, region.category, region.site))
        elif region.key in numbers and seg is not None:
            groups.append(_segmented(job, region, seg, numbers[region.key], volume.series_uid))
        else:
            groups.append(_composite(job, region, volume, mask))
    groups += [_observation(job, o, volume.slices[0], o.key) for o in job.findings.observations]
    if not groups:
        site = Code("12738006", "SCT", "Brain")
        groups.append(_absent(job, _NO_REGION_KEY, _NEOPLASM, _ABNORMAL_STRUCTURE, site))
    return groups


def _tracking(job: Job, key: str, tracked: str = "") -> hd.sr.TrackingIdentifier:
    """Identifier and UID of a region or statement; `tracked` is what the UID derives from where it is not the key."""
    return hd.sr.TrackingIdentifier(uid=job.tracking_uid(tracked or key), identifier=key)


def _algorithm(job: Job) -> hd.sr.AlgorithmIdentification:
    """TID 4019."""
    model = job.findings.model
    return hd.sr.AlgorithmIdentification(
        name=text.cut(model.name, text.LO_MAX),
        version=text.cut(model.version, text.LO_MAX),
        parameters=[f"{key}={value}" for key, value in algorithm_parameters(job).items()],
        family=concept(_FAMILY),
        manufacturer=text.cut(model.manufacturer, text.LO_MAX),
    )


def _segmented(
    job: Job, region: Region, seg: ResultObject, number: int, series_uid: str
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """TID 1411."""
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(job, region.key),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=seg.sop_class_uid,
            sop_instance_uid=seg.sop_instance_uid,
            segment_number=number,
            source_series=hd.sr.SourceSeriesForSegmentation(series_uid),
        ),
        finding_type=concept(region.type),
        finding_category=concept(region.category),
        finding_sites=[hd.sr.FindingSite(concept(region.site))],
        algorithm_id=_algorithm(job),
        measurements=[_measurement(m) for m in region.measurements],
    )


def _composite(
    job: Job, region: Region, volume: Volume, mask: npt.NDArray[np.uint8]
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 of a union of labels: the images it lies on instead of a segment."""
    labels = region.composite_of or ((region.label,) if region.label is not None else ())
    on_slice = [bool(np.isin(plane, labels).any()) for plane in mask]
    images: dict[tuple[str, str], list[int]] = {}
    for source, is_hit in zip(volume.slices, on_slice, strict=True):
        if is_hit:
            frames = images.setdefault((source.sop_class_uid, source.sop_instance_uid), [])
            if source.frame_number is not None:
                frames.append(source.frame_number)
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(job, region.key),
        finding_type=concept(region.type),
        finding_category=concept(region.category),
        finding_sites=[hd.sr.FindingSite(concept(region.site))],
        algorithm_id=_algorithm(job),
        measurements=[_measurement(m) for m in region.measurements],
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(sop_class, sop_instance, sorted(frames) or None)
            for (sop_class, sop_instance), frames in images.items()
        ],
    )


def _absent(
    job: Job, key: str, finding: Code, category: Code, site: Code
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 of a region that was looked for and not found: volume 0, *Absent*."""
    nothing = Measurement("volume", VOLUME, 0.0, _CUBIC_CENTIMETRE, _SUM_OF_VOXELS)
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(job, key),
        finding_type=concept(finding),
        finding_category=concept(category),
        finding_sites=[hd.sr.FindingSite(concept(site))],
        algorithm_id=_algorithm(job),
        measurements=[_measurement(nothing)],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(concept(PRESENCE), concept(ABSENT))],
    )


def _observation(
    job: Job, observation: Observation, source: SliceSource, tracked: str
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 of an image-level statement, with its operating point."""
    measurements = [_measurement(m) for m in observation.measurements]
    if observation.threshold is not None and observation.measurements:
        unit = observation.measurements[0].unit
        measurements.append(_measurement(Measurement("threshold", _THRESHOLD, observation.threshold, unit)))
    evaluations = []
    if observation.category is not None:
        evaluations.append(
            hd.sr.QualitativeEvaluation(concept(_CATEGORY_OF_OBSERVATION), concept(observation.category))
        )
    frames = None if source.frame_number is None else [source.frame_number]
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(job, observation.key, tracked),
        finding_type=concept(observation.finding),
        finding_sites=[hd.sr.FindingSite(concept(observation.site))],
        algorithm_id=_algorithm(job),
        measurements=measurements,
        qualitative_evaluations=evaluations,
        source_images=[hd.sr.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid, frames)],
    )


def _measurement(measurement: Measurement) -> hd.sr.Measurement:
    """TID 300 / 1419: value, unit, method, derivation."""
    item = hd.sr.Measurement(
        name=concept(measurement.name),
        value=float(measurement.value),
        unit=concept(measurement.unit),
        method=None if measurement.method is None else concept(measurement.method),
        derivation=None if measurement.derivation is None else concept(measurement.derivation),
    )
    item[0].MeasuredValueSequence[0].NumericValue = text.decimal_string(float(measurement.value))
    return item
