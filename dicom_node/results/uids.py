"""UIDs of results: the same run writes the same UIDs (design section 4; how they are derived: `dicom_node.uids`)."""

from __future__ import annotations

import uuid

from dicom_node.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    PRODUCT_NAMESPACE,
    UID_MAX_CHARACTERS,
    coding_scheme_uid,
    derived_uid,
)
from dicom_node.words import ObjectKind, RunIdentity

__all__ = [
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "UID_MAX_CHARACTERS",
    "coding_scheme_uid",
    "derived_uid",
    "device_uid",
    "dimension_organization_uid",
    "instance_uid",
    "series_uid",
    "tracking_key",
    "tracking_uid",
]


def instance_uid(identity: RunIdentity, kind: ObjectKind, root: str | None = None) -> str:
    """SOP Instance UID of a run's object of this kind: run key + kind."""
    return derived_uid(uuid.UUID(identity.site_namespace), identity.run_key + kind.value, root)


def series_uid(identity: RunIdentity, kind: ObjectKind, root: str | None = None) -> str:
    """Series Instance UID of a run's object of this kind: run key + ``series-`` + kind."""
    return derived_uid(uuid.UUID(identity.site_namespace), f"{identity.run_key}series-{kind.value}", root)


def dimension_organization_uid(identity: RunIdentity, root: str | None = None) -> str:
    """(0020,9164) of the segmentation."""
    return derived_uid(uuid.UUID(identity.site_namespace), identity.run_key + "dimension-organization", root)


def tracking_uid(site_namespace: str, study_uid: str, region_key: str, root: str | None = None) -> str:
    """Tracking UID of a region: Study UID + region key, without model or version, so that it can be followed."""
    return derived_uid(uuid.UUID(site_namespace), study_uid + region_key, root)


def tracking_key(picture_uid: str, key: str) -> str:
    """What a statement about one photograph is tracked by: a study may hold several, and so may a series."""
    return f"{picture_uid}/{key}"


def device_uid(product: str, model: str, version: str) -> str:
    """Device UID of one model version in one product: the same at every site, shared by SEG, SR, PDF and FHIR."""
    return derived_uid(PRODUCT_NAMESPACE, "device\n" + "\n".join((product, model, version)))
