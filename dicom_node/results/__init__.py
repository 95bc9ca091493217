"""Findings in, DICOM objects out.

A finished run's `ai_engine.findings.Findings` and its mask become the objects a PACS keeps:

- Segmentation, BINARY, on the grid of the series it was drawn on (PS3.3 A.51, C.8.20);
- Comprehensive 3D SR with template TID 1500, whose measurement groups point at the segments (PS3.16 TID 1500, 1411,
  1501, 4019);
- an Encapsulated PDF of one page (PS3.3 A.45.1) with overlay pictures;
- of a photograph: a Secondary Capture with the heat map (PS3.3 A.8.1) in place of the segmentation, and an Enhanced SR;
- for a superseded result set, a Key Object Selection that rejects it (PS3.3 A.35.4, PS3.16 TID 2010).

Everything is a function of its arguments: no clock, no random numbers, no environment.  The same run built again is
the same bytes, so a retry can never put a second, different object into an archive.

`build` is the public verb, `build_picture` the same for a photograph.  `check` and `check_picture` read what was built
by another path than the one that wrote it and refuse (`result-check-failed`) unless masks, numbers and pictures are
where and what they were.  `build_rejection` writes the key object selection.  Patient and study attributes come from
the source images, which must agree on them (`patient-conflict`).
"""

from dicom_node.results.assembly import build, build_picture, build_rejection
from dicom_node.results.check import check
from dicom_node.results.check_picture import check_picture
from dicom_node.results.pictures import side_by_side
from dicom_node.results.producer import Producer
from dicom_node.results.uids import device_uid, tracking_key, tracking_uid

__all__ = [
    "Producer",
    "build",
    "build_picture",
    "build_rejection",
    "check",
    "check_picture",
    "device_uid",
    "side_by_side",
    "tracking_key",
    "tracking_uid",
]
