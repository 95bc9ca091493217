"""Small DICOM series, masks and findings for tests of result objects.

Series are written file by file with any orientation, character set and patient; `plain_volume` reads them back with
pydicom alone, so that tests of `dicom_node.results` do not depend on the volume room.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ai_engine.findings import Code, Findings, Measurement, ModelIdentity, Region
from ai_engine.geometry import Affine
from dicom_node.results import Producer
from dicom_node.words import Grade, RunIdentity, SliceSource, Volume

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
STUDY, SERIES, FRAME_OF_REFERENCE = "1.2.3.4.5.1", "1.2.3.4.5.2", "1.2.3.4.5.3"
SITE = "7a0e3f4e-0d0b-4c3f-9a53-6d1f0c2b8e11"
PRODUCER = Producer(
    manufacturer="dicom-ai-node", product="AI node", version="0.1.0", instance_id="node-1", contact="ai@example.org"
)
MODEL = ModelIdentity(
    name="brain-flair",
    version="1.2.0",
    digest_sha256="ab" * 32,
    title="FLAIR abnormality",
    framework="nnunet",
    backend="openvino",
    device="CPU",
    precision="f32",
    settings=(("step", "0.5"), ("mirroring", "yes")),
    intended_use="Outlines FLAIR hyperintensity for review.",
)
BRAIN = Code("12738006", "SCT", "Brain")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
OEDEMA = Code("79654002", "SCT", "Edema")
NECROSIS = Code("6574001", "SCT", "Necrosis")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
FLAIR = Code("FLAIR-HYPERINTENSITY", "99AINODE", "FLAIR hyperintensity")
CM3, MM = Code("cm3", "UCUM", "cubic centimeter"), Code("mm", "UCUM", "millimeter")
VOLUME = Code("118565006", "SCT", "Volume")
SUM_OF_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")


def run_identity(study_uid: str = STUDY, **changes: Any) -> RunIdentity:
    """A run of a fixed key and time."""
    values: dict[str, Any] = {
        "run_key": "c0ffee" + "0" * 58,
        "site_namespace": SITE,
        "created": "2026-11-22T10:00:00+00:00",
        "study_uid": study_uid,
        "grade": Grade.TRANSFERRED,
        "notes": ("FLAIR before contrast was chosen: nearest in time.",),
    }
    return RunIdentity(**{**values, **changes})


def base_header(**changes: Any) -> Dataset:
    """A valid MR header without geometry; `changes` by keyword, None removes."""
    header = Dataset()
    header.SOPClassUID = MR_IMAGE
    header.PatientName, header.PatientID = "MARKER^SYNTHETIC", "SYN-1"
    header.PatientBirthDate, header.PatientSex = "19700101", "F"
    header.StudyInstanceUID, header.SeriesInstanceUID = STUDY, SERIES
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = FRAME_OF_REFERENCE, ""
    header.StudyDate = header.SeriesDate = header.ContentDate = header.AcquisitionDate = "20260101"
    header.StudyTime = header.SeriesTime = header.ContentTime = header.AcquisitionTime = "101500"
    header.StudyID, header.AccessionNumber, header.ReferringPhysicianName = "1", "ACC-1", "REF^DOC"
    header.StudyDescription, header.SeriesDescription, header.SeriesNumber = "MR brain", "FLAIR", 3
    header.Modality, header.Manufacturer = "MR", "Synthetic"
    header.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "SE", "NONE", ""
    header.MRAcquisitionType, header.RepetitionTime, header.EchoTime = "2D", "9000", "120"
    header.EchoTrainLength, header.PatientPosition = 1, "HFS"
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    for keyword, value in changes.items():
        if value is None:
            del header[keyword]
        else:
            setattr(header, keyword, value)
    return header


def _save(header: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta = meta
    header.save_as(path, enforce_file_format=True)


def write_series(
    folder: Path,
    array: npt.NDArray[np.uint16],
    affine: Affine,
    *,
    file_order: Sequence[int] | None = None,
    **changes: Any,
) -> list[Path]:
    """Write a (S, R, C) array as single-frame MR images; gives the files in the order of `file_order`."""
    paths = []
    step, row, column = affine.spacing_mm
    orientation = [f"{v:.10f}" for v in (*affine.directions[2], *affine.directions[1])]
    for number, index in enumerate(file_order if file_order is not None else range(len(array))):
        header = base_header(**changes)
        header.SOPInstanceUID = f"{header.SeriesInstanceUID}.{index + 1}"
        header.InstanceNumber = number + 1
        header.Rows, header.Columns = array.shape[1:]
        header.ImagePositionPatient = [f"{v:.8f}" for v in affine.to_patient([index, 0, 0])]
        header.ImageOrientationPatient = orientation
        header.PixelSpacing, header.SliceThickness = [f"{row:.8f}", f"{column:.8f}"], f"{step:.8f}"
        header.PixelData = array[index].astype(np.uint16).tobytes()
        paths.append(folder / f"{number:04d}.dcm")
        _save(header, paths[-1])
    return paths


def write_enhanced(folder: Path, array: npt.NDArray[np.uint16], affine: Affine, frame_order: Sequence[int]) -> Path:
    """Write a (S, R, C) array as one Enhanced MR object whose frames come in `frame_order`."""
    header = base_header(SOPClassUID=ENHANCED_MR)
    header.SOPInstanceUID, header.InstanceNumber = f"{SERIES}.100", 1
    header.Rows, header.Columns = array.shape[1:]
    header.NumberOfFrames = len(frame_order)
    step, row, column = affine.spacing_mm
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [f"{row:.8f}", f"{column:.8f}"], f"{step:.8f}"
    orientation.ImageOrientationPatient = [f"{v:.10f}" for v in (*affine.directions[2], *affine.directions[1])]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = []
    for index in frame_order:
        groups, position = Dataset(), Dataset()
        position.ImagePositionPatient = [f"{v:.8f}" for v in affine.to_patient([index, 0, 0])]
        groups.PlanePositionSequence = [position]
        header.PerFrameFunctionalGroupsSequence.append(groups)
    header.PixelData = array[list(frame_order)].astype(np.uint16).tobytes()
    path = folder / "enhanced.dcm"
    _save(header, path)
    return path


def plain_volume(paths: Sequence[Path], *, relative_to: Path | None = None) -> Volume:
    """The volume of single-frame files, by pydicom and sorting along the normal."""
    headers = [(path, dcmread(path)) for path in paths]
    orientation = np.array(headers[0][1].ImageOrientationPatient, dtype=float)
    normal = np.cross(orientation[:3], orientation[3:])
    headers.sort(key=lambda one: float(np.dot(normal, np.array(one[1].ImagePositionPatient, dtype=float))))
    positions = [np.array(header.ImagePositionPatient, dtype=float) for _, header in headers]
    first = headers[0][1]
    spacing = [float(v) for v in first.PixelSpacing]
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    return Volume(
        array=np.stack([header.pixel_array for _, header in headers]).astype(np.float32),
        valid=None,
        affine=Affine.from_dicom(positions[0].tolist(), orientation.tolist(), spacing, step.tolist()),
        slices=tuple(
            SliceSource(
                str(header.SOPClassUID),
                str(header.SOPInstanceUID),
                str(path if relative_to is None else path.relative_to(relative_to)),
            )
            for path, header in headers
        ),
        study_uid=str(first.StudyInstanceUID),
        series_uid=str(first.SeriesInstanceUID),
        frame_of_reference_uid=str(first.FrameOfReferenceUID),
        modality=str(first.Modality),
    )


def enhanced_volume(path: Path, array: npt.NDArray[np.uint16], affine: Affine, frame_order: Sequence[int]) -> Volume:
    """The volume of what `write_enhanced` wrote."""
    header = dcmread(path, stop_before_pixels=True)
    frames = {index: number for number, index in enumerate(frame_order, start=1)}
    return Volume(
        array=array.astype(np.float32),
        valid=None,
        affine=affine,
        slices=tuple(
            SliceSource(ENHANCED_MR, str(header.SOPInstanceUID), str(path), frames[i]) for i in range(len(array))
        ),
        study_uid=str(header.StudyInstanceUID),
        series_uid=str(header.SeriesInstanceUID),
        frame_of_reference_uid=str(header.FrameOfReferenceUID),
        modality="MR",
    )


def asymmetric_phantom(shape: tuple[int, int, int]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """(S, R, C) grey values and a mask with two labels that no flip or axis swap maps onto itself."""
    mask = np.zeros(shape, dtype=np.uint8)
    s, r, c = shape
    mask[1 : s // 2, 2 : r // 2, 3 : c // 3] = 1
    mask[1 : s // 2, 2 : r // 2, c // 3 : c // 2] = 2
    mask[s - 3, r - 3, c - 2] = 1
    values = 200 + 300 * (mask == 1) + 150 * (mask == 2)
    return values.astype(np.uint16), mask


def ellipsoids(volume: Volume, centre: Sequence[float], radii_mm: Sequence[float]) -> npt.NDArray[np.uint8]:
    """(S, R, C) mask: an ellipsoid of label 1 around `centre` (voxels), with a core of label 2."""
    grids = np.meshgrid(*(np.arange(n) for n in volume.array.shape), indexing="ij")
    offsets = [(g - c) * step for g, c, step in zip(grids, centre, volume.affine.spacing_mm, strict=True)]
    inside = sum((o / r) ** 2 for o, r in zip(offsets, radii_mm, strict=True))
    return np.where(inside < 0.16, 2, np.where(inside < 1, 1, 0)).astype(np.uint8)


def measurements(count: int, voxel_mm3: float) -> tuple[Measurement, ...]:
    """Volume and lengths of a region of `count` voxels, the lengths as of a ball."""
    if not count:
        return ()
    radius = (count * voxel_mm3 * 3 / 4 / np.pi) ** (1 / 3)
    return (
        Measurement("volume", VOLUME, count * voxel_mm3 / 1000, CM3, SUM_OF_VOXELS),
        Measurement("long_axis", Code("103339001", "SCT", "Long axis"), float(1.1 * radius), MM),
        Measurement("short_axis", Code("103340004", "SCT", "Short axis"), float(radius), MM),
        Measurement("diameter_3d", Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh"), float(1.2 * radius), MM),
    )


def findings_of(mask: npt.NDArray[np.uint8], affine: Affine, *, notes: Sequence[str] = ()) -> Findings:
    """Findings that fit a mask of labels 1 and 2: two regions and their union."""
    one, two = int(np.count_nonzero(mask == 1)), int(np.count_nonzero(mask == 2))
    voxel = affine.voxel_volume_mm3

    def region(key: str, name: str, kind: Code, count: int, **more: Any) -> Region:
        return Region(
            key=key,
            name=name,
            abbreviation=key[:2].upper(),
            category=ABNORMAL,
            type=kind,
            site=BRAIN,
            voxels=count,
            percent=100.0 * count / max(one + two, 1),
            measurements=measurements(count, voxel),
            **more,
        )

    amber = {"color_cielab": (56512, 29469, 51140), "color_rgb": (255, 196, 0)}
    red = {"color_cielab": (34764, 53418, 48618), "color_rgb": (214, 52, 52)}
    return Findings(
        model=MODEL,
        regions=(
            region("flair_abnormality", "FLAIR abnormality", FLAIR, one, label=1, confidence=0.93, **amber),
            region("core", "Necrotic core", NECROSIS, two, label=2, confidence=0.81, **red),
            region("whole", "Whole tumour", NEOPLASM, one + two, composite_of=(1, 2), **amber),
        ),
        notes=tuple(notes),
    )


def dciodvfy(path: Path) -> list[str]:
    """The errors that dicom3tools' validator finds in an object."""
    if shutil.which("dciodvfy") is None:
        raise RuntimeError("dciodvfy is missing: install dicom3tools")
    done = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]


def items_by_code(item: Mapping[str, Any] | Dataset, code: str) -> list[Dataset]:
    """All content items below `item` whose concept name has this code value."""
    found = []
    for child in item.get("ContentSequence", []):
        names = child.get("ConceptNameCodeSequence")
        if names and code in (names[0].get("CodeValue"), names[0].get("LongCodeValue")):
            found.append(child)
        found += items_by_code(child, code)
    return found
