"""Web servers as places for files: PUT or POST (RFC 9110), or WebDAV (RFC 4918) with a MOVE that overwrites nothing.

A plain PUT is complete or absent by the server's own doing; where a server is not trusted with that, `webdav` writes
under another name, reads back and moves.  Every request carries its digest (Content-Digest, RFC 9530) and a key by
which a server can know a resend (Idempotency-Key).
"""

from __future__ import annotations

import base64
import hashlib

from dicom_node.delivery.outcomes import Outcome, classify
from dicom_node.delivery.placing import IsFull, TurnedDown, confirmation, conflict, turned_down
from dicom_node.delivery.types import Confirmation, HttpTarget, OutgoingFile, Seen
from dicom_node.delivery.web import Answer, Web, trouble
from dicom_node.refusals import PeerTrouble

_TYPES = {
    ".dcm": "application/dicom",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".json": "application/json",
    ".gz": "application/gzip",
}


def send_by_http(outgoing: OutgoingFile, target: HttpTarget, attempt: int) -> Confirmation:
    """Bring one file to a web server and, where it gives something back, see that it is there.

    Raises
    ------
    PeerTrouble
        Try again later: nothing, or not enough, was heard.
    Refused
        `delivery-conflict`, `delivery-incomplete`.
    """
    with Web(target, is_bearer=target.is_bearer) as web:
        try:
            if not target.reads_back:
                answer = _put(outgoing, target, web, outgoing.name)
                return confirmation(outgoing, was_already_there=False, seen=Seen.TOLD, answer=f"HTTP {answer.status}")
            if _is_there(outgoing, outgoing.name, web):
                return confirmation(outgoing, was_already_there=True)
            answer = (
                _put_and_move(outgoing, target, web) if target.webdav else _put(outgoing, target, web, outgoing.name)
            )
            if _is_there(outgoing, outgoing.name, web):
                return confirmation(outgoing, was_already_there=False, answer=f"HTTP {answer.status}")
            raise TurnedDown(f"it answered HTTP {answer.status} and does not show the file")
        except TurnedDown as no:
            raise turned_down(no, attempt) from None


def look_by_http(target: HttpTarget) -> str:
    """Whether the server answers and lets us in, in words."""
    with Web(target, is_bearer=target.is_bearer) as web:
        status = web.request("OPTIONS", "/", headers={}).status
    if status == 403 or status >= 500:
        raise PeerTrouble(f"the destination answers HTTP {status}")
    return f"answers HTTP {status}"


def _is_there(outgoing: OutgoingFile, name: str, web: Web) -> bool:
    """Ask for the file and compare every byte: a length in a header is no proof."""
    answer = web.request("GET", f"/{name}", headers={}, cap_bytes=len(outgoing.data) + 1)
    if answer.status in (404, 410):
        return False
    if answer.status == 200:
        if answer.body != outgoing.data:
            raise conflict()
        return True
    raise _no(answer, "when asked for the file")


def _put(outgoing: OutgoingFile, target: HttpTarget, web: Web, name: str) -> Answer:
    digest = hashlib.sha256(outgoing.data).digest()
    headers = {
        "Content-Type": next((kind for ending, kind in _TYPES.items() if name.endswith(ending)), _OTHER),
        "Content-Digest": f"sha-256=:{base64.b64encode(digest).decode('ascii')}:",
        "Idempotency-Key": f'"{hashlib.sha256(f"{outgoing.name} {outgoing.sha256}".encode()).hexdigest()}"',
    }
    if target.reads_back and not target.webdav:
        headers["If-None-Match"] = "*"  # never over another file
    path = f"/{name}"
    if target.method == "POST":
        path = ""
        headers["Content-Disposition"] = f'attachment; filename="{name.rpartition("/")[2]}"'
    answer = web.request(target.method, path, headers=headers, content=outgoing.data)
    # 409 and 412: it says that something is there; the look that follows tells what
    if classify(answer.status) is Outcome.CLAIMED or (target.reads_back and answer.status in (409, 412)):
        return answer
    raise _no(answer, "to the file")


_OTHER = "application/octet-stream"


def _put_and_move(outgoing: OutgoingFile, target: HttpTarget, web: Web) -> Answer:
    for folder in outgoing.folders:
        answer = web.request("MKCOL", f"/{folder}/", headers={})
        if answer.status not in (200, 201, 204, 301, 405, 409, 412):  # it is there already, as servers say it
            raise _no(answer, "to a new folder")
    _put(outgoing, target, web, outgoing.part)
    answer = web.request("GET", f"/{outgoing.part}", headers={}, cap_bytes=len(outgoing.data) + 1)
    if answer.status != 200 or answer.body != outgoing.data:
        web.request("DELETE", f"/{outgoing.part}", headers={})
        raise TurnedDown("other bytes lie there than were sent")
    headers = {"Destination": web.named(f"/{outgoing.name}"), "Overwrite": "F"}
    answer = web.request("MOVE", f"/{outgoing.part}", headers=headers)
    if answer.status in (201, 204, 412):
        return answer
    raise _no(answer, "to the file's own name")


def _no(answer: Answer, to_what: str) -> Exception:
    """What an answer that is no yes means."""
    words = f"HTTP {answer.status} {to_what}"
    if answer.status == 507:
        return IsFull(f"the destination answered {words}", retry_after_s=answer.retry_after_s)
    if classify(answer.status) in (Outcome.UNKNOWN, Outcome.DENIED):
        return trouble(f"answered {words}", answer)
    return TurnedDown(words)
