"""A photograph as it comes in over HTTP: a multipart form, or base64 in JSON; one meaning for both.

Everything is bounded before it is looked at (I7, hardening 4.7): the body while it arrives, base64 by its letters
before it is decoded, text by its length.  The alphabet and the padding of base64 are strict (RFC 4648 section 4); one
data-URI prefix may stand before it, and the type that it names must be the type that the file has.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, TypeVar, get_args

import anyio
import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from dicom_node.photo import kind_of
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.spool import Part, Spool, Upload
from portal.api.upload import UploadLimits, chunks, take_form

FILE_FIELDS = frozenset({"image", "file"})
TEXT_FIELDS = frozenset(
    {"patient", "order", "bodySite", "laterality", "kind", "wait", "callback", "priority", "transfer"}
)
_DATA_URI = re.compile(r"data:(image/[a-z0-9.+-]{1,32});base64,", re.IGNORECASE)
_HEAD_BYTES = 4096

Said = TypeVar("Said", bound="ImageBody")
Body = TypeVar("Body", bound=BaseModel)


class PatientBody(BaseModel):
    """Whose photograph it is, by an identifier and the system that it is from."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(min_length=1, max_length=64)
    system: str = Field(min_length=3, max_length=255, description="URI of the system of identifiers, as in FHIR.")


class ImageBody(BaseModel):
    """A photograph in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: str = Field(
        min_length=1, description="The file in base64 (RFC 4648 section 4), with or without data:image/…;base64,"
    )


class PhotoBody(ImageBody):
    """A photograph and what is known about it, as JSON."""

    patient: PatientBody | None = None
    order: str = Field("", max_length=16, description="Accession number of the order.")
    bodySite: str = Field("", max_length=64, description="Name of a body site, such as back or forearm-anterior.")
    laterality: Literal["", "L", "R", "B", "U"] = ""
    kind: Literal["", "dermoscopic", "plain"] = Field("", description="How the picture was taken.")
    wait: bool | None = None
    callback: str = Field("", max_length=32, description="Name of a configured webhook; never a URL.")
    priority: Literal["", "routine", "stat"] = ""
    transfer: str = Field("", max_length=200, description="Names of configured destinations, separated by commas.")


@dataclass(frozen=True)
class PhotoForm:
    """What somebody asks about one photograph; the file is durable in the spool."""

    upload: Upload
    claimed: str
    """Media type that the sender names; empty where it names none."""
    said: PhotoBody
    """Without the image."""

    @property
    def sha256(self) -> str:
        """Digest of what was asked, however it was wrapped: the same question is the same here."""
        told = {**self.said.model_dump(mode="json"), "image": self.upload.sha256, "claimed": self.claimed}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def fields(self) -> dict[str, str]:
        """The fields that mean the same on every prediction route."""
        return {"priority": self.said.priority, "transfer": self.said.transfer}


async def take_photo(request: Request, spool: Spool, max_bytes: int) -> PhotoForm:
    """Take a photograph in.

    Raises
    ------
    Refused
        ``validation``, ``too-large``, ``input-empty``, ``base64-invalid``; ``not-an-image``,
        ``image-type-unsupported`` and ``image-type-mismatch`` by the file's first bytes.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        form = await _take_json(request, spool, max_bytes)
    elif media_type == "multipart/form-data":
        form = await _take_multipart(request, spool, max_bytes)
    else:
        raise Refused(RefusalCode.VALIDATION, "multipart/form-data or application/json", "another content type")
    check_kind(spool, form.upload, form.claimed)
    return form


def check_kind(spool: Spool, upload: Upload, claimed: str) -> None:
    """Whether a file begins like a picture that is read, of the type that it is said to be.

    Raises
    ------
    Refused
    """
    if upload.size_bytes == 0:
        raise Refused(RefusalCode.INPUT_EMPTY, "a photograph", "an empty file")
    with at_rest.Reader(spool.path(upload.sha256)) as file:
        kind_of(file.pread(_HEAD_BYTES, 0), claimed)


async def _take_multipart(request: Request, spool: Spool, max_bytes: int) -> PhotoForm:
    told, upload = await take_form_fields(request, spool, max_bytes, TEXT_FIELDS)
    if "wait" in told:
        told["wait"] = _truth(told["wait"])
    return PhotoForm(upload, "", judged(PhotoBody, {**told, "image": "-"}))


async def take_form_fields(
    request: Request, spool: Spool, max_bytes: int, fields: frozenset[str]
) -> tuple[dict[str, Any], Upload]:
    """Take in a form with one photograph in its field `image` or `file`; `patient` is JSON.

    Returns
    -------
    fields, upload
        What the form says, and the file, which is durable in the spool.
    """
    form = await take_form(request, spool, UploadLimits(max_bytes, 1), fields=fields, files=FILE_FIELDS)
    if not form.files:
        raise Refused(RefusalCode.INPUT_EMPTY, "one photograph in the field `image` or `file`", "none")
    told: dict[str, Any] = dict(form.fields)
    if "patient" in told:
        told["patient"] = parsed(told["patient"].encode()) if told["patient"] else None
    return told, form.files[0].upload


