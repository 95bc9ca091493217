"""The keys that sign heads of the audit log: Ed25519 (RFC 8032), one that signs, all that ever did to verify.

The key file has one key a line, ``id  made at  public  private``, the last of which signs; the private half of an older
one is gone and a dash stands for it.  It is a stored file: mode 0600, sealed where those are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dicom_node import files
from dicom_node.record import now
from dicom_node.sealing import at_rest
from dicom_node.settings import SettingsRefused, check_private

KEY_FILE = "audit-keys"
"""Its name in the data folder."""
_GONE = "-"


class AuditKeysRefused(ValueError):
    """A key file that cannot be used; the text names the file and what was expected, never a key."""


@dataclass(frozen=True)
class AuditKey:
    """One key; `private` is None for one that only verifies."""

    key_id: str
    made_at: str
    public: Ed25519PublicKey
    private: Ed25519PrivateKey | None = field(default=None, repr=False)


class AuditKeys:
    """The keys of one installation, read anew for each use: a rotated key counts at once, in every process.

    Parameters
    ----------
    path
        Made with a first key by `signing`, if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self) -> tuple[AuditKey, ...]:
        """Every key, the one that signs last; none before the first head.

        Raises
        ------
        AuditKeysRefused
            When the file may be read by others, or holds something else.
        """
        if not self._path.exists():
            return ()
        try:
            check_private(self._path)
            text = at_rest.read(self._path).decode("ascii")
        except (SettingsRefused, OSError, UnicodeDecodeError) as error:
            found = str(error) if isinstance(error, SettingsRefused) else type(error).__name__
            raise AuditKeysRefused(f"{self._path.name} in the data folder cannot be read: {found}") from None
        try:
            return tuple(_parsed(line) for line in text.splitlines() if line.strip())
        except ValueError:
            raise AuditKeysRefused(
                f"{self._path.name} in the data folder: expected a key a line; bring it back from the back-up."
            ) from None

    def sign(self, data: bytes) -> tuple[str, bytes]:
        """Id of the key that signs, and its signature."""
        known = self.known()
        if not known:
            files.make_once(self._path, lambda: _written([_new()]))
            known = self.known()
        if known[-1].private is None:
            raise AuditKeysRefused(f"{self._path.name} holds no key that signs; `ai-node audit rotate-key` makes one.")
        return known[-1].key_id, known[-1].private.sign(data)

    def rotate(self) -> AuditKey:
        """Sign with a new key from now on; the others verify what they signed, and can sign nothing any more."""
        old = [AuditKey(key.key_id, key.made_at, key.public) for key in self.known()]
        new = _new()
        files.write_sealed(self._path, _written([*old, new]))
        return new


def _new() -> AuditKey:
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    return AuditKey(hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16], now(), public, private)


def _written(keys: list[AuditKey]) -> bytes:
    lines = []
    for key in keys:
        private = _GONE if key.private is None else key.private.private_bytes_raw().hex()
        lines.append(f"{key.key_id}  {key.made_at}  {key.public.public_bytes_raw().hex()}  {private}\n")
    return "".join(lines).encode("ascii")


def _parsed(line: str) -> AuditKey:
    key_id, made_at, public, private = line.split()
    signing = None if private == _GONE else Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private))
    return AuditKey(key_id, made_at, Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)), signing)
