"""Which regular expressions a route may use: those whose worst case is small and known.

Python's matcher backtracks, so its time can grow as a power, or exponentially, with the text.  Instead of stopping a
match that runs away, a pattern is refused at load unless the number of ways in which it can be tried on a text of given
length stays below `MAX_WAYS`: ways multiply along a sequence, add up over alternatives, and a repetition may only
repeat something that can match in one way.  Back-references, look-around and conditionals are refused.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

MAX_WAYS = 5_000_000
"""Starting points x ways; about a tenth of a second on one processor in the worst case."""

_sre: Any = importlib.import_module("re._parser")

_ONE_WAY = frozenset({"LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "CATEGORY"})


def check_pattern(pattern: str, text_length: int) -> None:
    """Accept a regular expression, or say why not.

    Raises
    ------
    ValueError
        Not a regular expression, uses a construct that is not allowed, or may take too long on a text of
        `text_length` characters.
    """
    try:
        tree = _sre.parse(pattern, re.IGNORECASE)
        re.compile(pattern, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    ways = (text_length + 1) * _ways_of_sequence(list(tree), text_length)
    if ways > MAX_WAYS:
        raise ValueError(
            f"the regular expression can be tried in {ways} ways on {text_length} characters; at most {MAX_WAYS} are "
            "allowed: use fewer of * + ? {m,n} or make two clauses"
        )


def _ways_of_sequence(items: Sequence[Any], text_length: int) -> int:
    ways = 1
    for item in items:
        ways *= _ways_of_item(item, text_length)
        if ways > MAX_WAYS:
            return ways
    return ways


def _ways_of_item(item: Any, text_length: int) -> int:
    name, argument = str(item[0]), item[1]
    if name in _ONE_WAY:
        return 1
    if name == "SUBPATTERN":
        return _ways_of_sequence(list(argument[3]), text_length)
    if name == "BRANCH":
        return sum(_ways_of_sequence(list(branch), text_length) for branch in argument[1])
    if name in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
        return _ways_of_repeat(int(argument[0]), int(argument[1]), list(argument[2]), text_length)
    raise ValueError(f"the construct {name.lower()} is not allowed in a route's regular expression")


def _ways_of_repeat(low: int, high: int, body: Sequence[Any], text_length: int) -> int:
    inside = _ways_of_sequence(body, text_length)
    if high <= 1:
        return inside + (1 - low)
    if inside > 1:
        raise ValueError("a repetition of something that is itself repeated or has alternatives is not allowed")
    return max(1, min(high, text_length) - min(low, text_length) + 1)
