"""Tokens of the LUNA API: JSON Web Tokens (RFC 7519) that can be ended on the server (hardening S8).

One algorithm, EdDSA, chosen here and never by a token's header.  The header may say `alg`, `typ` and `kid` and nothing
else, so no token can bring a key along (`jwk`), point at one (`jku`, `x5u`) or ask for more (`crit`); `kid` is looked
up among our own keys.  A token that is whole is still nothing without the living session that its `jti` stands for:
that row is what signing out, a new password and a new role end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt

from portal.luna.keys import KeyFile

ALGORITHM = "EdDSA"
TYPE = "JWT"
USE = "access"
AUDIENCE = "luna"
LEEWAY_S = 30
MAX_LETTERS = 2048
_HEADER = frozenset({"alg", "typ", "kid"})
_CLAIMS = ("exp", "nbf", "iat", "iss", "aud", "sub", "jti")


@dataclass(frozen=True)
class Issued:
    """A token, and when it ends."""

    token: str
    expires_at: datetime


@dataclass(frozen=True)
class Claims:
    """What a token says that is signed by us, for us, and not ended by its own clock."""

    subject: str
    jti: str


class Tokens:
    """Makes tokens and checks them.

    Parameters
    ----------
    issuer
        URI of this installation: a token of another node that shares a key by accident is a stranger's.
    lifetime
        From signing in; LUNA's clients cannot refresh.
    """

    def __init__(
        self,
        keys: KeyFile,
        issuer: str,
        lifetime: timedelta,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self.lifetime = lifetime
        self._clock = clock

    def issue(self, subject: str, jti: str) -> Issued:
        """A token for an account, by its public id, and for a session, by its secret."""
        key, now = self._keys.signing(), self._clock()
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": subject,
            "jti": jti,
            "use": USE,
            "iat": now,
            "nbf": now,
            "exp": now + self.lifetime,
        }
        token = jwt.encode(claims, key.private, ALGORITHM, headers={"kid": key.kid, "typ": TYPE})
        return Issued(token, now + self.lifetime)

    def check(self, token: str) -> Claims | None:
        """What a token says, or None when it is not one that this node gave out and that is still good."""
        if len(token) > MAX_LETTERS:
            return None
        try:
            header = jwt.get_unverified_header(token)
            if set(header) != _HEADER or header["alg"] != ALGORITHM or header["typ"] != TYPE:
                return None
            key = self._keys.verifying(str(header["kid"]))
            if key is None:
                return None
            told = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": list(_CLAIMS), "strict_aud": True},
            )
        except jwt.PyJWTError:
            return None
        if told.get("use") != USE or not isinstance(told["sub"], str) or not isinstance(told["jti"], str):
            return None
        return Claims(told["sub"], told["jti"])
