"""Passwords: what one must be, and how it is kept (hardening S7).

No folklore: no classes of characters and no dates of expiry.  A password has 12 characters or more and is nothing that
a guesser tries early; zxcvbn, which brings its lists along and asks nobody, says how early.  It is kept as argon2id
with the parameters of RFC 9106 for machines with little memory.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from functools import cache

from argon2 import PasswordHasher, profiles
from argon2.exceptions import InvalidHashError, VerificationError
from zxcvbn import zxcvbn

MIN_LENGTH, MAX_LENGTH = 12, 256
MIN_GUESSES = 1e10
"""Fewer guesses than this and the password may be found: 19 000 years of what the back-off lets through from strange
places, and centuries of one machine with a stolen table."""
_JUDGED = 72
"""So many characters are looked at: more would only take time."""
_AT_ONCE = threading.BoundedSemaphore(4)
"""Each hash takes 64 MiB for a quarter of a second: fifty doctors at once shall not take 3 GiB."""
_HERE = (
    "luna", "ainode", "dicom", "orthanc", "dermatologia", "dermatologa", "dermatologo", "dermatology", "melanoma",
    "lunar", "hospital", "clinica", "consultorio", "posta", "doctora", "doctor", "medico", "contraseña", "contrasena",
    "clave", "administrador", "secreto", "bienvenido", "bienvenida", "cambiame", "usuario",
)  # fmt: skip
"""Words that lie near here and in no English list."""

_hasher = PasswordHasher.from_parameters(profiles.RFC_9106_LOW_MEMORY)


class PasswordRefused(ValueError):
    """The password may not be used; `reason` says why: too-short, too-long or too-common."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(WORDS[reason])


WORDS = {
    "too-short": f"A password has {MIN_LENGTH} characters or more. A sentence that nobody else says is a good one.",
    "too-long": f"A password has at most {MAX_LENGTH} characters.",
    "too-common": "A guesser tries this password early. Take several words that do not belong together.",
}
"""Fixed words per reason, in English; pages have their own in their own languages."""


def normal(password: str) -> str:
    """One spelling for what looks the same, whatever keyboard it was typed on (RFC 8265 without its prohibitions)."""
    return unicodedata.normalize("NFKC", password)


def check(password: str, *own: str) -> None:
    """Refuse a password that is short or easily guessed.

    Parameters
    ----------
    own
        What is known of its owner: name and e-mail address.

    Raises
    ------
    PasswordRefused
    """
    text = normal(password)
    if len(text) < MIN_LENGTH:
        raise PasswordRefused("too-short")
    if len(text) > MAX_LENGTH:
        raise PasswordRefused("too-long")
    near = [word for said in own for word in (said.lower(), *re.split(r"[\W_]+", said.lower())) if len(word) > 2]
    if zxcvbn(text[:_JUDGED], user_inputs=[*near, *_HERE])["guesses"] < MIN_GUESSES:
        raise PasswordRefused("too-common")


def hash_of(password: str) -> str:
    """argon2id of a password, with salt and parameters."""
    with _AT_ONCE:
        return _hasher.hash(normal(password))


def is_right(stored: str | None, password: str) -> bool:
    """Whether a password is the one that was kept.

    ``None`` stands for an account that does not exist: one hash is computed all the same, so that the time taken does
    not say which accounts do.
    """
    against = _nobodys() if stored is None else stored
    with _AT_ONCE:
        try:
            fits = _hasher.verify(against, normal(password[: MAX_LENGTH * 4]))
        except (VerificationError, InvalidHashError):
            return False
    return fits and stored is not None


def is_outdated(stored: str) -> bool:
    """Whether a hash was made with other parameters than are used today."""
    return _hasher.check_needs_rehash(stored)


@cache
def _nobodys() -> str:
    return _hasher.hash("nobody has this password")


def prepare() -> None:
    """Make what the first refusal needs, so that it takes no longer than the next."""
    _nobodys()
