"""The keys that sign the tokens of the LUNA API (S5, S8): the newest signs, the older ones only verify.

One file of mode 0600 in the data folder, made at the first start, sealed where stored files are.  `rotate` adds a key
and throws away those whose last token has ended; every process that reads the file sees the change with its next token,
so nobody is signed out and nothing is restarted.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dicom_node import files
from dicom_node.sealing import at_rest
from dicom_node.settings import SettingsRefused, check_private

NAME = "luna-keys.json"
"""Of the file, in the data folder."""


@dataclass(frozen=True)
class SigningKey:
    """One Ed25519 key (RFC 8032) and its name in the header of a token."""

    kid: str
    private: Ed25519PrivateKey
    made_at: datetime

    @property
    def public(self) -> Ed25519PublicKey:
        return self.private.public_key()


class KeyFile:
    """The keys of one installation.

    Parameters
    ----------
    path
        Made with a first key if it is not there.

    Raises
    ------
    SettingsRefused
        When the file may be read by others, or holds something else.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] = (0, 0)
        self._keys: tuple[SigningKey, ...] = ()
        files.make_once(path, lambda: _written([_new(self._clock())]))
        self.known()

    def known(self) -> tuple[SigningKey, ...]:
        """Every key, the one that signs last; read again when the file was changed."""
        status = self._path.stat()
        stamp = (status.st_ino, status.st_mtime_ns)
        with self._lock:
            if stamp != self._stamp:
                self._keys = _parsed(self._path)
                self._stamp = stamp
            return self._keys

    def signing(self) -> SigningKey:
        """The key that signs."""
        return self.known()[-1]

    def verifying(self, kid: str) -> Ed25519PublicKey | None:
        """The public key of this name; None for a name that is not one of ours."""
        return next((key.public for key in self.known() if key.kid == kid), None)

    def rotate(self, lifetime: timedelta) -> SigningKey:
        """Begin to sign with a new key.

        Parameters
        ----------
        lifetime
            Of a token: a key whose successor is older than that verifies nothing that could still be alive, and goes.
        """
        new = _new(self._clock())
        known = [*self.known(), new]
        living = [key for key, successor in itertools.pairwise(known) if new.made_at - successor.made_at < lifetime]
        files.write_sealed(self._path, _written([*living, new]))
        return new


def _new(made_at: datetime) -> SigningKey:
    private = Ed25519PrivateKey.generate()
    kid = hashlib.sha256(private.public_key().public_bytes_raw()).hexdigest()[:16]
    return SigningKey(kid, private, made_at)


def _written(keys: list[SigningKey]) -> bytes:
    told = [
        {
            "kid": key.kid,
            "private": base64.b64encode(key.private.private_bytes_raw()).decode(),
            "made_at": key.made_at.isoformat(),
        }
        for key in keys
    ]
    return json.dumps({"keys": told}, indent=1).encode()


def _parsed(path: Path) -> tuple[SigningKey, ...]:
    try:
        check_private(path)
        told: list[dict[str, Any]] = json.loads(at_rest.read(path))["keys"]
        found = tuple(
            SigningKey(
                str(one["kid"]),
                Ed25519PrivateKey.from_private_bytes(base64.b64decode(one["private"], validate=True)),
                datetime.fromisoformat(one["made_at"]),
            )
            for one in told
        )
    except (ValueError, KeyError, TypeError):
        found = ()
    if not found:
        raise SettingsRefused(
            f"{path.name} in the data folder holds no keys that can be read: bring it back from the back-up, or remove "
            "it; the next start makes a new one and every LUNA client signs in again."
        )
    return found
