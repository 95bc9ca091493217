"""The mask as a Segmentation object (PS3.3 A.51, C.8.20).

BINARY, one segment per region that is present, every plane written (`omit_empty_frames` off: viewers have shifted
segments at gaps), on the grid of the reference series with its own position and orientation strings.  Each frame names
the image, and for multi-frame sources the frame, that it was drawn on.  Composites are no segments: they would double
overlay and volume; the structured report carries them.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset

from ai_engine.findings import Code, Region
from dicom_node.results import text, uids
from dicom_node.results.objects import Job, finish, image_item, stamp
from dicom_node.results.sources import SliceGeometry
from dicom_node.words import ObjectKind, ResultObject, Volume

CONTENT_LABEL = "AI_SEG"
_STANDS_FOR_A_FRAME = "1.2.840.10008.5.1.4.1.1.4"
_FAMILY = Code("123110", "DCM", "Artificial Intelligence")


def concept(code: Code) -> CodedConcept:
    """A code as highdicom wants it, its meaning within 64 characters."""
    return CodedConcept(code.value, code.scheme, text.cut(code.meaning, text.LO_MAX))


def segmented(regions: Sequence[Region]) -> tuple[Region, ...]:
    """The regions that become segments, in order: present, and a label of the mask rather than a composite."""
    return tuple(region for region in regions if region.label is not None and region.present)


def segment_numbers(regions: Sequence[Region]) -> dict[str, int]:
    """Region key to Segment Number, 1..n without gaps."""
    return {region.key: number for number, region in enumerate(segmented(regions), start=1)}


def algorithm_parameters(job: Job) -> dict[str, str]:
    """(0066,0032) and (111002, DCM): what a person needs to run the same thing again."""
    model = job.findings.model
    parameters = {
        "weights_sha256": model.digest_sha256,
        "framework": model.framework,
        "backend": model.backend,
        "precision": model.precision,
    }
    parameters.update({text.plain(k): text.plain(v) for k, v in model.settings})
    return parameters


def build_seg(job: Job, volume: Volume, mask: npt.NDArray[np.uint8]) -> ResultObject | None:
    """The Segmentation of a run, or None when no region is present.

    Parameters
    ----------
    mask
        (S, R, C) uint8 on the volume's own grid; values are the `label` of the findings' regions.
    """
    regions = segmented(job.findings.regions)
    if not regions:
        return None
    numbered = np.zeros(256, dtype=np.uint8)
    for number, region in enumerate(regions, start=1):
        numbered[region.label] = number
    seg = Segmentation(
        source_images=_source_images(job, volume),
        pixel_array=numbered[mask],
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(job, n, r) for n, r in enumerate(regions, start=1)],
        series_instance_uid=job.series_uid(ObjectKind.SEG),
        series_number=job.series_number(ObjectKind.SEG),
        sop_instance_uid=job.instance_uid(ObjectKind.SEG),
        instance_number=1,
        manufacturer=job.producer.manufacturer,
        manufacturer_model_name=job.producer.product,
        software_versions=job.versions,
        device_serial_number=job.producer.instance_id,
        content_label=CONTENT_LABEL,
        content_description="Software output, not reviewed",
        content_creator_name=_creator(job),
        pixel_measures=_pixel_measures(job, volume),
        omit_empty_frames=False,
        specific_character_set="ISO_IR 192",
    )
    _settle(seg, job, volume)
    stamp(seg, job, ObjectKind.SEG, "SEG")
    return finish(seg, ObjectKind.SEG)


def _creator(job: Job) -> str:
    """Content Creator's Name: the node, never a clinician (PN, family name only)."""
    return text.plain(job.producer.product).replace("^", " ").replace("=", " ")[:63] + "^"


def _source_images(job: Job, volume: Volume) -> list[Dataset]:
    """One single-frame header per slice: what highdicom reads of a source, and nothing else."""
    rows, columns = volume.array.shape[1:]
    images: list[Dataset] = []
    for source, geometry in zip(volume.slices, job.sources.slices, strict=True):
        image = Dataset()
        if not images:  # highdicom reads patient and study from the first source only
            for element in job.sources.attributes:
                image[element.tag] = element
        image.StudyInstanceUID = job.identity.study_uid
        image.SeriesInstanceUID = volume.series_uid
        # For the library a frame stands as a single image; `_settle` names the true object and frame afterwards.
        image.SOPClassUID = source.sop_class_uid if source.frame_number is None else _STANDS_FOR_A_FRAME
        image.SOPInstanceUID = source.sop_instance_uid
        image.FrameOfReferenceUID = volume.frame_of_reference_uid
        image.Modality = volume.modality
        image.Rows, image.Columns = rows, columns
        image.ImagePositionPatient = list(geometry.position)
        image.ImageOrientationPatient = list(geometry.orientation)
        image.PixelSpacing = list(geometry.pixel_spacing)
        image.SliceThickness = text.decimal_string(volume.affine.spacing_mm[0])
        images.append(image)
    return images


