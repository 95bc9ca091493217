"""Instances in, one exact volume out; or a refusal by name.

The room turns the stored files of one series into a `dicom_node.words.Volume`: modality values on a regular grid in
patient space (PS3.3 C.7.6.2 image plane, C.7.6.3 image pixel, C.11.1 modality LUT, C.7.6.16 functional groups; PS3.5 7
and annex A encodings).  Headers are scanned here within bounds (`read_header`), geometry comes from positions alone
(`series_geometry`), pixels are decoded in a guarded child (`decode_in_child`), and what is not defined is refused.

Its public verb is `build_volume`.  `read_nifti` is the other way in, for `ai-node predict`; `read_picture` does for
photographs what `build_volume` does for slices: colours as they were archived (C.8.12.1, A.8.1, C.11.15).
"""

from __future__ import annotations

from dicom_node.volume.build import build_volume
from dicom_node.volume.cache import CacheDamaged, load_volume, save_volume
from dicom_node.volume.colour import PICTURE_CLASSES
from dicom_node.volume.decode import check_decoders, decode_in_child
from dicom_node.volume.geometry import SeriesGeometry, series_geometry
from dicom_node.volume.header import content_digest, read_header
from dicom_node.volume.limits import Limits
from dicom_node.volume.nifti import nifti_bytes, read_nifti, write_nifti
from dicom_node.volume.nifti_guard import read_nifti_guarded
from dicom_node.volume.picture import read_picture, read_pictures
from dicom_node.volume.picture_cache import load_picture, save_picture

__all__ = [
    "PICTURE_CLASSES",
    "CacheDamaged",
    "Limits",
    "SeriesGeometry",
    "build_volume",
    "check_decoders",
    "content_digest",
    "decode_in_child",
    "load_picture",
    "load_volume",
    "nifti_bytes",
    "read_header",
    "read_nifti",
    "read_nifti_guarded",
    "read_picture",
    "read_pictures",
    "save_picture",
    "save_volume",
    "series_geometry",
    "write_nifti",
]
