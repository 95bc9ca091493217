"""What a classifier is handed of an archived photograph: the same on the road, over HTTP and from the command line."""

from __future__ import annotations

from ai_engine.pictures import InputPicture
from dicom_node.routing.facts import age_in_years
from dicom_node.words import Picture


def as_picture(picture: Picture) -> InputPicture:
    """What a model is handed of a photograph: colours as archived, and what its object says about it."""
    return InputPicture(
        pixels=picture.pixels,
        declared=picture.declared,
        modality=picture.modality,
        age_years=age_in_years(picture.attributes.get("PatientAge")),
        sex=str(picture.attributes.get("PatientSex") or ""),
        body_site=picture.body_site,
    )
