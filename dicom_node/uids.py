"""Derived UIDs: the same name in the same namespace is the same UID for ever (PS3.5 B.2 for the 2.25 root).

Every UID is a name-based UUID (RFC 9562, version 5) written as ``2.25.`` and its decimal value, at most 44 characters.
A site that wants its own root gets root + the decimal value of a shortened sha256 over the same name.
"""

from __future__ import annotations

import hashlib
import uuid

UID_MAX_CHARACTERS = 64

PRODUCT_NAMESPACE = uuid.UUID("4f0d1c62-2d0a-5b6e-9a53-6a3f3d7b9c11")
"""Namespace of what is the same at every site: devices, private coding schemes, the implementation class."""

IMPLEMENTATION_CLASS_UID = f"2.25.{uuid.uuid5(PRODUCT_NAMESPACE, 'implementation-class').int}"
IMPLEMENTATION_VERSION_NAME = "DICOM_AI_NODE_1"
"""(0002,0013), SH 16.  A constant: the bytes of a stored run do not change with a library update."""


def derived_uid(namespace: uuid.UUID, name: str, root: str | None = None) -> str:
    """The UID of `name` in `namespace`, below `root` if the site has one."""
    if root is None:
        return f"2.25.{uuid.uuid5(namespace, name).int}"
    digest = hashlib.sha256(namespace.bytes + name.encode()).digest()
    digits = min(UID_MAX_CHARACTERS - len(root) - 1, 38)
    return f"{root}.{int.from_bytes(digest, 'big') % 10**digits}"


def coding_scheme_uid(designator: str) -> str:
    """UID of a private coding scheme (``99...``), for (0008,0110) Coding Scheme Identification."""
    return derived_uid(PRODUCT_NAMESPACE, "coding-scheme\n" + designator)
