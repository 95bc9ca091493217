"""The three DICOMweb requests of delivery: QIDO-RS, WADO-RS and STOW-RS (PS3.18 sections 10.6, 10.4, 10.5).

Every URL is built from the configured root: URLs in answers are not followed, nor are redirects.  The host is resolved
once (`addresses`).  Answers are read up to a limit of bytes and of time.  Exceptions of the HTTP library become
`PeerTrouble` with fixed words, because the library's own texts hold URLs, and those hold UIDs.
"""

from __future__ import annotations

import base64
import json
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from dicom_node.delivery import multipart
from dicom_node.delivery.addresses import check_url
from dicom_node.delivery.outcomes import StowAnswer, read_stow_answer, retry_after
from dicom_node.delivery.types import OutgoingObject, StowTarget, text_of
from dicom_node.refusals import PeerTrouble

for _name in ("httpx", "httpcore"):
    # they log request URLs, which hold UIDs, at INFO and DEBUG (invariant I4)
    logging.getLogger(_name).setLevel(logging.WARNING)

ANSWER_CAP_BYTES = 10_000_000
_JSON = "application/dicom+json"


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; `body` is None when it was longer than the limit."""

    status: int
    content_type: str
    body: bytes | None
    retry_after_s: float | None

    def json(self) -> Any:
        """The parsed body; None when it is empty, too long, or no JSON."""
        try:
            return json.loads(self.body) if self.body else None
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True)
class Listed:
    """One match of a query, with what it says about where it belongs; absent attributes are empty."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    patient_id: str
    issuer_of_patient_id: str


