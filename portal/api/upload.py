"""Uploads: multipart/form-data (RFC 7578) taken apart while it arrives, files straight into the spool.

Nothing of a body is held in memory but one chunk and the small text fields; every count is bounded while it is counted
(I7, S13).  Names of files are looked at for their ending and go nowhere; types are found by content, later (S15).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.spool import Part, Spool, Upload

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELD_BYTES = 4096
MAX_FIELDS = 32
MAX_HEADER_BYTES = 4096
IDLE_S = 60.0
"""A caller that says nothing for so long in the middle of a form is not waited for."""
_CHUNK_BYTES = 1 << 20
_DRAIN_BYTES = 64 << 20


@dataclass(frozen=True)
class UploadLimits:
    """Bounds of one call."""

    max_bytes: int
    max_files: int


@dataclass(frozen=True)
class FormFile:
    """One file of a form: the field it came in, what the caller called it, and where it is now."""

    field: str
    told_name: str
    upload: Upload


@dataclass(frozen=True)
class Form:
    """A form that was taken in whole."""

    fields: Mapping[str, str]
    files: tuple[FormFile, ...]

    @property
    def sha256(self) -> str:
        """Digest of what was said and sent, whatever the boundary: two equal calls are equal here."""
        told = hashlib.sha256()
        for name, value in sorted(self.fields.items()):
            told.update(repr((name, value)).encode())
        for one in self.files:
            told.update(repr((one.field, one.told_name, one.upload.sha256)).encode())
        return told.hexdigest()


@dataclass
class _Taking:
    """The state of taking one form apart: callbacks of the parser."""

    spool: Spool
    limits: UploadLimits
    allowed_fields: frozenset[str]
    allowed_files: frozenset[str]
    fields: dict[str, str] = field(default_factory=dict)
    files: list[FormFile] = field(default_factory=list)
    part: Part | None = None
    is_whole: bool = False

    def __post_init__(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._field, self._told, self._text = "", "", bytearray()
        self._header_bytes = 0

    def on_part_begin(self) -> None:
        self._headers, self._header_bytes = {}, 0
        self._field, self._told, self._text = "", "", bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise Refused(RefusalCode.VALIDATION, "parts of form-data with a name", "another part")
        if b"content-transfer-encoding" in self._headers:
            raise Refused(RefusalCode.VALIDATION, "parts as they are", "an encoded part")
        self._field = options[b"name"].decode("utf-8", "replace")
        is_file = b"filename" in options
        if self._field not in (self.allowed_files if is_file else self.allowed_fields):
            known = sorted(self.allowed_files if is_file else self.allowed_fields)
            raise Refused(RefusalCode.VALIDATION, f"fields among: {', '.join(known)}", "another field")
        if is_file:
            if len(self.files) >= self.limits.max_files:
                raise Refused(RefusalCode.TOO_LARGE, f"at most {self.limits.max_files} files", "more")
            self._told = options[b"filename"].decode("utf-8", "replace")
            self.part = self.spool.part()
        elif self._field in self.fields or len(self.fields) >= MAX_FIELDS:
            raise Refused(RefusalCode.VALIDATION, "each field once", "a field twice")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.part is not None:
            self.part.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MAX_FIELD_BYTES:
            raise Refused(RefusalCode.TOO_LARGE, f"fields of at most {MAX_FIELD_BYTES} bytes", "a longer one")

    def on_part_end(self) -> None:
        if self.part is not None:
            part, self.part = self.part, None
            self.files.append(FormFile(self._field, self._told, self.spool.keep(part)))
            return
        try:
            self.fields[self._field] = self._text.decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(RefusalCode.VALIDATION, "text in UTF-8", "other bytes") from None

    def on_end(self) -> None:
        self.is_whole = True

    def discard(self) -> None:
        """Take back a file that was begun; finished ones have no row and are swept."""
        if self.part is not None:
            self.part.discard()
            self.part = None

    def _count(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > MAX_HEADER_BYTES:
            raise Refused(RefusalCode.TOO_LARGE, f"part headers of at most {MAX_HEADER_BYTES} bytes", "longer ones")


async def take_form(
    request: Request,
    spool: Spool,
    limits: UploadLimits,
    *,
    fields: frozenset[str],
    files: frozenset[str],
) -> Form:
    """Take a form in: its files are durable in the spool when this returns.

    Parameters
    ----------
    fields, files
        Names of text fields and of file fields that are known here; others are refused (S13).

    Raises
    ------
    Refused
        ``validation`` for what is no multipart form, a field that nobody knows or that comes twice; ``too-large``.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise Refused(RefusalCode.VALIDATION, "multipart/form-data with a boundary", "another content type")
    taking = _Taking(spool, limits, fields, files)
    parser = MultipartParser(boundary, _callbacks(taking))
    total = 0
    try:
        async for chunk in chunks(request):
            total += len(chunk)
            if total > limits.max_bytes:
                raise Refused(RefusalCode.TOO_LARGE, f"at most {limits.max_bytes} bytes", "more")
            await anyio.to_thread.run_sync(parser.write, chunk)
        await anyio.to_thread.run_sync(parser.finalize)
        if not taking.is_whole:
            raise Refused(RefusalCode.VALIDATION, "a form with its end", "one that is cut off")
    except FormParserError:
        taking.discard()
        raise Refused(RefusalCode.VALIDATION, "a multipart form", "one that cannot be read") from None
    except BaseException:
        taking.discard()
        raise
    return Form(taking.fields, tuple(taking.files))


async def drain(request: Request) -> None:
    """Read on a little after a refusal, so that a caller that is still sending gets to read the answer."""
    total = 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > _DRAIN_BYTES:
                return
    except (ClientDisconnect, RuntimeError):  # it has gone, or the body was read to its end
        return


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of about a mebibyte: one hop to a thread for each instead of one for each packet."""
    waiting = bytearray()
    stream = request.stream()
    while True:
        try:
            with anyio.fail_after(IDLE_S):
                piece = await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise Refused(RefusalCode.VALIDATION, f"a form that goes on within {IDLE_S:g} s", "silence") from None
        waiting += piece
        if len(waiting) >= _CHUNK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def _callbacks(taking: _Taking) -> MultipartCallbacks:
    return {
        "on_part_begin": taking.on_part_begin,
        "on_header_field": taking.on_header_field,
        "on_header_value": taking.on_header_value,
        "on_header_end": taking.on_header_end,
        "on_headers_finished": taking.on_headers_finished,
        "on_part_data": taking.on_part_data,
        "on_part_end": taking.on_part_end,
        "on_end": taking.on_end,
    }
