"""What a file is, by its first bytes, and which set of roles is filled: known before any image is read."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from ai_engine.packages.schema import AnyDescription
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.volume.nifti_header import is_nifti_head
from dicom_node.words import ROLE_ALIASES

_SUFFIX = re.compile(r"[-_.](t1ce|t1gd|t1c|t1n|t1w|t1|t2w|t2f|t2|flair)\.nii(\.gz)?$", re.IGNORECASE)
_SUFFIX_ROLES = {"t1n": "t1", "t1w": "t1", "t2w": "t2", "t2f": "flair"}
_LABELS = re.compile(r"[-_.]seg\.nii(\.gz)?$", re.IGNORECASE)


def kind_of(path: Path) -> str:
    """What a file's own bytes say that it is: ``zip``, ``dicom``, ``nifti``, or ``""`` for none of them."""
    with at_rest.Reader(path) as file:
        head = file.pread(512, 0)
    if head[:2] == b"\x1f\x8b":
        inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            inside = inflater.decompress(head, 512)
        except zlib.error:
            return "nifti"  # nothing else is read from gzip: the reader of NIfTI says what is wrong with it
        return "nifti" if len(inside) < 4 or is_nifti_head(inside) else ""
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[128:132] == b"DICM":
        return "dicom"
    return "nifti" if is_nifti_head(head) else ""


def role_of_name(told: str) -> str:
    """The role that a file's name ends in, as BraTS names its files; empty where it does not."""
    found = _SUFFIX.search(told[-64:])
    if found is None:
        return ""
    word = found[1].lower()
    return ROLE_ALIASES.get(word, _SUFFIX_ROLES.get(word, word))


def role_alone(description: AnyDescription) -> str:
    """The role of a lone file of which nobody says one: that of a model that reads one sequence; else empty."""
    inputs = description.inputs
    return inputs[0].role if len(inputs) == 1 else ""


def is_label_name(told: str) -> bool:
    """Whether a file's name says that it holds somebody's answer, as BraTS names its own."""
    return _LABELS.search(told[-64:]) is not None


def fitting_set(description: AnyDescription, given: Sequence[str]) -> tuple[str, ...]:
    """The best set of roles that what is given fills.

    Raises
    ------
    Refused
        ``roles-unfilled``, naming for each set what is missing.
    """
    for names in description.accepted_roles:
        if set(names) <= set(given):
            return names
    missing = [
        f"{' and '.join(role for role in names if role not in given)} (for {' + '.join(names)})"
        for names in description.accepted_roles
    ]
    raise Refused(RefusalCode.ROLES_UNFILLED, f"also {', or '.join(missing)}", ", ".join(sorted(given)) or "no role")
