"""Coded items of a photograph's header: where on the body it was taken, and of what kind it is declared to be.

PS3.3 section 10.5 (Anatomic Region Sequence), C.7.6.14 (Acquisition Context), table 8.8-1 (code items).  The kind is
declared by a content item of the acquisition context, concept name (121139, DCM, Modality), with a value of CID 29:
(DMS, DCM) through a dermatoscope, (XC, DCM) by a camera alone.  The SOP class Dermoscopic Photography and the Modality
DMS say the first by themselves; Modality XC says nothing, because photographs of both kinds are filed under it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dicom_node.volume.attributes import (
    ACQUISITION_CONTEXT,
    ANATOMIC_REGION,
    CODE_ELEMENTS,
    CONCEPT_CODE,
    CONCEPT_NAME,
    Attribute,
)

DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"
_MODALITY_CONCEPT = ("121139", "DCM")
_KINDS = {("DMS", "DCM"): "dermoscopic", ("XC", "DCM"): "plain"}
_PLACES = ([ANATOMIC_REGION], [ACQUISITION_CONTEXT, CONCEPT_NAME], [ACQUISITION_CONTEXT, CONCEPT_CODE])
_MAX_ITEMS = 64

Raw = dict[int, bytes]
Put = Callable[[dict[str, Any], Attribute, bytes], None]


@dataclass
class CodedItems:
    """Collects code items while the walk goes by."""

    _region: Raw | None = None
    _region_is_over: bool = False
    _context: list[tuple[Raw, Raw]] = field(default_factory=list)

    def begin_item(self, path: Sequence[int]) -> None:
        """An item begins in the sequence at `path`."""
        if path == [ANATOMIC_REGION]:
            self._region_is_over = self._region is not None
            self._region = self._region if self._region is not None else {}
        elif path == [ACQUISITION_CONTEXT] and len(self._context) < _MAX_ITEMS:
            self._context.append(({}, {}))

    def wants(self, path: Sequence[int]) -> bool:
        """Whether elements of an item at `path` are kept."""
        return path in _PLACES

    def take(self, path: Sequence[int], tag: int, raw: bytes) -> None:
        """One element of a code item; of several items of a code sequence the first counts."""
        if path == [ANATOMIC_REGION]:
            if self._region is not None and not self._region_is_over:
                self._region[tag] = raw
        elif self._context:
            self._context[-1][path[-1] == CONCEPT_CODE].setdefault(tag, raw)

    def put(self, header: dict[str, Any], put: Put) -> None:
        """Write what was found into the header; `put` reads one value as its VR says."""
        if self._region:
            value, scheme, meaning = _code(self._region, put)
            if value and scheme:
                header["AnatomicRegionCode"], header["AnatomicRegionScheme"] = value, scheme
                header["AnatomicRegionMeaning"] = meaning
        declared = {
            kind
            for name, value in self._context
            if _code(name, put)[:2] == _MODALITY_CONCEPT and (kind := _KINDS.get(_code(value, put)[:2])) is not None
        }
        if header.get("SOPClassUID") == DERMOSCOPIC_PHOTOGRAPHY or header.get("Modality") == "DMS":
            declared.add("dermoscopic")
        if len(declared) == 1:  # two kinds at once are none
            header["DeclaredPicture"] = declared.pop()


def _code(raw: Raw, put: Put) -> tuple[str, str, str]:
    """Value, scheme and meaning; empty where absent or unreadable."""
    found: dict[str, Any] = {}
    for tag, encoded in raw.items():
        put(found, CODE_ELEMENTS[tag], encoded)
    value = found.get("CodeValue") or found.get("LongCodeValue") or ""
    return str(value), str(found.get("CodingSchemeDesignator") or ""), str(found.get("CodeMeaning") or "")
