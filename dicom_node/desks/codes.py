"""Codes of a second factor: time-based ones of an authenticator app (RFC 6238), and ten for when the device is lost.

A code is six digits for half a minute; one step before and after is taken, for clocks that are not quite right.  It
counts once, and none from before the last one counts any more.  A recovery code has 80 random bits, so its digest needs
no slow hash.  How often somebody may guess is `dicom_node.desks.backoff`'s business.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyotp
import structlog
from sqlalchemy import Connection

from dicom_node.permissions import Person, Role
from dicom_node.record import Database, people, second_factors
from dicom_node.record.people import User
from dicom_node.sealing.box import Box
from dicom_node.sealing.master_keys import SealBroken

KEY_FILE = "second-factor.key"
"""In the data folder."""
STEP_S, SKEW = 30, 1
RECOVERY_CODES = 10
Policy = Literal["administrators", "all", "offered"]
_CODE, _RECOVERY = re.compile(r"[0-9]{6}"), re.compile(r"[A-Z2-7]{16}")
_log = structlog.get_logger("people")


@dataclass(frozen=True)
class Enrolment:
    """What an authenticator app needs: the secret in base32, and the same as the address that a QR code says."""

    secret: str = field(repr=False)
    address: str = field(repr=False)


class Codes:
    """Second factors of this installation.

    Parameters
    ----------
    policy
        Who needs one: administrators, all people, or whoever wants it.
    issuer
        How authenticator apps call this node.
    clock
        Seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        policy: Policy = "offered",
        issuer: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._box = Box(folder / KEY_FILE)
        self._policy = policy
        self._issuer = issuer or "dicom-ai-node"
        self._clock = clock

    def is_required(self, roles: Iterable[Role]) -> bool:
        """Whether somebody with these roles needs a second factor."""
        return self._policy == "all" or (self._policy == "administrators" and Role.ADMINISTRATOR in roles)

    # -- a device

    def begin(self, person: Person) -> None:
        """Make the secret of a new device, to be confirmed by a code in the same session."""
        sealed = self._box.seal(pyotp.random_base32(), person.public_id)
        with self._database.write() as connection:
            second_factors.set_pending(connection, _user(connection, person), sealed, person.session_id)

    def pending(self, person: Person) -> Enrolment | None:
        """What the device that waits for its confirmation has to know; only in the session that asked for it."""
        with self._database.read() as connection:
            found = second_factors.of(connection, person.user_id)
        if found is None or not found.pending or found.pending_session != person.session_id:
            return None
        secret = self._box.open(found.pending, person.public_id)
        return Enrolment(secret, pyotp.TOTP(secret).provisioning_uri(name=person.email, issuer_name=self._issuer))

    def confirm(self, person: Person, code: str) -> tuple[str, ...] | None:
        """Begin to ask for codes of the pending device; the recovery codes, shown this once, or None for a wrong code.

        Every other session of the account ends: it was begun without a code.
        """
        enrolment = self.pending(person)
        step = None if enrolment is None else self._step(enrolment.secret, _spelled(code))
        if step is None:
            return None
        made = tuple(_recovery_code() for _ in range(RECOVERY_CODES))
        with self._database.write() as connection:
            user = _user(connection, person)
            digests = [_digest(one) for one in made]
            second_factors.confirm(connection, user, step, digests, person.session_id)
        return made

    def remove(self, person: Person) -> None:
        """Ask for codes no more."""
        with self._database.write() as connection:
            user = _user(connection, person)
            second_factors.remove(connection, person.actor, user, keep_session=person.session_id)

    def left(self, person: Person) -> int:
        """How many recovery codes are left."""
        with self._database.read() as connection:
            found = second_factors.of(connection, person.user_id)
        return 0 if found is None else len(found.recovery)

    # -- a code

    def take(self, connection: Connection, user: User, code: str) -> bool:
        """Whether a code is right, of the device or a recovery code; a right one is spent with the question."""
        found = second_factors.of(connection, user.id)
        if found is None or not found.secret:
            return False
        spelled = _spelled(code)
        if _RECOVERY.fullmatch(spelled):
            return second_factors.spend_recovery(connection, user, _digest(spelled))
        try:
            secret = self._box.open(found.secret, user.public_id)
        except (SealBroken, OSError):  # recovery codes go on; so does an administrator's reset
            _log.error("second-factor.unreadable", kind="key")
            return False
        step = self._step(secret, spelled)
        return step is not None and second_factors.spend_step(connection, user.id, step)

    def _step(self, secret: str, code: str) -> int | None:
        """The step of time whose code this is; every one is looked at, whichever fits."""
        if not _CODE.fullmatch(code):
            return None
        made, here, found = pyotp.TOTP(secret), int(self._clock()) // STEP_S, None
        for step in range(here - SKEW, here + SKEW + 1):
            if hmac.compare_digest(made.generate_otp(step).encode(), code.encode()):
                found = step
        return found


def _user(connection: Connection, person: Person) -> User:
    found = people.user_of_id(connection, person.user_id)
    assert found is not None  # rows are never deleted, and she has just shown her session
    return found


def _spelled(code: str) -> str:
    """A code as it counts, however a person groups it."""
    return re.sub(r"[\s-]", "", code).upper()


def _recovery_code() -> str:
    """Sixteen letters and digits without those that look alike, in fours."""
    letters = base64.b32encode(secrets.token_bytes(10)).decode()
    return "-".join(letters[at : at + 4] for at in range(0, 16, 4))


def _digest(code: str) -> str:
    return hashlib.sha256(_spelled(code).encode()).hexdigest()
