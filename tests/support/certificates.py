"""A site authority of a test, with certificates that are right and certificates that are wrong in one way each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dicom_node.authority import LOCAL_NAMES, NODE_DAYS, issue, make_authority, write_public
from dicom_node.files import write_durably
from dicom_node.tls import Identity


@dataclass(frozen=True)
class Site:
    """A folder with an authority in it."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"

    def issue(
        self,
        common_name: str,
        names: Sequence[str] = LOCAL_NAMES,
        *,
        moment: datetime | None = None,
        days: int = NODE_DAYS,
        stem: str = "",
    ) -> Identity:
        """A certificate and its key; the same stem again replaces both, as `ai-node tls renew` does."""
        certificate, key = issue(self.authority, common_name, names, "", moment or datetime.now(UTC), days)
        stem = stem or common_name.lower()
        found = Identity(self.folder / f"{stem}.pem", self.folder / f"{stem}.key", self.authority)
        write_durably(found.private_key_file, key)
        write_public(found.certificate_file, certificate)
        return found

    def expired(self, common_name: str) -> Identity:
        """A certificate that ended yesterday."""
        return self.issue(
            common_name, moment=datetime.now(UTC) - timedelta(days=31), days=30, stem=f"{common_name.lower()}-expired"
        )


def new_site(folder: Path) -> Site:
    """An authority in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    make_authority(folder / "authority.pem", "Test", datetime.now(UTC))
    return Site(folder)
