"""Small secrets that have to be read again, sealed before they reach the database: of what a second factor's codes
are made.

A key of its own (a file of mode 0600 in the data folder, made with the first secret; sealed like every stored file
where the site encrypts them), because the database may be encrypted by nobody.  Each secret is bound to what it belongs
to: in another account's row it opens nothing.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dicom_node import files
from dicom_node.sealing import at_rest
from dicom_node.sealing.master_keys import SealBroken

KEY_BYTES, _NONCE_BYTES = 32, 12


def own_key(path: Path) -> bytes:
    """A key of this installation; whoever needs it first makes it, whole or not at all.

    Raises
    ------
    SealBroken
        When the file is there and is no key, or cannot be opened.
    """
    files.make_once(path, lambda: os.urandom(KEY_BYTES))
    key = at_rest.read(path)
    if len(key) != KEY_BYTES:
        raise SealBroken(f"{path.name} in the data folder holds no key: bring it back from the backup")
    return key


class Box:
    """Seals and opens, by the key in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def seal(self, secret: str, of: str) -> str:
        """A secret as it may be kept; `of`: what it belongs to."""
        nonce = os.urandom(_NONCE_BYTES)
        made = AESGCM(own_key(self._path)).encrypt(nonce, secret.encode(), of.encode())
        return base64.b64encode(nonce + made).decode()

    def open(self, kept: str, of: str) -> str:
        """The secret again.

        Raises
        ------
        SealBroken
            When it belongs to something else, was changed, or was sealed by another key.
        """
        raw = base64.b64decode(kept)
        try:
            return AESGCM(own_key(self._path)).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], of.encode()).decode()
        except InvalidTag:
            raise SealBroken("a kept secret was sealed by another key, or for somebody else") from None
