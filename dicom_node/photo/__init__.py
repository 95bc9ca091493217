"""Photographs in, DICOM objects out: a JPEG, PNG or WebP of a stranger becomes an image object like any other.

Implements PS3.3 A.32.4 (VL Photographic, the default, because viewers show it) and A.32.11 (Dermoscopic Photography, by
setting), PS3.5 A.4.1 (JPEG Baseline with the camera's own stream) and 8.2.1.  The file is judged by its bytes, never by
its name, and decoded in a guarded child (I8); EXIF's orientation is applied, and EXIF, GPS, XMP and comments are gone.

Its one public verb is `wrap`.  The other way round, `dicom_node.volume.read_picture` decodes what was archived.
"""

from __future__ import annotations

from dicom_node.photo.facts import ExistingStudy, Importer, Occasion, Patient, PhotoClass
from dicom_node.photo.kinds import PhotoKind, kind_of
from dicom_node.photo.limits import PhotoLimits
from dicom_node.photo.wrap import WrappedPhoto, wrap

__all__ = [
    "ExistingStudy",
    "Importer",
    "Occasion",
    "Patient",
    "PhotoClass",
    "PhotoKind",
    "PhotoLimits",
    "WrappedPhoto",
    "kind_of",
    "wrap",
]
