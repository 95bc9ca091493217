"""Passwords: what one must be, and how it is kept (S7)."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher

from dicom_node import passwords
from dicom_node.passwords import PasswordRefused

pytestmark = pytest.mark.unit

GOOD = (
    "una tarde con lluvia y sopa",
    "cuatro gatos miran el volcán",
    "correct horse battery staple",
    "ñandú-9-lago-Rupanco",
)


@pytest.mark.parametrize("password", GOOD)
def test_a_sentence_is_taken_whatever_characters_it_has(password: str) -> None:
    passwords.check(password, "eva@hospital.example", "Eva Rojas")


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "too-short"),
        ("k4#Qz!9pLw2", "too-short"),  # eleven characters, of every kind: length counts, composition does not
        ("x" * 257, "too-long"),
        ("password1234", "too-common"),
        ("Password2024!", "too-common"),
        ("qwertyuiop123", "too-common"),
        ("aaaaaaaaaaaaaaaa", "too-common"),
        ("123456789012", "too-common"),
        ("contraseña2024", "too-common"),
        ("dermatologia1", "too-common"),
        ("hospital2026!", "too-common"),
        ("evarojas2026", "too-common"),
        ("eva@hospital.example", "too-common"),
    ],
)
def test_short_and_common_ones_are_refused_with_a_reason(password: str, reason: str) -> None:
    with pytest.raises(PasswordRefused) as refused:
        passwords.check(password, "eva@hospital.example", "Eva Rojas")
    assert refused.value.reason == reason
    assert password not in str(refused.value) or password == ""


def test_the_longest_that_is_taken_is_judged_in_no_time() -> None:
    passwords.check("".join(chr(0x4E00 + n * 7) for n in range(256)))


def test_kept_is_argon2id_and_no_two_alike() -> None:
    first, second = passwords.hash_of(GOOD[0]), passwords.hash_of(GOOD[0])
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$") and first != second
    assert passwords.is_right(first, GOOD[0]) and passwords.is_right(second, GOOD[0])
    assert not passwords.is_right(first, GOOD[0].upper())
    assert not passwords.is_right(first, "")
    assert not passwords.is_outdated(first)


def test_what_looks_the_same_is_the_same() -> None:
    """A phone writes ñ as one character, another keyboard as n and a tilde."""
    kept = passwords.hash_of("un ñandú corre mucho")
    assert passwords.is_right(kept, "un n\u0303andu\u0301 corre mucho")


def test_an_account_that_does_not_exist_has_no_password() -> None:
    assert not passwords.is_right(None, "nobody has this password")
    assert not passwords.is_right("no hash", GOOD[0])


def test_a_hash_of_yesterday_is_known_as_one() -> None:
    assert passwords.is_outdated(PasswordHasher(time_cost=1, memory_cost=8192).hash(GOOD[0]))
