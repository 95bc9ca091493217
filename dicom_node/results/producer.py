"""Who made the result: what the equipment modules, the page's footer and TID 1004 say about this installation."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dicom_node.results.uids import device_uid

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_UID_ROOT_MAX_CHARACTERS = 40


@dataclass(frozen=True)
class Producer:
    """This installation, as its results name it.

    Attributes
    ----------
    manufacturer
        Organisation that makes the node: (0008,0070).
    product, version
        Name and version of the node software: (0008,1090), (0018,1020).
    instance_id
        Device Serial Number of this installation: (0018,1000).
    contact
        Whom a reader may ask, printed in the page's footer and in the SR.
    is_research_use_only
        Whether every object carries the research-use words.
    uid_root
        Root below which result UIDs are made instead of ``2.25``; at most 40 characters.
    model_slot
        0, 1, 2 ...: adds 10 x slot to the series numbers, so that two models do not share one.
    """

    manufacturer: str
    product: str
    version: str
    instance_id: str
    contact: str = ""
    is_research_use_only: bool = True
    uid_root: str | None = None
    model_slot: int = 0

    def __post_init__(self) -> None:
        for name in ("manufacturer", "product", "version", "instance_id"):
            if not getattr(self, name).strip():
                raise ValueError(f"a producer needs its {name}: it is type 1 in Enhanced General Equipment")
        if self.uid_root is not None and (
            not _UID.fullmatch(self.uid_root) or len(self.uid_root) > _UID_ROOT_MAX_CHARACTERS
        ):
            raise ValueError(f"uid_root must be a UID of at most {_UID_ROOT_MAX_CHARACTERS} characters")

    def device_uid(self, model: str, model_version: str) -> str:
        """(0018,1002): derived from (product, model, version)."""
        return device_uid(self.product, model, model_version)
