"""Forms as they come in: bounded fields, each once, read as text."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fastapi import Request
from starlette.datastructures import FormData

from dicom_node.refusals import RefusalCode, Refused

MAX_CHARACTERS = 10_000
_GUARD = "csrf"


async def fields_of(request: Request, known: Collection[str]) -> Mapping[str, str]:
    """The fields of a form; those that were not sent are empty.

    Parameters
    ----------
    known
        Names that this form has.

    Raises
    ------
    Refused
        ``validation`` for a field that the form does not have, one that comes twice, a file, or a text beyond
        `MAX_CHARACTERS`.
    """
    sent: FormData = await request.form(max_files=0, max_fields=200)
    told: dict[str, str] = dict.fromkeys(known, "")
    if len({name for name, _ in sent.multi_items()}) != len(sent.multi_items()):
        raise Refused(RefusalCode.VALIDATION, "each field once", "a field twice")
    for name, value in sent.multi_items():
        if name == _GUARD:
            continue
        if name not in told or not isinstance(value, str) or len(value) > MAX_CHARACTERS:
            raise Refused(RefusalCode.VALIDATION, "the fields of this form", "something else")
        told[name] = value
    return told
