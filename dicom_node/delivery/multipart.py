"""multipart/related for DICOM (RFC 2387, PS3.18 section 8.6.1.2): one part out, a few parts in, bytes untouched."""

from __future__ import annotations

import hashlib
from email.message import Message


class MultipartUnreadable(Exception):
    """The answer says that it is multipart, and is not."""


def build(data: bytes) -> tuple[str, bytes]:
    """Wrap one DICOM Part 10 object.

    The boundary is made from the object's digest, so that the same object is always the same request; it cannot occur
    in the object other than by a collision of sha256, and that is checked.

    Returns
    -------
    (str, bytes)
        Content-Type with the boundary, and the body.
    """
    boundary = "ainode-" + hashlib.sha256(data).hexdigest()
    while boundary.encode() in data:
        boundary = "ainode-" + hashlib.sha256(boundary.encode()).hexdigest()
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return (
        f'multipart/related; type="application/dicom"; boundary={boundary}',
        b"".join((head, data, f"\r\n--{boundary}--\r\n".encode())),
    )


def split(content_type: str, body: bytes) -> list[bytes]:
    """The parts of a multipart answer, without their headers.

    Raises
    ------
    MultipartUnreadable
        If there is no boundary parameter, or the body is not made of parts that it closes.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_maintype() != "multipart" or not isinstance(boundary, str) or not 1 <= len(boundary) <= 200:
        raise MultipartUnreadable("no multipart boundary")
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(delimiter)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise MultipartUnreadable("the last part is not closed")
    parts = []
    for piece in pieces[1:-1]:
        head, separator, content = piece.partition(b"\r\n\r\n")
        if not separator or len(head) > 8192:
            raise MultipartUnreadable("a part without end of headers")
        parts.append(content)
    return parts
