"""Tokens of the LUNA API: what this node gave out is believed, and nothing else (hardening S8)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dicom_node.settings import SettingsRefused
from portal.luna.keys import KeyFile
from portal.luna.tokens import AUDIENCE, MAX_LETTERS, Claims, Tokens

pytestmark = pytest.mark.unit

ISSUER = "urn:uuid:6f2f7c1e-2f7b-5d0a-9a53-0d4c2c8f0001"
HOURS = timedelta(hours=8)
JTI = "s" * 43


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "luna-keys.json")


@pytest.fixture
def tokens(keys: KeyFile) -> Tokens:
    return Tokens(keys, ISSUER, HOURS)


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Forge:
    """Makes tokens that are wrong in one place; what it is not told to change is right."""

    def __init__(self, keys: KeyFile) -> None:
        self.key = keys.signing()
        self.stranger = Ed25519PrivateKey.generate()

    def header(self, **changes: Any) -> dict[str, Any]:
        return {"alg": "EdDSA", "typ": "JWT", "kid": self.key.kid, **changes}

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(datetime.now(UTC).timestamp())
        told = {"iss": ISSUER, "aud": AUDIENCE, "sub": "u" * 32, "jti": "j" * 43, "use": "access",
                "iat": now, "nbf": now, "exp": now + 3600, **changes}  # fmt: skip
        return {name: value for name, value in told.items() if value is not None}

    def signed(
        self,
        header: dict[str, Any],
        claims: dict[str, Any],
        sign: Callable[[bytes], bytes] | None = None,
    ) -> str:
        body = f"{part(header)}.{part(claims)}"
        return f"{body}.{part((sign or self.key.private.sign)(body.encode()))}"

    def right(self) -> str:
        return self.signed(self.header(), self.claims())

    def by_hmac(self, secret: bytes) -> str:
        header = self.header(alg="HS256")
        return self.signed(header, self.claims(), lambda body: hmac.new(secret, body, hashlib.sha256).digest())

    def with_own_key(self, **said: Any) -> str:
        return self.signed(self.header(**said), self.claims(), self.stranger.sign)

    def jwk(self) -> dict[str, str]:
        return {"kty": "OKP", "crv": "Ed25519", "x": part(self.stranger.public_key().public_bytes_raw())}

    def mixed(self) -> str:
        head, _, tail = self.right().split(".")
        return f"{head}.{part(self.claims(sub='v' * 32))}.{tail}"


def ecdsa(forge: Forge) -> str:
    return jwt.encode(forge.claims(), generate_private_key(SECP256R1()), "ES256", headers={"kid": forge.key.kid})


def pem(forge: Forge) -> bytes:
    return forge.key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


FUTURE = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
PAST = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())

FORGED: dict[str, Callable[[Forge], str]] = {
    "nothing": lambda f: "",
    "a word": lambda f: "token",
    "two dots": lambda f: "..",
    "no algorithm": lambda f: f.signed(f.header(alg="none"), f.claims(), lambda body: b""),
    "no algorithm, otherwise written": lambda f: f.signed(f.header(alg="nOnE"), f.claims(), lambda body: b""),
    "no algorithm, signature kept": lambda f: f.signed(f.header(alg="none"), f.claims()),
    "no signature": lambda f: f.right().rpartition(".")[0] + ".",
    "signature cut": lambda f: f.right()[:-4],
    "public key as a secret": lambda f: f.by_hmac(f.key.public.public_bytes_raw()),
    "public key in PEM as a secret": lambda f: f.by_hmac(pem(f)),
    "empty secret": lambda f: f.by_hmac(b""),
    "kid as a secret": lambda f: f.by_hmac(f.key.kid.encode()),
    "another curve": ecdsa,
    "small letters": lambda f: f.signed(f.header(alg="eddsa"), f.claims()),
    "the new name of the algorithm": lambda f: f.signed(f.header(alg="Ed25519"), f.claims()),
    "a key of his own": lambda f: f.with_own_key(),
    "a key of his own, brought along": lambda f: f.with_own_key(jwk=f.jwk()),
    "a key of his own, elsewhere": lambda f: f.with_own_key(jku="https://evil.example/keys.json"),
    "a certificate elsewhere": lambda f: f.with_own_key(x5u="https://evil.example/chain.pem"),
    "a certificate brought along": lambda f: f.with_own_key(x5c=["MIIB"]),
    "our key, and jwk": lambda f: f.signed(f.header(jwk=f.jwk()), f.claims()),
    "our key, and jku": lambda f: f.signed(f.header(jku="https://evil.example/"), f.claims()),
    "our key, and x5u": lambda f: f.signed(f.header(x5u="https://evil.example/"), f.claims()),
    "our key, and crit": lambda f: f.signed(f.header(crit=["exp"]), f.claims()),
    "our key, and b64": lambda f: f.signed(f.header(b64=False, crit=["b64"]), f.claims()),
    "our key, and zip": lambda f: f.signed(f.header(zip="DEF"), f.claims()),
    "unknown kid": lambda f: f.signed(f.header(kid="0" * 16), f.claims()),
    "kid is a path": lambda f: f.signed(f.header(kid="../../../../dev/null"), f.claims()),
    "kid is SQL": lambda f: f.signed(f.header(kid="' OR 1=1 --"), f.claims()),
    "kid is a number": lambda f: f.signed(f.header(kid=0), f.claims()),
    "no kid": lambda f: f.signed({"alg": "EdDSA", "typ": "JWT"}, f.claims()),
    "another type": lambda f: f.signed(f.header(typ="logout+jwt"), f.claims()),
    "a nested token": lambda f: f.signed(f.header(cty="JWT"), f.claims()),
    "other claims under our signature": lambda f: f.mixed(),
    "for refreshing": lambda f: f.signed(f.header(), f.claims(use="refresh")),
    "for nothing": lambda f: f.signed(f.header(), f.claims(use=None)),
    "for somebody else": lambda f: f.signed(f.header(), f.claims(aud="another")),
    "for us among others": lambda f: f.signed(f.header(), f.claims(aud=[AUDIENCE, "another"])),
    "from somebody else": lambda f: f.signed(f.header(), f.claims(iss="urn:uuid:another")),
    "ended": lambda f: f.signed(f.header(), f.claims(exp=PAST)),
    "ended a minute ago": lambda f: f.signed(f.header(), f.claims(exp=int(datetime.now(UTC).timestamp()) - 60)),
    "not yet": lambda f: f.signed(f.header(), f.claims(nbf=FUTURE)),
    "made in the future": lambda f: f.signed(f.header(), f.claims(iat=FUTURE)),
    "subject is a number": lambda f: f.signed(f.header(), f.claims(sub=1)),
    "jti is a list": lambda f: f.signed(f.header(), f.claims(jti=["a"])),
    "claims are a list": lambda f: f.signed(f.header(), [f.claims()]),  # type: ignore[arg-type]
    "claims are no JSON": lambda f: f.right().split(".")[0] + "." + part(b"{") + ".",
    "too long": lambda f: f.signed(f.header(), f.claims(more="x" * MAX_LETTERS)),
    "letters beyond ASCII": lambda f: f.right() + "é",
    **{f"without {name}": (lambda f, name=name: f.signed(f.header(), f.claims(**{name: None})))  # type: ignore[misc]
       for name in ("exp", "nbf", "iat", "iss", "aud", "sub", "jti")},
}  # fmt: skip


def test_the_forge_makes_right_tokens_where_it_changes_nothing(keys: KeyFile, tokens: Tokens) -> None:
    assert tokens.check(Forge(keys).right()) == Claims("u" * 32, "j" * 43)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_nobodys(keys: KeyFile, tokens: Tokens, name: str) -> None:
    assert tokens.check(FORGED[name](Forge(keys))) is None


def test_a_token_of_ours_says_whose_it_is_and_for_how_long(tokens: Tokens) -> None:
    issued = tokens.issue("a" * 32, JTI)
    assert tokens.check(issued.token) == Claims("a" * 32, JTI)
    left = issued.expires_at - datetime.now(UTC)
    assert timedelta(hours=7, minutes=59) < left <= HOURS
    told = jwt.decode(issued.token, options={"verify_signature": False})
    assert set(told) == {"iss", "aud", "sub", "jti", "use", "iat", "nbf", "exp"}, "nothing about the person"


def test_a_token_ends(keys: KeyFile) -> None:
    old = Tokens(keys, ISSUER, HOURS, clock=lambda: datetime.now(UTC) - HOURS - timedelta(seconds=31))
    young = Tokens(keys, ISSUER, HOURS, clock=lambda: datetime.now(UTC) - HOURS + timedelta(seconds=5))
    assert old.check(old.issue("a" * 32, JTI).token) is None
    assert young.check(young.issue("a" * 32, JTI).token) is not None


def test_keys_change_without_anybody_being_signed_out(keys: KeyFile, tokens: Tokens, tmp_path: Path) -> None:
    before = tokens.issue("a" * 32, JTI).token
    another_process = KeyFile(tmp_path / "luna-keys.json")
    new = another_process.rotate(HOURS)
    after = tokens.issue("a" * 32, JTI).token
    assert jwt.get_unverified_header(after)["kid"] == new.kid != jwt.get_unverified_header(before)["kid"]
    assert tokens.check(before) is not None and tokens.check(after) is not None


def test_a_key_goes_when_nothing_of_it_can_be_alive(keys: KeyFile, tokens: Tokens, tmp_path: Path) -> None:
    first = tokens.issue("a" * 32, JTI).token
    second = keys.rotate(HOURS)
    assert tokens.check(first) is not None
    later = KeyFile(tmp_path / "luna-keys.json", clock=lambda: datetime.now(UTC) + HOURS)
    third = later.rotate(HOURS)
    assert [key.kid for key in keys.known()] == [second.kid, third.kid]
    assert tokens.check(first) is None


def test_the_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "luna-keys.json"
    made = KeyFile(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyFile(path).signing().kid == made.signing().kid, "a restart signs nobody out"
    assert [one.name for one in path.parent.iterdir()] == ["luna-keys.json"]
    os.chmod(path, 0o640)
    with pytest.raises(SettingsRefused, match="0600"):
        KeyFile(path)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"keys": []}', '{"keys": [{"kid": "a", "private": "AA==", "made_at": "x"}]}']
)
def test_a_key_file_that_is_damaged_refuses_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "luna-keys.json"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(SettingsRefused, match="back-up"):
        KeyFile(path)
