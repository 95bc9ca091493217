"""Identifiers of people: check digits, one way of writing each, and what is refused."""

from __future__ import annotations

import random

import pytest

from dicom_node.identity import normalised
from dicom_node.refusals import Refused

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("12.345.678-5", "12345678-5"),
        ("12345678-5", "12345678-5"),
        ("123456785", "12345678-5"),
        (" 12 345 678 - 5 ", "12345678-5"),
        ("6-K", None),
        ("10.000.013-k", "10000013-K"),
        ("05.126.663-3", "5126663-3"),
        ("１２３４５６７８-5", "12345678-5"),
    ],
)
def test_a_rut_is_written_in_one_way(typed: str, written: str | None) -> None:
    if written is None:
        with pytest.raises(Refused):
            normalised(typed, "rut")
    else:
        assert normalised(typed, "rut") == written


def rut_digit(number: int) -> str:
    """By the algorithm of the Registro Civil, in its own words: factors 2 to 7, eleven minus the rest."""
    total, factor = 0, 2
    while number:
        number, digit = divmod(number, 10)
        total, factor = total + digit * factor, 2 if factor == 7 else factor + 1
    rest = 11 - total % 11
    return {11: "0", 10: "K"}.get(rest, str(rest))


def test_every_check_digit_but_one_refuses_a_rut() -> None:
    dice = random.Random(9)
    for number in (dice.randrange(1_000_000, 30_000_000) for _ in range(300)):
        right = rut_digit(number)
        assert normalised(f"{number}{right.lower()}", "rut") == f"{number}-{right}"
        for wrong in set("0123456789K") - {right}:
            with pytest.raises(Refused) as refused:
                normalised(f"{number}-{wrong}", "rut")
            assert refused.value.refusal.code == "validation"
            assert str(number) not in str(refused.value.refusal)


@pytest.mark.parametrize("cedula", ["1710034065", "0926687856", "171003406-5", "3050291230"])
def test_a_cedula_with_its_check_digit(cedula: str) -> None:
    assert normalised(cedula, "cedula-ec") == cedula.replace("-", "")


@pytest.mark.parametrize("wrong", ["1710034066", "9910034065", "0010034065", "171003406", "17100340655", "1710O34065"])
def test_a_cedula_that_cannot_be(wrong: str) -> None:
    with pytest.raises(Refused) as refused:
        normalised(wrong, "cedula-ec")
    assert wrong not in str(refused.value.refusal)


def test_one_digit_changed_is_always_seen() -> None:
    for place in range(10):
        for digit in set("0123456789") - {"1710034065"[place]}:
            changed = "1710034065"[:place] + digit + "1710034065"[place + 1 :]
            with pytest.raises(Refused):
                normalised(changed, "cedula-ec")


def test_an_identifier_without_a_check_digit_stays_as_it_is() -> None:
    assert normalised("  A 17/b  ", "") == "A 17/b"
    for kind in ("", "rut", "cedula-ec"):
        with pytest.raises(Refused) as refused:
            normalised("   ", kind)
        assert refused.value.refusal.code == "patient-unidentified"
