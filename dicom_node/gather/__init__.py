"""When is a series complete, and when has a study become quiet?

DICOM has no message that says so; the node grades the evidence (design section 4, standards 5.7).  The room's one verb
is `Gatherer`: it closes series into revisions, each a committed row, then tells the road, once.  `grade` is the pure
rule.  Modality Performed Procedure Step and Instance Availability Notification are not received.
"""

from dicom_node.gather.archive import ArchiveCounts
from dicom_node.gather.evidence import Evidence, Patience, grade
from dicom_node.gather.gatherer import Gatherer
from dicom_node.gather.indexer import Indexer

__all__ = ["ArchiveCounts", "Evidence", "Gatherer", "Indexer", "Patience", "grade"]
