"""One web server at one checked address: requests, credentials, limits of bytes and of time.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from dicom_node.delivery.addresses import check_url
from dicom_node.delivery.outcomes import retry_after
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from dicom_node.tls import Identity, TlsRefused, client_context

for _name in ("httpx", "httpcore"):
    # they log request URLs, which hold UIDs, at INFO and DEBUG (invariant I4)
    logging.getLogger(_name).setLevel(logging.WARNING)

ANSWER_CAP_BYTES = 10_000_000


class WebTarget(Protocol):
    """What a connection needs to know of a target."""

    @property
    def url(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def secret(self) -> Callable[[], str] | None: ...
    @property
    def insecure_ok_because(self) -> str: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def total_timeout_s(self) -> float: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def identity(self) -> Identity | None: ...


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


class Web:
    """A connection to one server, for one delivery.  Use as a context manager.

    Parameters
    ----------
    target
        Root URL, credentials and limits.
    is_bearer
        The secret is a bearer token (RFC 6750), not the password of `username`.
    """

    def __init__(self, target: WebTarget, *, is_bearer: bool = False) -> None:
        self._target = target
        self._is_bearer = is_bearer
        self._url = check_url(target.url, insecure_ok_because=target.insecure_ok_because)
        self._client = httpx.Client(
            verify=tls(target.ca_file, target.identity) if self._url.is_tls else False,
            timeout=target.timeout_s,
            trust_env=False,
            follow_redirects=False,
            headers={"Host": self._url.authority, "User-Agent": "dicom-ai-node", "Accept-Encoding": "identity"},
        )
        self._authorisation: str | None = None
        if target.username or is_bearer:
            self._read_credentials()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def named(self, path: str) -> str:
        """The URL of a path by the server's own name, for headers that name a resource to it."""
        scheme = "https" if self._url.is_tls else "http"
        return f"{scheme}://{self._url.authority}{httpx.URL(self._url.root).path.rstrip('/')}{path}"

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str | Sequence[str]] | None = None,
        content: bytes | None = None,
        cap_bytes: int = ANSWER_CAP_BYTES,
    ) -> Answer:
        """Ask once; after a 401 once more with credentials that were read anew.

        Raises
        ------
        PeerTrouble
            If no whole answer came, or the credentials are refused.
        """
        answer = self._once(method, path, headers, params, content, cap_bytes)
        if answer.status == 401 and self._target.secret is not None:
            self._read_credentials()
            answer = self._once(method, path, headers, params, content, cap_bytes)
        if answer.status == 401:
            raise trouble("refuses our credentials (HTTP 401); check its user name and secret file", answer)
        return answer

    def _once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        params: Mapping[str, str | Sequence[str]] | None,
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
        secret = self._target.secret() if self._target.secret is not None else ""
        if self._is_bearer:
            self._authorisation = f"Bearer {secret}"
            return
        pair = f"{self._target.username}:{secret}".encode()
        self._authorisation = "Basic " + base64.b64encode(pair).decode("ascii")


def trouble(words: str, answer: Answer) -> PeerTrouble:
    """Trouble with the destination, in fixed words, with the pause that it asks for."""
    return PeerTrouble(f"the destination {words}", retry_after_s=answer.retry_after_s)


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


def tls(ca_file: Path | None, identity: Identity | None = None) -> ssl.SSLContext:
    """How a server is called: whom to believe, and whose certificate to show.

    Raises
    ------
    Refused
        `validation`, if the file of certificates cannot be used.
    PeerTrouble
        If the node's own certificate cannot be used now: a renewal is on its way, or went wrong.
    """
    if identity is None:
        return _anonymous(ca_file)
    try:
        return client_context(ca_file, identity)  # anew each time, so that a renewed certificate counts
    except TlsRefused as refused:
        raise PeerTrouble(str(refused)) from None


@lru_cache(maxsize=8)
def _anonymous(ca_file: Path | None) -> ssl.SSLContext:
    """One context per set of trusted certificates; building one reads the whole system store."""
    try:
        return client_context(ca_file)
    except TlsRefused as refused:
        raise Refused(RefusalCode.VALIDATION, "certificates in the file `ca_file`", str(refused)) from None
