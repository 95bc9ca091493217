"""The verb of the room: a photograph in, the bytes of a DICOM object out.

The same photograph with the same facts and the same time gives the same bytes under the same UIDs, wherever and how
often it is wrapped (PS3.5 B.2: 2.25 UIDs); anything else that differs gives another instance.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field

from dicom_node.photo.decode import Decoded, decode_photo
from dicom_node.photo.facts import Importer, Occasion, Patient, PhotoClass
from dicom_node.photo.limits import PhotoLimits
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.uids import derived_uid


@dataclass(frozen=True)
class WrappedPhoto:
    """A photograph as a DICOM Part 10 object, its bytes fixed for ever.

    Attributes
    ----------
    is_untouched
        Whether the camera's own JPEG stream stands in it, byte for byte.
    notes
        What was done to the picture on the way, in words; empty where nothing was.
    """

    sop_class_uid: str
    transfer_syntax_uid: str
    sha256: str
    rows: int
    columns: int
    is_untouched: bool
    notes: tuple[str, ...]
    sop_instance_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    data: bytes = field(repr=False)


def wrap(
    data: bytes,
    patient: Patient,
    occasion: Occasion,
    importer: Importer,
    *,
    photo_class: PhotoClass = PhotoClass.VL_PHOTOGRAPHIC,
    claimed: str = "",
    limits: PhotoLimits = PhotoLimits(),
) -> WrappedPhoto:
    """Make a DICOM object of a photograph that a stranger sent.

    Parameters
    ----------
    data
        A JPEG, PNG or WebP file; it is decoded in a guarded child.
    claimed
        Media type that the sender names, ``image/jpeg``; empty where it names none.

    Returns
    -------
    WrappedPhoto
        One instance in a series of its own; in the study that the occasion names, else in one that patient, order and
        time make.

    Raises
    ------
    Refused
        not-an-image, image-type-unsupported, image-type-mismatch, image-truncated, image-decode-failed,
        image-too-large, image-too-small, image-animated, image-mode-unsupported, image-trailing-data, input-empty;
        validation, when the class says dermoscopic and the sender says plain.
    """
    # here, so that the decoding child, which imports this room, carries no DICOM library
    from dicom_node.photo.dataset import SOP_CLASS_UIDS, Place, photo_dataset, transfer_syntax, written

    if photo_class is PhotoClass.DERMOSCOPIC and occasion.declared == "plain":
        raise Refused(
            RefusalCode.VALIDATION, "a dermatoscope picture for Dermoscopic Photography", "one declared as plain"
        )
    picture = decode_photo(data, claimed=claimed, limits=limits)
    study = (
        occasion.study.uid
        if occasion.study
        else _uid(importer, "study", [patient.issuer, patient.id, occasion.order, occasion.created])
    )
    instance = _instance_name(picture, patient, occasion, importer, photo_class)
    place = Place(study, _uid(importer, "series", [study, instance]), _uid(importer, "instance", [study, instance]))
    data = written(photo_dataset(picture, patient, occasion, importer, photo_class, place), transfer_syntax(picture))
    return WrappedPhoto(
        sop_class_uid=SOP_CLASS_UIDS[photo_class],
        transfer_syntax_uid=transfer_syntax(picture),
        sha256=hashlib.sha256(data).hexdigest(),
        rows=picture.rows,
        columns=picture.columns,
        is_untouched=picture.is_untouched,
        notes=picture.notes,
        sop_instance_uid=place.instance_uid,
        series_uid=place.series_uid,
        study_uid=study,
        data=data,
    )


def _instance_name(
    picture: Decoded, patient: Patient, occasion: Occasion, importer: Importer, photo_class: PhotoClass
) -> str:
    """Digest of all that the bytes are made of: no two contents may share a UID."""
    told = [
        {**dataclasses.asdict(picture), "payload": hashlib.sha256(picture.payload).hexdigest(),
         "profile": hashlib.sha256(picture.profile).hexdigest()},
        _told(patient), dataclasses.asdict(occasion), importer.version, importer.serial,
        photo_class.value,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _told(patient: Patient) -> dict[str, str | bool]:
    """Who it is of; without the mark of a pseudonym where there is none, so that UIDs are what they always were."""
    told = dataclasses.asdict(patient)
    return told if patient.is_pseudonym else {key: value for key, value in told.items() if key != "is_pseudonym"}


def _uid(importer: Importer, kind: str, parts: list[str]) -> str:
    return derived_uid(importer.site_namespace, "\n".join(("photo", kind, json.dumps(parts))), importer.uid_root)
