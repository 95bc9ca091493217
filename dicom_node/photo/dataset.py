"""The object around the picture: VL Photographic or Dermoscopic Photography, with every module that they ask for.

PS3.3 A.32.4 and A.32.11: Patient, General Study, General Series, Enhanced General Equipment (C.7.5.2), Acquisition
Context (C.7.6.14), General Image, Image Pixel, VL Image (C.8.12.1), Dermoscopic Image (C.8.12.13), ICC Profile
(C.11.15), SOP Common.  Type 2 attributes that nobody knows are there and empty.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from ai_engine.findings import Code
from dicom_node.body_sites import PRIVATE_SCHEME
from dicom_node.photo.decode import Decoded
from dicom_node.photo.facts import Importer, Occasion, Patient, PhotoClass
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, coding_scheme_uid
from dicom_node.words import PRODUCT

SOP_CLASS_UIDS = {
    PhotoClass.VL_PHOTOGRAPHIC: "1.2.840.10008.5.1.4.1.1.77.1.4",
    PhotoClass.DERMOSCOPIC: "1.2.840.10008.5.1.4.1.1.77.1.7",
}
MODALITIES = {PhotoClass.VL_PHOTOGRAPHIC: "XC", PhotoClass.DERMOSCOPIC: "DMS"}
MODEL_NAME = f"{PRODUCT} photo"
"""(0008,1090).  Not the product's name alone: by that results are known, which are never an input (I18)."""

_MODALITY = Code("121139", "DCM", "Modality")
_KINDS = {"dermoscopic": Code("DMS", "DCM", "Dermoscopy"), "plain": Code("XC", "DCM", "External-camera Photography")}
_DESCRIPTIONS = {"dermoscopic": "Dermoscopy photograph", "plain": "Plain photograph", "": "Photograph"}
_CHANGES_COLOURS = ("16 bits", "colours of its profile", "transparent parts")
_ST_MAX = 1024
_PSEUDONYM = "Pseudonym of the node; who it is was never said"
"""(0012,0063), LO: required beside (0012,0062) YES."""


@dataclass(frozen=True)
class Place:
    """Study, Series and SOP Instance UID of an object."""

    study_uid: str
    series_uid: str
    instance_uid: str


def photo_dataset(
    picture: Decoded,
    patient: Patient,
    occasion: Occasion,
    importer: Importer,
    photo_class: PhotoClass,
    place: Place,
) -> Dataset:
    """The whole data set."""
    target = Dataset()
    target.SpecificCharacterSet = "ISO_IR 192"
    target.SOPClassUID = SOP_CLASS_UIDS[photo_class]
    target.SOPInstanceUID = place.instance_uid
    target.StudyInstanceUID = place.study_uid
    target.SeriesInstanceUID = place.series_uid
    _patient_and_study(target, patient, occasion)
    _series_and_equipment(target, occasion, importer, photo_class)
    _image(target, picture, occasion)
    _site(target, occasion)
    _acquisition_context(target, occasion)
    if photo_class is PhotoClass.DERMOSCOPIC:
        _dermoscopic(target)
    _pixels(target, picture)
    return target


def transfer_syntax(picture: Decoded) -> str:
    """JPEG Baseline for a stream that stays as it is, Explicit VR Little Endian for pixels."""
    return str(JPEGBaseline8Bit if picture.is_untouched else ExplicitVRLittleEndian)


def _patient_and_study(target: Dataset, patient: Patient, occasion: Occasion) -> None:
    target.PatientName = patient.name.strip()
    target.PatientID = patient.id.strip()
    target.IssuerOfPatientID = patient.issuer.strip()
    target.PatientBirthDate = patient.birth_date
    target.PatientSex = patient.sex
    if patient.is_pseudonym:
        target.PatientIdentityRemoved = "YES"
        target.DeidentificationMethod = _PSEUDONYM
    moment = occasion.moment
    target.SeriesDate = target.ContentDate = target.InstanceCreationDate = f"{moment:%Y%m%d}"
    target.SeriesTime = target.ContentTime = target.InstanceCreationTime = f"{moment:%H%M%S}"
    target.TimezoneOffsetFromUTC = f"{moment:%z}"[:5]
    target.AccessionNumber = occasion.order.strip()
    target.ReferringPhysicianName = ""
    study = occasion.study
    target.StudyDate = target.SeriesDate if study is None else study.date
    target.StudyTime = target.SeriesTime if study is None else study.time
    # a new study has a number of ours, for the eye and for media (PS3.3 C.7.2.1: user or equipment generated)
    digest = hashlib.sha256(target.StudyInstanceUID.encode()).hexdigest()
    target.StudyID = f"P{digest[:10].upper()}" if study is None else study.id


