"""Element values as JSON values, strictly: a value that its VR does not allow is named unreadable, never repaired.

PS3.5 section 6.2 (value representations) and section 6.1 (character repertoires).
"""

from __future__ import annotations

import logging
import math
import re
import struct
import warnings
from typing import Any

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
_INTEGER = re.compile(r"[+-]?\d{1,12}\Z")
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FD": "d", "FL": "f"}
_TEXT_IN_CHARSET = frozenset({"LO", "SH", "PN", "LT", "ST", "UT", "UC"})

logging.getLogger("pydicom").addHandler(logging.NullHandler())


class Unreadable(ValueError):
    """The bytes are not a value of their VR."""


def read_value(raw: bytes, vr: str, order: str, charsets: list[str]) -> Any:
    """The JSON value of one element: a number, a text, a list of them, or None where there is no value.

    Parameters
    ----------
    vr
        As the attribute table gives it; what the file claims does not count.
    order
        "<" or ">", for binary values.
    charsets
        Specific Character Set of the data set, as found.

    Raises
    ------
    Unreadable
        If the bytes are not such a value.
    """
    if vr in _BINARY:
        return _one_or_list(_binary(raw, vr, order))
    if vr in _TEXT_IN_CHARSET:
        text = _decode(raw, vr, charsets)
    else:
        try:
            text = raw.decode("ascii")
        except UnicodeDecodeError:
            raise Unreadable(vr) from None
    parts = [part.strip(" \0") for part in text.split("\\")] if vr not in ("LT", "ST", "UT") else [text.rstrip(" \0")]
    if not any(parts):
        return None
    if vr == "DS":
        return _one_or_list([_decimal(part) for part in parts])
    if vr == "IS":
        return _one_or_list([_integer(part) for part in parts])
    return _one_or_list(parts)


def _one_or_list(values: list[Any]) -> Any:
    if not values:
        return None
    return values[0] if len(values) == 1 else values


def _binary(raw: bytes, vr: str, order: str) -> list[Any]:
    code = _BINARY[vr]
    size = struct.calcsize(code)
    if len(raw) % size:
        raise Unreadable(vr)
    numbers = list(struct.unpack(f"{order}{len(raw) // size}{code}", raw))
    if any(not math.isfinite(number) for number in numbers):
        raise Unreadable(vr)
    return numbers


def _decimal(text: str) -> float:
    if not _DECIMAL.match(text):
        raise Unreadable("DS")
    number = float(text)
    if not math.isfinite(number):
        raise Unreadable("DS")
    return number


def _integer(text: str) -> int:
    if not _INTEGER.match(text):
        raise Unreadable("IS")
    return int(text)


def _decode(raw: bytes, vr: str, charsets: list[str]) -> str:
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    from pydicom.charset import convert_encodings, decode_bytes

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encodings = convert_encodings(charsets or [""])
            text = decode_bytes(raw, encodings, {"\\", "^", "="} if vr == "PN" else {"\\", "\r", "\n", "\t", "\f"})
    except (UserWarning, LookupError, UnicodeError, ValueError, TypeError):
        raise Unreadable(vr) from None
    if "�" in text:
        raise Unreadable(vr)
    return str(text)


def escaped(raw: bytes) -> str:
    """Undecodable text as ASCII in which different bytes stay different; good for equality, not for display."""
    return raw.rstrip(b" \0").decode("ascii", "backslashreplace")
