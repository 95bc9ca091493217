"""One-time links into the viewer, and the short-lived cookie they are exchanged for.

A ticket is made on this machine (by `ai-node`, which shares a folder with the web process), is good once and for a few
minutes, and names the one study it opens.  Whoever redeems it gets a signed cookie for that study and no other.

Both are ``payload.signature`` with HMAC-SHA256 under a key of this installation (file 0600, sealed where stored files
are).  That a ticket is good
once is kept on disk, by exclusive creation of a file named by its digest, so that a restart does not forget it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from dicom_node.record.keys import KeyIdentity
from dicom_node.sealing.box import own_key

COOKIE = "ainode_visit"
ANY_STUDY = "*"
UID = re.compile(r"^[0-9]+(\.[0-9]+)*$")
VIEWER_SCOPE = "viewer:read"


@dataclass(frozen=True)
class Visitor(KeyIdentity):
    """A browser that came by a ticket: may view one study (or, with `ANY_STUDY`, all)."""

    study: str = ""

    @property
    def actor(self) -> str:
        return f"visitor:{self.name}"


class TicketRefused(Exception):
    """The ticket is not ours, too old, spent, or for another study."""


class TicketOffice:
    """Makes and redeems tickets; makes and reads the visitor's cookie.

    Parameters
    ----------
    folder
        Private folder shared by the processes of this installation; made with mode 0700.
    ticket_life_s, visit_life_s
        How long a ticket waits, and how long a visit lasts.
    clock
        Seconds since 1970; wall clock, because tickets pass between processes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ticket_life_s: float = 900.0,
        visit_life_s: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._ticket_life_s = ticket_life_s
        self.visit_life_s = visit_life_s
        self._clock = clock
        self._spent = folder / "spent"
        self._spent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = own_key(folder / "ticket.key")

    def issue(self, study: str) -> str:
        """A ticket for one Study Instance UID, or for `ANY_STUDY`.

        Raises
        ------
        ValueError
            If it is neither.
        """
        if study != ANY_STUDY and (len(study) > 64 or not UID.fullmatch(study)):
            raise ValueError("a ticket is for one Study Instance UID, or for any")
        expires = int(self._clock() + self._ticket_life_s)
        return self._sign({"use": "ticket", "study": study, "exp": expires, "id": secrets.token_urlsafe(12)})

    def link(self, base_url: str, study: str) -> str:
        """The whole address to print: ``BASE/open?ticket=...&study=...``."""
        return f"{base_url.rstrip('/')}/open?{urlencode({'ticket': self.issue(study), 'study': study})}"

    def redeem(self, ticket: str, study: str) -> str:
        """Exchange a ticket for the value of the visitor's cookie.

        Raises
        ------
        TicketRefused
        """
        payload = self._read(ticket, "ticket")
        if payload is None or not hmac.compare_digest(str(payload["study"]), study):
            raise TicketRefused("not a living ticket for this study")
        self._sweep()
        name = hashlib.sha256(ticket.encode()).hexdigest()
        try:
            os.close(os.open(self._spent / f"{payload['exp']}-{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            raise TicketRefused("this ticket was used before") from None
        expires = int(self._clock() + self.visit_life_s)
        return self._sign({"use": "visit", "study": study, "exp": expires})

    def visitor(self, cookies: Mapping[str, str]) -> Visitor | None:
        """Who a request's cookies say it is, or None."""
        payload = self._read(cookies.get(COOKIE, ""), "visit")
        if payload is None:
            return None
        return Visitor("visitor", "", frozenset({VIEWER_SCOPE}), study=str(payload["study"]))

    def _sign(self, payload: Mapping[str, Any]) -> str:
        body = base64.urlsafe_b64encode(json.dumps(payload, sort_keys=True).encode()).decode().rstrip("=")
        return f"{body}.{self._mac(body)}"

    def _mac(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()

    def _read(self, signed: str, use: str) -> dict[str, Any] | None:
        body, _, signature = signed.partition(".")
        if not body.isascii() or not hmac.compare_digest(self._mac(body).encode(), signature.encode()):
            return None
        # Signed by us, so it is what `_sign` wrote.
        payload: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return payload if payload["use"] == use and self._clock() < payload["exp"] else None

    def _sweep(self) -> None:
        for path in self._spent.iterdir():
            if int(path.name.partition("-")[0]) < self._clock():
                path.unlink(missing_ok=True)
