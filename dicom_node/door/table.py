"""The one table of what the door accepts: SOP Classes (PS3.4 B.5, PS3.6 A) and transfer syntaxes (PS3.5 10).

Everything that is not here is not negotiated: the presentation context is answered with result 3 (abstract syntax) or
4 (transfer syntaxes).  Private classes, raw data, colour MR, deflated and big-endian encodings are left out on
purpose; the deflated syntax inflates without a limit (hardening 4.3).
"""

from __future__ import annotations

from enum import StrEnum

VERIFICATION = "1.2.840.10008.1.1"

EXPLICIT_LE = "1.2.840.10008.1.2.1"
IMPLICIT_LE = "1.2.840.10008.1.2"


class Use(StrEnum):
    """What happens to an accepted object."""

    INPUT = "input"
    """Images: stored, indexed, gathered, routed."""
    RESULT = "result"
    """Objects that systems write about images: stored, never an input of a model (I18)."""
    REFUSED = "refused"
    """Images that are mistaken for those we read: negotiated, so that the sender hears why not (0122), never stored."""


SOP_CLASSES: dict[str, tuple[str, Use]] = {
    "1.2.840.10008.5.1.4.1.1.4": ("MR Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.4.1": ("Enhanced MR Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.4.4": ("Legacy Converted Enhanced MR Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.2": ("CT Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.2.1": ("Enhanced CT Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.2.2": ("Legacy Converted Enhanced CT Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.77.1.4": ("VL Photographic Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.77.1.7": ("Dermoscopic Photography Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.7": ("Secondary Capture Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.7.4": ("Multi-frame True Color Secondary Capture Image", Use.INPUT),
    "1.2.840.10008.5.1.4.1.1.77.1.1": ("VL Endoscopic Image", Use.REFUSED),
    "1.2.840.10008.5.1.4.1.1.66.4": ("Segmentation", Use.RESULT),
    "1.2.840.10008.5.1.4.1.1.66.7": ("Label Map Segmentation", Use.RESULT),
    "1.2.840.10008.5.1.4.1.1.88.22": ("Enhanced SR", Use.RESULT),
    "1.2.840.10008.5.1.4.1.1.88.33": ("Comprehensive SR", Use.RESULT),
    "1.2.840.10008.5.1.4.1.1.88.34": ("Comprehensive 3D SR", Use.RESULT),
    "1.2.840.10008.5.1.4.1.1.88.59": ("Key Object Selection Document", Use.RESULT),
    "1.2.840.10008.5.1.4.1.1.104.1": ("Encapsulated PDF", Use.RESULT),
    "1.2.840.10008.5.1.4.1.1.11.1": ("Grayscale Softcopy Presentation State", Use.RESULT),
    "1.2.840.10008.5.1.4.1.1.67": ("Real World Value Mapping", Use.RESULT),
    "1.2.840.10008.5.1.4.1.1.30": ("Parametric Map", Use.RESULT),
}

TRANSFER_SYNTAXES: dict[str, str] = {
    EXPLICIT_LE: "Explicit VR Little Endian",
    IMPLICIT_LE: "Implicit VR Little Endian",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline (Process 1)",
    "1.2.840.10008.1.2.4.51": "JPEG Extended (Process 2 and 4)",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless, Non-Hierarchical (Process 14)",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, Non-Hierarchical, First-Order Prediction",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-Lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "HTJ2K Lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K Lossless RPCL",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
}
"""In our order of preference.  All but Implicit VR Little Endian are explicit VR, little endian."""


def is_kept(sop_class_uid: str) -> bool:
    """Whether objects of this class are stored at all."""
    entry = SOP_CLASSES.get(sop_class_uid)
    return entry is not None and entry[1] is not Use.REFUSED


def is_input(sop_class_uid: str) -> bool:
    """Whether objects of this class may be an input of a model."""
    entry = SOP_CLASSES.get(sop_class_uid)
    return entry is not None and entry[1] is Use.INPUT


def is_explicit(transfer_syntax_uid: str) -> bool:
    """Whether data sets in this transfer syntax carry their value representations."""
    return transfer_syntax_uid != IMPLICIT_LE
