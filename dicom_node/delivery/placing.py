"""A file goes to a place for files: look, send, look again; nothing half is ever visible, nothing is overwritten.

The file is written under another name (`OutgoingFile.part`), which is derived from its bytes: what an interrupted try
left there is gone on with, and nothing else ever is.  When its size is right and it reads back as it was sent, it is
given its own name, and then read once more.  A file that lies there already with the same bytes is confirmed without
being sent; with other bytes it is held for a person.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from dicom_node.delivery.types import Confirmation, OutgoingFile, Seen
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused

TRIES_BEFORE_HELD = 3
"""So many attempts that a working destination turned down are enough: then a person must look."""


class TurnedDown(Exception):
    """The destination works, answers, and will not do this; the text holds numbers and fixed words only."""


class IsFull(PeerTrouble):
    """No room at the destination now."""


class Place(Protocol):
    """A connection to a place for files; names are relative and separated by ``/``.

    Every method raises `PeerTrouble` when the destination is down, slow, busy, full or refuses our credentials, and
    `TurnedDown` when it will not do what it was asked.
    """

    def size(self, name: str) -> int | None:
        """Bytes of a file as the destination tells it; None when there is none."""

    def read(self, name: str, cap_bytes: int) -> bytes:
        """The file, or its first `cap_bytes` bytes."""

    def append(self, name: str, data: bytes, offset: int) -> None:
        """Write `data` from `offset` on into a file that has `offset` bytes; 0 makes it, and its folders, anew."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name; never over a file that is there, as far as the protocol can say so."""

    def remove(self, name: str) -> None:
        """Remove a file; no word when there is none."""


def bring(outgoing: OutgoingFile, place: Place, attempt: int) -> Confirmation:
    """Bring one file to one place, and see that it is there.

    Raises
    ------
    PeerTrouble
        Try again later; what was sent so far is gone on with.
    Refused
        `delivery-conflict`: other bytes lie there under this name.  `delivery-incomplete`: the destination turned the
        file down, or showed other bytes than were sent, `TRIES_BEFORE_HELD` times.
    """
    try:
        if is_there(outgoing, place):
            return confirmation(outgoing, was_already_there=True)
        _send(outgoing, place)
        if is_there(outgoing, place):
            return confirmation(outgoing, was_already_there=False)
        raise TurnedDown("the file is not there after it was given its name")
    except TurnedDown as no:
        raise turned_down(no, attempt) from None


def turned_down(no: TurnedDown, attempt: int) -> Exception:
    """What follows when a working destination says no: another try, and after some of them a person."""
    if attempt >= TRIES_BEFORE_HELD:
        return Refused(RefusalCode.DELIVERY_INCOMPLETE, "the file at the destination", str(no))
    return PeerTrouble(f"the destination turned the file down: {no}", is_down=False)


def is_there(outgoing: OutgoingFile, place: Place) -> bool:
    """Whether the file lies there whole: its size as told, then every byte.

    Raises
    ------
    Refused
        `delivery-conflict`, if other bytes lie there: whatever the destination says of their size.
    """
    size = place.size(outgoing.name)
    if size is None:
        return False
    if size != len(outgoing.data) or not _is_same(outgoing, outgoing.name, place):
        raise conflict()
    return True


def conflict() -> Refused:
    """Other content lies under our name."""
    return Refused(RefusalCode.DELIVERY_CONFLICT, "the bytes that were sent", "other bytes under the same name")


def confirmation(
    outgoing: OutgoingFile, *, was_already_there: bool, seen: Seen = Seen.CONTENT, answer: str = ""
) -> Confirmation:
    """What is recorded of a file that is there."""
    return Confirmation("", outgoing.sha256, seen, was_already_there, answer)


def _send(outgoing: OutgoingFile, place: Place) -> None:
    part, total = outgoing.part, len(outgoing.data)
    have = place.size(part) or 0
    if have > total:
        place.remove(part)
        have = 0
    if have < total or total == 0:
        try:
            place.append(part, outgoing.data[have:], have)
        except IsFull:
            place.remove(part)  # a full disk is somebody else's trouble too
            raise
        except TurnedDown:
            if have:  # it does not go on in the middle of a file: the next try begins anew
                place.remove(part)
            raise
    kept = place.size(part)
    if kept != total or not _is_same(outgoing, part, place):
        place.remove(part)
        raise TurnedDown(f"{total} bytes were sent, and other bytes lie there ({kept} by its own word)")
    place.rename(part, outgoing.name)


def _is_same(outgoing: OutgoingFile, name: str, place: Place) -> bool:
    found = place.read(name, len(outgoing.data) + 1)
    return hashlib.sha256(found).hexdigest() == outgoing.sha256
