"""Small synthetic MR slices with realistic headers, for everything before the model."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR = "1.2.840.10008.5.1.4.1.1.4"
MARKER = "MARKERPHI"
"""Stands in every text attribute: must never be seen outside records and vault (I4)."""


@dataclass(frozen=True)
class SeriesFiles:
    """Files of one series."""

    study_uid: str
    series_uid: str
    files: tuple[Path, ...]
    uids: tuple[str, ...]


def slice_of(
    study_uid: str, series_uid: str, number: int, *, size: int = 64, uid: str | None = None, **changes: Any
) -> Dataset:
    """One axial slice of a 5 mm stack; `number` from 1."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MR, uid or generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
    ds.FrameOfReferenceUID = f"{study_uid[:60]}.9"
    ds.StudyDate = ds.SeriesDate = "20240229"
    ds.StudyTime = ds.SeriesTime = "120000"
    ds.AccessionNumber = MARKER
    ds.Modality, ds.Manufacturer = "MR", "Test Scanner"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.StudyDescription = ds.SeriesDescription = f"{MARKER} description"
    ds.PatientName, ds.PatientID = f"{MARKER}^Name", f"{MARKER}-ID"
    ds.PatientBirthDate, ds.PatientSex = "19500101", "O"
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-32.0, -32.0, 5.0 * number]
    ds.PixelSpacing, ds.SliceThickness = [1.0, 1.0], 5.0
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.random.default_rng(number).integers(0, 4000, (size, size), dtype=np.uint16).tobytes()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def write(ds: Dataset, path: Path) -> Path:
    """Save as a Part 10 file, explicit VR little endian."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def series(
    folder: Path, count: int = 6, *, study_uid: str | None = None, size: int = 64, **changes: Any
) -> SeriesFiles:
    """A series of `count` slices as files in `folder`."""
    study_uid, series_uid = study_uid or str(generate_uid()), str(generate_uid())
    slices = [slice_of(study_uid, series_uid, n, size=size, **changes) for n in range(1, count + 1)]
    files = tuple(write(ds, folder / f"{n:04d}.dcm") for n, ds in enumerate(slices, 1))
    return SeriesFiles(study_uid, series_uid, files, tuple(str(ds.SOPInstanceUID) for ds in slices))


def storescu(
    port: int,
    files: Iterable[Path],
    *,
    calling: str = "ORTHANC",
    called: str = "AINODE",
    options: Sequence[str] = (),
    timeout_s: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Send files with DCMTK's storescu, in one association."""
    program = shutil.which("storescu")
    if program is None:
        raise FileNotFoundError("storescu: apt-get install dcmtk")
    return subprocess.run(
        [program, "-v", "-R", "-aet", calling, "-aec", called, *options, "127.0.0.1", str(port), *map(str, files)],
        env={**environ, "TCP_NODELAY": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
