"""The image library of the structured report (PS3.16 TID 1600, 1601, 1602).

Descriptors that all images of the series share stand once, at the group; each image adds only its position.  The
reference series is listed; further series are evidence of the document.
"""

from __future__ import annotations

import highdicom as hd
from highdicom.sr import RelationshipTypeValues as Rel
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset

from ai_engine.findings import Code
from dicom_node.results import text
from dicom_node.results.sources import ImageReference, SourceStudy
from dicom_node.words import Picture, Volume

_MODALITIES = {
    "MR": Code("MR", "DCM", "Magnetic Resonance"),
    "CT": Code("CT", "DCM", "Computed Tomography"),
    "XC": Code("XC", "DCM", "External-camera Photography"),
    "GM": Code("GM", "DCM", "General Microscopy"),
    "ES": Code("ES", "DCM", "Endoscopy"),
}
_MILLIMETRE = Code("mm", "UCUM", "millimeter")
_PIXELS = Code("{pixels}", "UCUM", "pixels")


def image_library(sources: SourceStudy, volume: Volume) -> Dataset:
    """TID 1600 with one group for the reference series."""
    library = _container(Code("111028", "DCM", "Image Library"))
    group = _container(Code("126200", "DCM", "Image Library Group"))
    group.ContentSequence = [*_descriptors(sources, volume), *_images(sources)]
    library.ContentSequence = [group]
    return library


def picture_library(sources: SourceStudy, picture: Picture) -> Dataset:
    """TID 1600 with the one photograph: no descriptor speaks of a place in a patient."""
    rows, columns = picture.pixels.shape[:2]
    library = _container(Code("111028", "DCM", "Image Library"))
    group = _container(Code("126200", "DCM", "Image Library Group"))
    sizes = [
        _number(Code("110910", "DCM", "Pixel Data Rows"), float(rows), _PIXELS),
        _number(Code("110911", "DCM", "Pixel Data Columns"), float(columns), _PIXELS),
    ]
    group.ContentSequence = [*_made_by(sources, picture.modality), *sizes, *_images(sources)]
    library.ContentSequence = [group]
    return library


def _container(name: Code) -> Dataset:
    """A plain container: highdicom's own wants a concept name on every child, which TID 1601 does not give."""
    container = Dataset()
    container.RelationshipType = "CONTAINS"
    container.ValueType = "CONTAINER"
    container.ConceptNameCodeSequence = [_concept(name)]
    container.ContinuityOfContent = "SEPARATE"
    return container


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _descriptors(sources: SourceStudy, volume: Volume) -> list[Dataset]:
    """TID 1602, and 1607 for cross-sectional images."""
    items = _made_by(sources, volume.modality)
    frame = Code("112227", "DCM", "Frame of Reference UID")
    items.append(hd.sr.UIDRefContentItem(_concept(frame), volume.frame_of_reference_uid, Rel.HAS_ACQ_CONTEXT))
    _, rows, columns = volume.array.shape
    slice_step = volume.affine.spacing_mm[0]
    row_step, column_step = (float(v) for v in sources.slices[0].pixel_spacing)
    items += [
        _number(code, value, unit)
        for code, value, unit in (
            (Code("110910", "DCM", "Pixel Data Rows"), float(rows), _PIXELS),
            (Code("110911", "DCM", "Pixel Data Columns"), float(columns), _PIXELS),
            (Code("111026", "DCM", "Horizontal Pixel Spacing"), column_step, _MILLIMETRE),
            (Code("111066", "DCM", "Vertical Pixel Spacing"), row_step, _MILLIMETRE),
            (Code("112226", "DCM", "Spacing between slices"), slice_step, _MILLIMETRE),
        )
    ]
    return items


def _made_by(sources: SourceStudy, told_modality: str) -> list[Dataset]:
    """With what and when the images were made."""
    items: list[Dataset] = []
    modality = _MODALITIES.get(told_modality)
    if modality is not None:
        items.append(
            hd.sr.CodeContentItem(_concept(Code("121139", "DCM", "Modality")), _concept(modality), Rel.HAS_ACQ_CONTEXT)
        )
    acquired = sources.series[0].acquired
    if acquired:
        day = Code("126201", "DCM", "Acquisition Date")
        hour = Code("126202", "DCM", "Acquisition Time")
        items.append(hd.sr.DateContentItem(_concept(day), acquired[:8], Rel.HAS_ACQ_CONTEXT))
        items.append(hd.sr.TimeContentItem(_concept(hour), acquired[8:], Rel.HAS_ACQ_CONTEXT))
    return items


def _number(code: Code, value: float, unit: Code) -> Dataset:
    item = hd.sr.NumContentItem(_concept(code), value, _concept(unit), relationship_type=Rel.HAS_ACQ_CONTEXT)
    item.MeasuredValueSequence[0].NumericValue = text.decimal_string(value)
    return item


def _images(sources: SourceStudy) -> list[Dataset]:
    return [_image(image) for image in sources.series[0].images]


def _image(image: ImageReference) -> Dataset:
    """TID 1601: one image, without a concept name (no row of the template gives it one)."""
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "IMAGE"
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.sop_class_uid
    reference.ReferencedSOPInstanceUID = image.sop_instance_uid
    if image.frame_numbers:
        reference.ReferencedFrameNumber = list(image.frame_numbers)
    item.ReferencedSOPSequence = [reference]
    return item