async def _take_json(request: Request, spool: Spool, max_bytes: int) -> PhotoForm:
    said, claimed, upload = await take_json(request, spool, max_bytes, partial(judged, PhotoBody))
    return PhotoForm(upload, claimed, said)


async def take_json(
    request: Request, spool: Spool, max_bytes: int, judge: Callable[[dict[str, Any]], Said]
) -> tuple[Said, str, Upload]:
    """Take in a JSON object with a photograph in base64 in its field `image`.

    Parameters
    ----------
    judge
        Makes a body of the object, or refuses it; the body has the field `image`.

    Returns
    -------
    body, claimed, upload
        The body without the image, the media type that the image names (empty where it names none), and the file,
        which is durable in the spool.
    """
    arriving = spool.part()
    try:
        async for chunk in chunks(request):
            if arriving.size_bytes + len(chunk) > max_bytes:
                raise Refused(RefusalCode.TOO_LARGE, f"at most {max_bytes} bytes", "more")
            await anyio.to_thread.run_sync(arriving.write, chunk)
    except BaseException:
        arriving.discard()
        raise
    return await anyio.to_thread.run_sync(_from_json, arriving, spool, judge, limiter=_limiter())


@cache
def _limiter() -> anyio.CapacityLimiter:
    """Of bodies that lie in memory as text and as bytes at once: everybody else's wait on the disk."""
    return anyio.CapacityLimiter(2)


def _from_json(arrived: Part, spool: Spool, judge: Callable[[dict[str, Any]], Said]) -> tuple[Said, str, Upload]:
    path, _ = arrived.close()
    try:
        told = parsed(at_rest.read(path))
    finally:
        path.unlink(missing_ok=True)
    if not isinstance(told, dict):
        raise Refused(RefusalCode.VALIDATION, "a JSON object", "another value")
    said = judge(told)
    claimed, data = decoded(said.image)
    return said.model_copy(update={"image": "-"}), claimed, kept(spool, data)


def kept(spool: Spool, data: bytes) -> Upload:
    """Bytes of a photograph, durable in the spool."""
    part = spool.part()
    try:
        part.write(data)
    except BaseException:
        part.discard()
        raise
    return spool.keep(part)


def decoded(text: str) -> tuple[str, bytes]:
    """The media type that a data URI names (empty without one), and the bytes.

    Raises
    ------
    Refused
        ``base64-invalid`` for any character outside the alphabet, padding that is missing or too long, bits that stand
        for nothing, a second prefix, or one of another form.
    """
    expected = "base64 of RFC 4648 section 4, after at most one data:image/…;base64, prefix"
    claimed = ""
    if text[:5].lower() == "data:":
        found = _DATA_URI.match(text)
        if found is None:
            raise Refused(RefusalCode.BASE64_INVALID, expected, "another prefix")
        claimed, text = found[1].lower(), text[found.end() :]
    try:
        letters = text.encode("ascii")
        data = binascii.a2b_base64(letters, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Refused(RefusalCode.BASE64_INVALID, expected, "other characters, or wrong padding") from None
    rest = len(data) % 3 or 3
    if len(letters) % 4 or base64.b64encode(data[len(data) - rest :]) != letters[-4:]:
        raise Refused(RefusalCode.BASE64_INVALID, expected, "other characters, or wrong padding")
    return claimed, data


def judged(model: type[Body], told: Mapping[str, Any]) -> Body:
    """A body as its model describes it.

    Raises
    ------
    Refused
        ``validation``: with the name of a field that is one of ours; what a caller made up is never repeated.
    """
    try:
        return model.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = [str(part) for part in first["loc"]]
        where = ".".join(place) if place and set(place) <= _names(model) else ""
        expected = f"{where}: {first['msg']}" if where else f"fields among: {', '.join(sorted(model.model_fields))}"
        raise Refused(RefusalCode.VALIDATION, expected, "something else") from None


def _names(model: type[BaseModel]) -> set[str]:
    """The names of a body's fields, and of those of the bodies in it."""
    inner = [one for field in model.model_fields.values() for one in get_args(field.annotation)]
    bodies = [one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)]
    return {*model.model_fields, *(name for body in bodies for name in _names(body))}


def parsed(raw: bytes) -> Any:
    """JSON without doubled keys; however deeply it is nested, it ends here."""
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(RefusalCode.VALIDATION, "JSON in UTF-8, each key once", "something else") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key twice")
    return made


def _no_constant(word: str) -> Any:
    raise ValueError(f"{len(word)} letters that are no number")


def _truth(word: str) -> bool | None:
    if word not in ("", "true", "false"):
        raise Refused(RefusalCode.VALIDATION, "wait: true or false", "another word")
    return None if not word else word == "true"