def _pixel_measures(job: Job, volume: Volume) -> hd.PixelMeasuresSequence:
    """Spacing between slices is the true step of the positions; thickness is the source's own, if it has one."""
    first: SliceGeometry = job.sources.slices[0]
    step = float(text.decimal_string(volume.affine.spacing_mm[0]))
    thickness = float(first.slice_thickness) if first.slice_thickness else 0.0
    return hd.PixelMeasuresSequence(
        pixel_spacing=[float(v) for v in first.pixel_spacing],
        slice_thickness=thickness if thickness > 0 else step,
        spacing_between_slices=step,
    )


def _description(job: Job, number: int, region: Region) -> SegmentDescription:
    model = job.findings.model
    description = SegmentDescription(
        segment_number=number,
        segment_label=text.cut(region.name, text.LO_MAX),
        segmented_property_category=concept(region.category),
        segmented_property_type=concept(region.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=text.cut(model.name, text.LO_MAX),
            family=concept(_FAMILY),
            version=text.cut(model.version, text.LO_MAX),
            source=text.cut(model.manufacturer, text.LO_MAX),
            parameters=algorithm_parameters(job),
        ),
        tracking_uid=job.tracking_uid(region.key),
        tracking_id=region.key,
        anatomic_regions=[concept(region.site)],
        display_color=CIELabColor(0, 0, 0),
    )
    description.RecommendedDisplayCIELabValue = list(region.color_cielab)
    return description


def _settle(seg: Segmentation, job: Job, volume: Volume) -> None:
    """Fix what the library takes from clock, chance or its own rounding, and complete the references."""
    organization = uids.dimension_organization_uid(job.identity, job.producer.uid_root)
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    seg.FrameOfReferenceUID = volume.frame_of_reference_uid
    seg.PositionReferenceIndicator = job.sources.position_reference
    shared = seg.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(job.sources.slices[0].orientation)
    shared.PixelMeasuresSequence[0].PixelSpacing = list(job.sources.slices[0].pixel_spacing)
    # The library moves the segment of a one-segment object to the shared group; readers expect it at each frame.
    only_segment = shared.get("SegmentIdentificationSequence")
    if only_segment is not None:
        del shared.SegmentIdentificationSequence
    slice_of = _slice_by_index(seg, volume)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        index = slice_of[frame.FrameContentSequence[0].DimensionIndexValues[1]]
        source = volume.slices[index]
        if only_segment is not None:
            frame.SegmentIdentificationSequence = only_segment
        frame.PlanePositionSequence[0].ImagePositionPatient = list(job.sources.slices[index].position)
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        reference.ReferencedSOPClassUID = source.sop_class_uid
        reference.ReferencedSOPInstanceUID = source.sop_instance_uid
        if source.frame_number is not None:
            reference.ReferencedFrameNumber = source.frame_number
    seg.ReferencedSeriesSequence = _referenced_series(job)
    seg.SourceImageSequence = [image_item(image) for series in job.sources.series for image in series.images]
    seg.LossyImageCompression = "01" if job.sources.lossy else "00"
    if job.sources.lossy:
        ratios, methods = job.sources.lossy
        if ratios:
            seg.LossyImageCompressionRatio = list(ratios)
        if methods:
            seg.LossyImageCompressionMethod = list(methods)


def _slice_by_index(seg: Segmentation, volume: Volume) -> dict[int, int]:
    """Dimension index of a plane position (1-based) to slice number in the volume.

    The library orders planes by position along the stack's normal; which end comes first is its choice, so the
    positions of the first segment's frames decide.
    """
    count = len(volume.slices)
    positions = np.array(
        [f.PlanePositionSequence[0].ImagePositionPatient for f in seg.PerFrameFunctionalGroupsSequence[:count]],
        dtype=np.float64,
    )
    indices = [f.FrameContentSequence[0].DimensionIndexValues[1] for f in seg.PerFrameFunctionalGroupsSequence[:count]]
    slices = np.rint(volume.affine.to_index(positions)[:, 0]).astype(int)
    return dict(zip(indices, slices.tolist(), strict=True))


def _referenced_series(job: Job) -> list[Dataset]:
    """Common Instance Reference: the series the mask is drawn on first, then the others (OHIF honours the first)."""
    items = []
    for series in job.sources.series:
        item = Dataset()
        item.SeriesInstanceUID = series.series_uid
        item.ReferencedInstanceSequence = [image_item(image) for image in series.images]
        items.append(item)
    return items