def _series_and_equipment(target: Dataset, occasion: Occasion, importer: Importer, photo_class: PhotoClass) -> None:
    target.Modality = MODALITIES[photo_class]
    target.SeriesNumber = occasion.number
    is_dermoscopic = photo_class is PhotoClass.DERMOSCOPIC
    target.SeriesDescription = _DESCRIPTIONS["dermoscopic" if is_dermoscopic else occasion.declared]
    target.Manufacturer = PRODUCT
    target.ManufacturerModelName = MODEL_NAME
    target.DeviceSerialNumber = importer.serial
    target.SoftwareVersions = importer.version


def _image(target: Dataset, picture: Decoded, occasion: Occasion) -> None:
    is_derived = any(note.startswith(_CHANGES_COLOURS) for note in picture.notes)
    target.ImageType = ["DERIVED" if is_derived else "ORIGINAL", "PRIMARY"]
    if picture.notes:
        target.DerivationDescription = f"from {picture.kind.value}: {'; '.join(picture.notes)}"[:_ST_MAX]
    target.InstanceNumber = 1
    target.PatientOrientation = ""
    target.LossyImageCompression = "01" if picture.lossy_method else "00"
    if picture.lossy_method:
        target.LossyImageCompressionRatio = f"{picture.lossy_ratio:.2f}"
        target.LossyImageCompressionMethod = picture.lossy_method
    if occasion.laterality:
        target.ImageLaterality = occasion.laterality
    elif occasion.body_site is not None and not occasion.body_site.is_paired:
        target.ImageLaterality = "U"
    else:
        target.Laterality = ""  # type 2C: paired, and nobody said which


def _site(target: Dataset, occasion: Occasion) -> None:
    if occasion.body_site is None:
        return
    code = occasion.body_site.code
    target.AnatomicRegionSequence = [_item(code)]
    if code.scheme == PRIVATE_SCHEME:
        scheme = Dataset()
        scheme.CodingSchemeDesignator = code.scheme
        scheme.CodingSchemeUID = coding_scheme_uid(code.scheme)
        target.CodingSchemeIdentificationSequence = [scheme]


def _acquisition_context(target: Dataset, occasion: Occasion) -> None:
    """Kind of photograph as declared; an empty sequence where nobody said (type 2)."""
    target.AcquisitionContextSequence = []
    if not occasion.declared:
        return
    item = Dataset()
    item.ValueType = "CODE"
    item.ConceptNameCodeSequence = [_item(_MODALITY)]
    item.ConceptCodeSequence = [_item(_KINDS[occasion.declared])]
    target.AcquisitionContextSequence.append(item)


def _dermoscopic(target: Dataset) -> None:
    """Whether a patient could be recognised nobody knows, so YES; of the instrument nothing is known."""
    target.RecognizableVisualFeatures = "YES"
    target.LightSourcePolarization = ""
    target.ContactMethod = ""
    target.EmitterColorTemperature = None
    target.OpticalMagnificationFactor = None


def _pixels(target: Dataset, picture: Decoded) -> None:
    target.SamplesPerPixel = 3
    target.PhotometricInterpretation = picture.photometric
    target.PlanarConfiguration = 0
    target.Rows, target.Columns = picture.rows, picture.columns
    target.BitsAllocated = target.BitsStored = 8
    target.HighBit = 7
    target.PixelRepresentation = 0
    if picture.profile:
        target.ICCProfile = picture.profile + b"\0" * (len(picture.profile) % 2)
        if picture.color_space:
            target.ColorSpace = picture.color_space
    if picture.is_untouched:
        target.PixelData = encapsulate([picture.payload])
        target["PixelData"].VR = "OB"
        target["PixelData"].is_undefined_length = True
    else:
        target.PixelData = picture.payload + b"\0" * (len(picture.payload) % 2)
        target["PixelData"].VR = "OB"


def written(target: Dataset, syntax: str) -> bytes:
    """The Part 10 file; from here on its bytes are fixed."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = target.SOPClassUID
    meta.MediaStorageSOPInstanceUID = target.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    target.file_meta = meta
    target.preamble = b"\0" * 128
    buffer = BytesIO()
    dcmwrite(buffer, target, enforce_file_format=True)
    return buffer.getvalue()


def _item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item