class DicomWeb:
    """A connection to one archive, for one delivery.  Use as a context manager."""

    def __init__(self, target: StowTarget) -> None:
        self._target = target
        self._url = check_url(target.url, insecure_ok_because=target.insecure_ok_because)
        self._client = httpx.Client(
            verify=_tls(target.ca_file) if self._url.is_tls else False,
            timeout=target.timeout_s,
            trust_env=False,
            follow_redirects=False,
            headers={"Host": self._url.authority, "User-Agent": "dicom-ai-node", "Accept-Encoding": "identity"},
        )
        self._authorisation: str | None = None
        if target.username:
            self._read_credentials()

    def __enter__(self) -> DicomWeb:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def studies(self, study_uid: str) -> list[Listed]:
        """Every study the archive lists under this Study Instance UID (QIDO-RS); more than one is a split patient."""
        return self._query("/studies", {"StudyInstanceUID": study_uid, "includefield": "00100020,00100021"})

    def instances(self, sop_instance_uid: str) -> list[Listed]:
        """Every instance the archive lists under this SOP Instance UID, in whatever study and series."""
        return self._query(
            "/instances", {"SOPInstanceUID": sop_instance_uid, "includefield": "00100020,00100021,0020000D,0020000E"}
        )

    def retrieve(self, sent: OutgoingObject, transfer_syntax: str = "*") -> bytes | None:
        """The stored instance as a Part 10 object (WADO-RS); None when the archive says that it has it not.

        Parameters
        ----------
        sent
            Names study, series and instance; twice its size is the most that is read.
        transfer_syntax
            ``*`` for the bytes as stored.

        Raises
        ------
        PeerTrouble
            If the answer is anything but the one instance.
        """
        path = f"/studies/{sent.study_uid}/series/{sent.series_uid}/instances/{sent.sop_instance_uid}"
        accept = f'multipart/related; type="application/dicom"; transfer-syntax={transfer_syntax}'
        cap = 2 * len(sent.data) + ANSWER_CAP_BYTES
        answer = self._request("GET", path, headers={"Accept": accept}, cap_bytes=cap)
        if answer.status in (404, 410):
            return None
        if answer.status != 200 or answer.body is None:
            raise _trouble(f"answered HTTP {answer.status} when asked for the stored object", answer)
        try:
            parts = multipart.split(answer.content_type, answer.body)
        except multipart.MultipartUnreadable:
            raise _trouble("did not answer with the stored object when asked for it", answer) from None
        if len(parts) != 1:
            raise _trouble("answered with another number of objects than the one it was asked for", answer)
        return parts[0]

    def store(self, outgoing: OutgoingObject) -> tuple[StowAnswer, float | None]:
        """Send one object in one request to the URL of its study (STOW-RS).

        Returns
        -------
        (StowAnswer, float or None)
            What the answer says about our instance, and the seconds it asks us to wait.

        Raises
        ------
        PeerTrouble
            If no whole answer came: whether the object was stored is unknown.
        """
        content_type, body = multipart.build(outgoing.data)
        answer = self._request(
            "POST",
            f"/studies/{outgoing.study_uid}",
            headers={"Accept": _JSON, "Content-Type": content_type},
            content=body,
        )
        return read_stow_answer(answer.status, answer.json(), outgoing.sop_instance_uid), answer.retry_after_s

    def _query(self, path: str, params: Mapping[str, str]) -> list[Listed]:
        answer = self._request("GET", path, params=params, headers={"Accept": _JSON})
        if answer.status in (204, 404):
            return []
        body = answer.json()
        if answer.status != 200 or not isinstance(body, list) or not all(isinstance(match, dict) for match in body):
            raise _trouble(f"answered a query with HTTP {answer.status} and no list of matches", answer)
        uid = params.get("SOPInstanceUID")
        listed = [(_text(match, "00080018"), _listed(match)) for match in body]
        # an archive that does not know the key answers with everything: keep what was asked for
        return [item for found, item in listed if uid is None or found == uid]

    def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        cap_bytes: int = ANSWER_CAP_BYTES,
    ) -> Answer:
        answer = self._once(method, path, headers, params, content, cap_bytes)
        if answer.status == 401 and self._target.secret is not None:
            self._read_credentials()
            answer = self._once(method, path, headers, params, content, cap_bytes)
        if answer.status == 401:
            raise _trouble("refuses our credentials (HTTP 401); check `username` and `password_file`", answer)
        return answer

    def _once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None,
        content: bytes | None,
        cap_bytes: int,
    ) -> Answer:
        sending = dict(headers)
        if self._authorisation is not None:
            sending["Authorization"] = self._authorisation
        deadline = time.monotonic() + self._target.total_timeout_s
        try:
            with self._client.stream(
                method,
                self._url.root + path,
                params=params,
                headers=sending,
                content=content,
                extensions={"sni_hostname": self._url.host},
            ) as response:
                body = _read(response, cap_bytes, deadline)
                return Answer(
                    status=response.status_code,
                    content_type=response.headers.get("Content-Type", ""),
                    body=body,
                    retry_after_s=retry_after(response.headers.get("Retry-After"), datetime.now(UTC)),
                )
        except httpx.HTTPError as error:
            raise PeerTrouble(f"the destination did not answer ({type(error).__name__})") from None

    def _read_credentials(self) -> None:
        password = self._target.secret() if self._target.secret is not None else ""
        pair = f"{self._target.username}:{password}".encode()
        self._authorisation = "Basic " + base64.b64encode(pair).decode("ascii")


def _read(response: httpx.Response, cap_bytes: int, deadline: float) -> bytes | None:
    """The body, or None when it is longer than the cap; a trickle is cut at the deadline."""
    chunks: list[bytes] = []
    size = 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if size > cap_bytes:
            return None
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the whole answer took too long")
        chunks.append(chunk)
    return b"".join(chunks)


@lru_cache(maxsize=8)
def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """One context per set of trusted certificates; building one reads the whole system store."""
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _trouble(words: str, answer: Answer) -> PeerTrouble:
    return PeerTrouble(f"the destination {words}", retry_after_s=answer.retry_after_s)


def _listed(match: dict[str, Any]) -> Listed:
    return Listed(
        study_uid=_text(match, "0020000D"),
        series_uid=_text(match, "0020000E"),
        sop_class_uid=_text(match, "00080016"),
        patient_id=_text(match, "00100020"),
        issuer_of_patient_id=_text(match, "00100021"),
    )


def _text(match: dict[str, Any], tag: str) -> str:
    element = match.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return text_of(values[0]) if isinstance(values, list) and values else ""
