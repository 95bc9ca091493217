"""The door: what other systems send arrives here and is kept.

Storage and Verification service class provider (PS3.4 annexes A and B; PS3.7 9.1.1 and 9.1.5; PS3.8), and the vault of
received bytes (PS3.10 7).  The room's one verb is `Door`: it listens, and every 0000 it sends means that the bytes are
durable and their row is committed (I1).  It does not decode pixel data, does not judge meaning, and starts no job.
"""

from dicom_node.door.intake import Intake
from dicom_node.door.passing import Passer
from dicom_node.door.quiet import silence_libraries
from dicom_node.door.server import Door
from dicom_node.door.storage import Disk, Storage
from dicom_node.door.table import SOP_CLASSES, TRANSFER_SYNTAXES, Use, is_input
from dicom_node.door.vault import Vault

__all__ = [
    "SOP_CLASSES",
    "TRANSFER_SYNTAXES",
    "Disk",
    "Door",
    "Intake",
    "Passer",
    "Storage",
    "Use",
    "Vault",
    "is_input",
    "silence_libraries",
]
