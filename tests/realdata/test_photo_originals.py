"""Nine dermoscopy originals with their EXIF: untouched, valid by dicom3tools, the same pixels by DCMTK and Pillow."""

from __future__ import annotations

import csv
import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fixtures_results import dciodvfy
from PIL import Image, ImageCms
from pydicom import dcmread
from pydicom.encaps import generate_frames

from dicom_node.photo import PhotoClass, WrappedPhoto, wrap
from dicom_node.volume import read_picture
from tests.support.photos import IMPORTER, KNOWN_OF_DERMOSCOPIC, PATIENT, occasion

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def originals(data_dir) -> Path:
    return data_dir / "dermoscopy" / "originals"


@pytest.fixture(scope="module", params=["0046", "0136", "0153", "0262", "0283", "0294", "0355", "0384", "0412"])
def photo(request, originals, tmp_path_factory) -> tuple[str, bytes, WrappedPhoto, Path]:
    name = f"ISIC_000{request.param}.jpg"
    data = (originals / name).read_bytes()
    made = wrap(data, PATIENT, occasion(), IMPORTER)
    path = tmp_path_factory.mktemp("original") / "photo.dcm"
    path.write_bytes(made.data)
    return name, data, made, path


def test_the_camera_s_own_stream_stays(photo):
    _, data, made, path = photo
    assert made.is_untouched
    (stream,) = generate_frames(dcmread(path).PixelData, number_of_frames=1)
    assert data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9") + 2] in stream


def test_of_camera_and_time_nothing_is_left(photo, originals):
    name, _, made, _ = photo
    with (originals / "labels.csv").open(newline="", encoding="utf-8") as file:
        (row,) = (row for row in csv.DictReader(file) if row["file"] == name)
    for secret in (row["camera"].split(" ")[0], row["exif_datetime"], "Exif", "GPS"):
        assert not secret or secret.encode() not in made.data


def test_the_validator_finds_nothing(photo, tmp_path):
    _, data, _, path = photo
    assert dciodvfy(path) == []
    other = tmp_path / "dermoscopic.dcm"
    other.write_bytes(wrap(data, PATIENT, occasion(), IMPORTER, photo_class=PhotoClass.DERMOSCOPIC).data)
    assert [line for line in dciodvfy(other) if not any(known in line for known in KNOWN_OF_DERMOSCOPIC)] == []


def in_srgb(data: bytes) -> np.ndarray:
    """The file's pixels by Pillow; one of the nine has a colour profile that is not sRGB."""
    with Image.open(io.BytesIO(data)) as image:
        profile = image.info.get("icc_profile")
        if profile is None:
            return np.asarray(image)
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).strip().lower().startswith("srgb"):
            return np.asarray(image)
        relative = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return np.asarray(
            ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), renderingIntent=relative)
        )


def test_three_readers_see_the_same_pixels(photo, tmp_path):
    _, data, _, path = photo
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image)
    assert np.array_equal(read_picture(path).pixels, in_srgb(data)), "Pillow, of the file that was sent"
    target = tmp_path / "dcmtk.ppm"
    subprocess.run(["dcmj2pnm", "+op", str(path), str(target)], check=True, timeout=120, capture_output=True)
    with Image.open(target) as image:
        assert np.array_equal(np.asarray(image), expected), (
            "DCMTK, of the object: another JPEG decoder, the same pixels"
        )
