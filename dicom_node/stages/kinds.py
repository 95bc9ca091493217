"""What a file is, by its first bytes, and which set of roles is filled: known before any image is read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from ai_engine.packages.schema import Description
from dicom_node.refusals import RefusalCode, Refused

_NIFTI_SIZES = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")


def kind_of(path: Path) -> str:
    """What a file's own bytes say that it is: ``zip``, ``dicom``, ``nifti``, or ``""`` for none of them."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:2] == b"\x1f\x8b":
        inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            inside = inflater.decompress(head, 512)
        except zlib.error:
            return "nifti"  # nothing else is read from gzip: the reader of NIfTI says what is wrong with it
        return "nifti" if len(inside) < 4 or _is_nifti_head(inside) else ""
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[128:132] == b"DICM":
        return "dicom"
    return "nifti" if _is_nifti_head(head) else ""


def _is_nifti_head(head: bytes) -> bool:
    return head[:4] in _NIFTI_SIZES or head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def fitting_set(description: Description, given: Sequence[str]) -> tuple[str, ...]:
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
