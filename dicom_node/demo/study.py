"""A synthetic head as an MR study on disk (MR Image Storage, PS3.3 A.4), clearly marked as synthetic.

Every UID and every byte is a function of the seed.  Patient and issuer carry DEMO and HTEST, the mark of health data
made for tests (HL7 v3 ActReason); the pictures are formulas.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from ai_engine.geometry import Affine
from ai_engine.phantom import HeadPhantom, Lesion, synthesise_head
from dicom_node.demo.protocol import FLAIR_NUMBER, THICKNESS_MM, SeriesPlan, Stack, protocol

_NAMESPACE = uuid.UUID("5d0c2a54-31b7-5f2b-9d0e-2f4a1c7e9b60")
_WHITE_MATTER = 700.0
"""Stored value of white matter; 12 bits hold nearly six times as much."""
ISSUER = "DEMO-HTEST"


class Fate(StrEnum):
    """What should become of a study on the road."""

    LESION = "lesion"
    NO_LESION = "no-lesion"
    SLICE_REMOVED = "slice-removed"


_NAMES = {Fate.LESION: "DEMO^LESION", Fate.NO_LESION: "DEMO^NO LESION", Fate.SLICE_REMOVED: "DEMO^SLICE REMOVED"}
_REMOVED = 15
"""Instance number of the FLAIR slice that is missing, in the middle of the head."""


@dataclass(frozen=True, eq=False)
class DemoStudy:
    """What was written, and what is true of it.

    Attributes
    ----------
    folder
        One folder per series under it, one file per image.
    flair_uids
        SOP Instance UIDs of the FLAIR slices, from feet to head, those of removed slices included.
    truth
        (S, R, C) bool on the FLAIR series' grid, `flair_affine` to LPS millimetres.
    true_volume_ml
        By integration of the lesion's surface, not by counting voxels; 0 without a lesion.
    """

    fate: Fate
    folder: Path
    study_uid: str
    patient_id: str
    flair_series_uid: str
    flair_uids: tuple[str, ...]
    flair_affine: Affine
    truth: npt.NDArray[np.bool_]
    true_volume_ml: float
    instances: int


def make_study(
    folder: Path,
    fate: Fate,
    *,
    seed: int = 1,
    made: datetime | None = None,
    only: Collection[int] | None = None,
    plans: Sequence[SeriesPlan] | None = None,
) -> DemoStudy:
    """Write one study.

    Parameters
    ----------
    folder
        Where to; made if it is not there.
    fate
        With a lesion, without one, or with a lesion and one FLAIR slice missing although the headers announce it.
    seed
        Decides the head, its identifiers and every UID.
    made
        Date and time of the examination; a fixed one by default, so that the same seed gives the same bytes.
    only
        Series numbers to write; all by default.
    plans
        Another protocol than the shipped one; it must have a FLAIR series of one stack under `FLAIR_NUMBER`.
    """
    plans = protocol() if plans is None else plans
    lesion = None if fate is Fate.NO_LESION else Lesion()
    head = synthesise_head(seed, lesion=lesion)
    writer = _Writer(fate, seed, made or datetime(2026, 1, 15, 9, 30))
    count = 0
    for plan in plans:
        if only is not None and plan.number not in only:
            continue
        target = folder / f"series-{plan.number:02d}"
        target.mkdir(parents=True, exist_ok=True)
        for number, dataset in enumerate(writer.images(head, plan), 1):
            if fate is Fate.SLICE_REMOVED and plan.number == FLAIR_NUMBER and number == _REMOVED:
                continue
            dataset.save_as(target / f"{number:04d}.dcm", enforce_file_format=True)
            count += 1
    flair = next(plan for plan in plans if plan.number == FLAIR_NUMBER)
    grid = flair.stacks[0]
    return DemoStudy(
        fate=fate,
        folder=folder,
        study_uid=writer.uid("study"),
        patient_id=writer.patient_id,
        flair_series_uid=writer.uid(f"series/{FLAIR_NUMBER}"),
        flair_uids=tuple(writer.uid(f"image/{FLAIR_NUMBER}/{n}") for n in range(1, flair.images + 1)),
        flair_affine=grid.affine,
        truth=head.truth(grid.affine, grid.shape),
        true_volume_ml=head.true_volume_mm3 / 1000,
        instances=count,
    )


@dataclass(frozen=True)
class _Writer:
    """Turns pictures into data sets of one study."""

    fate: Fate
    seed: int
    made: datetime

    @property
    def patient_id(self) -> str:
        return f"DEMO-HTEST-{self.seed:04d}-{list(Fate).index(self.fate) + 1}"

    def uid(self, what: str) -> str:
        """``2.25.`` and a UUIDv5 of seed, fate and name (PS3.5 B.2)."""
        return f"2.25.{uuid.uuid5(_NAMESPACE, f'{self.seed}/{self.fate}/{what}').int}"

    def images(self, head: HeadPhantom, plan: SeriesPlan) -> Iterator[Dataset]:
        number = 0
        for stack in plan.stacks:
            picture = head.render(plan.contrast, stack.affine, stack.shape, noise=0.025, cuts=plan.cuts)
            stored = np.clip(np.rint(picture * _WHITE_MATTER), 0, 4095).astype("<u2")
            for index in range(stack.shape[0]):
                number += 1
                dataset = self._header(plan, number)
                _add_geometry(dataset, stack, index)
                _add_pixels(dataset, stored[index])
                yield dataset

    def _header(self, plan: SeriesPlan, number: int) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = self.uid(f"image/{plan.number}/{number}")
        self._add_patient_and_study(dataset)
        self._add_series_and_equipment(dataset, plan)
        dataset.InstanceNumber = number
        dataset.AcquisitionNumber = 1
        dataset.ImagesInAcquisition = plan.images
        taken = self.made + timedelta(seconds=plan.start_s + 2 + plan.duration_s * (number - 1) / plan.images)
        dataset.AcquisitionDate = dataset.ContentDate = f"{taken:%Y%m%d}"
        dataset.AcquisitionTime = dataset.ContentTime = f"{taken:%H%M%S.%f}"
        dataset.ImageType = list(plan.image_type)
        for keyword, value in plan.attributes.items():
            setattr(dataset, keyword, value)
        return dataset

    def _add_patient_and_study(self, dataset: Dataset) -> None:
        dataset.PatientName = _NAMES[self.fate]
        dataset.PatientID = self.patient_id
        dataset.IssuerOfPatientID = ISSUER
        dataset.PatientBirthDate = "19700101"
        dataset.PatientSex = "O"
        dataset.PatientAge = "056Y"
        dataset.PatientWeight = "70"
        dataset.PatientComments = "Synthetic head, no person (HTEST)"
        dataset.StudyInstanceUID = self.uid("study")
        dataset.StudyDate = f"{self.made:%Y%m%d}"
        dataset.StudyTime = f"{self.made:%H%M%S}"
        dataset.StudyID = f"DEMO{self.seed}"
        dataset.AccessionNumber = f"DEMO{self.seed:05d}{list(Fate).index(self.fate) + 1}"
        dataset.StudyDescription = "MR HEAD WITH AND WITHOUT CONTRAST (SYNTHETIC, HTEST)"
        dataset.ReferringPhysicianName = ""
        dataset.TimezoneOffsetFromUTC = "+0000"

    def _add_series_and_equipment(self, dataset: Dataset, plan: SeriesPlan) -> None:
        begun = self.made + timedelta(seconds=plan.start_s)
        dataset.Modality = "MR"
        dataset.SeriesInstanceUID = self.uid(f"series/{plan.number}")
        dataset.SeriesNumber = plan.number
        dataset.SeriesDescription = plan.description
        dataset.ProtocolName = plan.description
        dataset.SeriesDate = f"{begun:%Y%m%d}"
        dataset.SeriesTime = f"{begun:%H%M%S}"
        dataset.BodyPartExamined = "HEAD"
        dataset.PatientPosition = "HFS"
        dataset.FrameOfReferenceUID = self.uid("frame-of-reference")
        dataset.PositionReferenceIndicator = ""
        dataset.Manufacturer = "Synthetic phantom"
        dataset.ManufacturerModelName = "Head of formulas"
        dataset.DeviceSerialNumber = "0"
        dataset.SoftwareVersions = "1"
        dataset.InstitutionName = "Demonstration (no hospital)"
        dataset.MagneticFieldStrength = "1.5"
        dataset.ImagingFrequency = "63.68"
        dataset.ImagedNucleus = "1H"
        dataset.EchoNumbers = 1
        dataset.NumberOfAverages = "1"
        dataset.ScanOptions = ""
        dataset.PercentSampling = "100"
        dataset.PercentPhaseFieldOfView = "100"
        dataset.PixelBandwidth = "180"
        dataset.InPlanePhaseEncodingDirection = "ROW"
        dataset.ReceiveCoilName = "HEAD"


def _add_geometry(dataset: Dataset, stack: Stack, index: int) -> None:
    """Image Plane (PS3.3 C.7.6.2): position of the first voxel, cosines along a row and along a column."""
    slice_axis, row_axis, column_axis = stack.affine.directions
    step, rows_apart, columns_apart = stack.affine.spacing_mm
    dataset.SliceThickness = _ds(min(THICKNESS_MM, step))
    dataset.SpacingBetweenSlices = _ds(step)
    dataset.PixelSpacing = [_ds(rows_apart), _ds(columns_apart)]
    dataset.ImageOrientationPatient = [_ds(v) for v in (*column_axis, *row_axis)]
    position = stack.affine.to_patient([index, 0, 0])
    dataset.ImagePositionPatient = [_ds(v) for v in position]
    dataset.SliceLocation = _ds(float(position @ slice_axis))
    dataset.AcquisitionMatrix = [0, stack.shape[1], stack.shape[2], 0]


def _add_pixels(dataset: Dataset, stored: npt.NDArray[np.uint16]) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = "800", "1600"
    dataset.PixelData = stored.tobytes()


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 table 6.2-1)."""
    text = f"{value:.9f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text
