"""Real volumes wrapped as classic MR series: the study of one person, as a scanner would have written it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ai_engine.geometry import Affine

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
SEQUENCES: Mapping[str, Mapping[str, Any]] = {
    "t1c": {"SeriesNumber": 7, "SeriesTime": "121000", "SeriesDescription": "AX T1 +GD", "ScanningSequence": "SE",
            "ContrastBolusAgent": "GADOLINIUM", "EchoTime": 10, "RepetitionTime": 600},
    "flair": {"SeriesNumber": 4, "SeriesTime": "120000", "SeriesDescription": "AX T2 FLAIR", "EchoTime": 120,
              "ScanningSequence": ["SE", "IR"], "RepetitionTime": 9000, "InversionTime": 2500},
}  # fmt: skip


@dataclass(frozen=True)
class Wrapped:
    """A series in a folder."""

    study_uid: str
    series_uid: str
    files: tuple[Path, ...]


def wrap(array: npt.NDArray[Any], affine: Affine, case: str, role: str, folder: Path, **changes: Any) -> Wrapped:
    """Write a volume (S, R, C) as a series of its study; `changes` are attributes of every slice."""
    grey = np.clip(array, 0, 65535).astype(np.uint16)
    study, frame = (str(generate_uid(entropy_srcs=[case, kind, folder.as_posix()])) for kind in ("study", "frame"))
    series = str(generate_uid(entropy_srcs=[study, role]))
    folder = folder / role
    folder.mkdir(parents=True)
    files = []
    for number, picture in enumerate(grey):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MR_IMAGE
        uid = generate_uid(entropy_srcs=[series, str(number)])
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientID, ds.PatientName, ds.Modality = case, "WRAPPED^CASE", "MR"
        ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.StudyID = ds.ReferringPhysicianName = ""
        ds.StudyDate, ds.StudyTime, ds.MRAcquisitionType = "20200101", "120000", "2D"
        ds.ImageType, ds.BodyPartExamined = ["ORIGINAL", "PRIMARY", "M", "NONE"], "BRAIN"
        ds.ImagesInAcquisition, ds.InstanceNumber = len(grey), number + 1
        ds.ImagePositionPatient = [f"{v:.6f}" for v in affine.to_patient([number, 0, 0])]
        ds.ImageOrientationPatient = [float(v) for v in (*affine.directions[2], *affine.directions[1])]
        ds.PixelSpacing, ds.SliceThickness = [affine.spacing_mm[1], affine.spacing_mm[2]], affine.spacing_mm[0]
        ds.Rows, ds.Columns = picture.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 0
        ds.PixelData = picture.tobytes()
        for keyword, value in {**SEQUENCES[role], **changes}.items():
            setattr(ds, keyword, value)
        path = folder / f"{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        files.append(path)
    return Wrapped(study, series, tuple(files))


def words(document: Dataset) -> str:
    """Every text of a structured report, in order."""
    own = [str(document.TextValue)] if "TextValue" in document else []
    return " ".join([*own, *(words(item) for item in document.get("ContentSequence", ()))])
