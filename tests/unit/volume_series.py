"""Synthetic series for the tests of the volume room: made by pydicom, written as Part 10 files.

The phantom is asymmetric on every axis, so that no flip, transposition or reversed order goes unseen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

ROOT = "1.2.826.0.1.3680043.10.1000"
ROWS, COLUMNS = 40, 36
"""Large enough for JPEG 2000's six resolutions."""
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

Change = Callable[[Dataset, int], None]


def phantom(slices: int, rows: int, columns: int) -> np.ndarray:
    """(S, R, C) uint16: a ramp that differs along each axis, with a bright off-centre block."""
    s, r, c = np.meshgrid(np.arange(slices), np.arange(rows), np.arange(columns), indexing="ij")
    values = 100 + 7 * s + 3 * r + c
    values[slices // 2 :, : rows // 3, : columns // 4] += 500
    return values.astype(np.uint16)


def slice_dataset(index: int, pixels: np.ndarray, position: Sequence[float], orientation: Sequence[float]) -> Dataset:
    """One classic MR slice."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = f"{ROOT}.3.{index + 1}"
    ds.StudyDate, ds.StudyTime = "20260102", "101112"
    ds.Modality = "MR"
    ds.Manufacturer = "Test"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Test^One", "T-1", "19500101", "F"
    ds.EchoTime, ds.RepetitionTime = "100", "5000"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2"
    ds.SeriesNumber, ds.InstanceNumber = 4, index + 1
    ds.ImagePositionPatient = [f"{value:.10g}" for value in position]
    ds.ImageOrientationPatient = [f"{value:.12g}"[:16] for value in orientation]
    ds.FrameOfReferenceUID = f"{ROOT}.9"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelSpacing = ["0.9", "0.8"]
    ds.SliceThickness = "5"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def series(
    count: int = 6,
    *,
    rows: int = ROWS,
    columns: int = COLUMNS,
    step: float = 4.0,
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-10.0, 20.0, 30.0),
) -> list[Dataset]:
    """A good series of classic MR slices in ascending order."""
    normal = np.cross(orientation[:3], orientation[3:])
    pixels = phantom(count, rows, columns)
    return [slice_dataset(k, pixels[k], np.asarray(origin) + normal * step * k, orientation) for k in range(count)]


def as_ct(datasets: Sequence[Dataset]) -> list[Dataset]:
    """The same slices as CT, with the rescale that CT must have."""
    for ds in datasets:
        ds.SOPClassUID, ds.Modality = CTImageStorage, "CT"
        ds.RescaleIntercept, ds.RescaleSlope = "-1024", "1"
    return list(datasets)


def enhanced(datasets: Sequence[Dataset], order: Sequence[int] | None = None) -> Dataset:
    """One Enhanced MR object from classic slices, its frames in any order."""
    order = list(order) if order is not None else list(range(len(datasets)))
    ds = copy.deepcopy(datasets[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime", "RepetitionTime"):
        delattr(ds, keyword)
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PixelMeasuresSequence = DicomSequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = datasets[0].PixelSpacing
    shared.PlaneOrientationSequence = DicomSequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = datasets[0].ImageOrientationPatient
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    frames = []
    for index in order:
        frame = Dataset()
        frame.PlanePositionSequence = DicomSequence([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = datasets[index].ImagePositionPatient
        frame.MREchoSequence = DicomSequence([Dataset()])
        frame.MREchoSequence[0].EffectiveEchoTime = 100.0
        frame.PixelValueTransformationSequence = DicomSequence([Dataset()])
        frame.PixelValueTransformationSequence[0].RescaleIntercept = str(index)
        frame.PixelValueTransformationSequence[0].RescaleSlope = "2"
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    ds.PixelData = b"".join(datasets[index].PixelData for index in order)
    ds["PixelData"].VR = "OW"
    return ds


def write(ds: Dataset, path: Path) -> Path:
    """Write one Part 10 file in the transfer syntax of its file meta information."""
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    return path


def write_all(datasets: Sequence[Dataset], folder: Path, change: Change | None = None) -> list[Path]:
    """Write a series; `change` may spoil each data set first."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, ds in enumerate(datasets):
        if change is not None:
            change(ds, index)
        paths.append(write(ds, folder / f"{index:04d}.dcm"))
    return paths


def in_syntax(ds: Dataset, syntax: str) -> Dataset:
    """The same data set for another native transfer syntax (pixel bytes swapped for big endian)."""
    other = copy.deepcopy(ds)
    other.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        width = ds.BitsAllocated // 8
        other.PixelData = np.frombuffer(ds.PixelData, dtype=f"<u{width}").astype(f">u{width}").tobytes()
        other["PixelData"].VR = "OW"
    return other


NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


def set_all(**values: Any) -> Change:
    """Set attributes on every slice."""

    def change(ds: Dataset, _: int) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def set_one(place: int, **values: Any) -> Change:
    """Set attributes on one slice."""

    def change(ds: Dataset, index: int) -> None:
        if index == place:
            for keyword, value in values.items():
                setattr(ds, keyword, value)

    return change


def drop(place: int | None, *keywords: str) -> Change:
    """Remove attributes from one slice, or from every one."""

    def change(ds: Dataset, index: int) -> None:
        if place is None or index == place:
            for keyword in keywords:
                if keyword in ds:
                    delattr(ds, keyword)

    return change
