"""Identifiers of people, their check digits, and the one way in which each is written.

*RUT* (Chile, DL 3/1969): 7 or 8 digits and a check digit by modulus 11, written ``12345678-5``, without dots and with a
capital K, as the Chilean core profile of FHIR writes it.  *Cédula* (Ecuador, Registro Civil): ten digits, the first two
the province (01 to 24, 30 abroad), the last a check digit by modulus 10.  The rule that its third digit is below six
held for old numbers and is not asked for: a person is not turned away by it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

from dicom_node.refusals import RefusalCode, Refused

_RUT = re.compile(r"(\d{1,3}(?:\.\d{3}){2}|\d{7,8})-?([\dkK])")
_CEDULA = re.compile(r"(\d{9})-?(\d)")
_PROVINCES = frozenset({*range(1, 25), 30})


def normalised(value: str, check: str) -> str:
    """An identifier as it is written everywhere.

    Parameters
    ----------
    value
        As it was typed or scanned.
    check
        How it is verified: ``rut``, ``cedula-ec``, or empty for an identifier without a check digit.

    Raises
    ------
    Refused
        ``patient-unidentified`` for nothing; ``validation`` for a form or a check digit that this kind cannot have.
        Neither says what was typed.
    """
    told = unicodedata.normalize("NFKC", value).strip()
    if not told:
        raise Refused(RefusalCode.PATIENT_UNIDENTIFIED, "an identifier of the patient", "none")
    return _KINDS[check](told)


def _as_it_is(told: str) -> str:
    return " ".join(told.split())


def _rut(told: str) -> str:
    found = _RUT.fullmatch("".join(told.split()))
    if found is None:
        raise _invalid("a RUT such as 12345678-5")
    digits, given = found[1].replace(".", ""), found[2].upper()
    total = sum(int(digit) * (2 + place % 6) for place, digit in enumerate(reversed(digits)))
    if given != "0123456789K"[-total % 11]:
        raise _invalid("a RUT whose check digit fits its number")
    return f"{int(digits)}-{given}"


def _cedula(told: str) -> str:
    found = _CEDULA.fullmatch("".join(told.split()))
    if found is None or int(found[1][:2]) not in _PROVINCES:
        raise _invalid("an Ecuadorian cédula: ten digits, the first two a province")
    doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(found[1])]
    total = sum(number - 9 if number > 9 else number for number in doubled)
    if int(found[2]) != -total % 10:
        raise _invalid("a cédula whose check digit fits its number")
    return found[1] + found[2]


def _invalid(expected: str) -> Refused:
    return Refused(RefusalCode.VALIDATION, expected, "another number")


_KINDS: Mapping[str, Callable[[str], str]] = {"": _as_it_is, "rut": _rut, "cedula-ec": _cedula}
