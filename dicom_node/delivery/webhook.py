"""Webhooks: a platform is told that something of its own is over, in a signed call (Standard Webhooks 1.0.0).

The body carries ids and a state, no word of a patient and no number of a result: what there is to know is fetched with
the caller's own key.  Signed are id, time and body together (HMAC-SHA256, RFC 2104), so that none can be changed and an
old call cannot be played again; the id stays the same however often the call is tried.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.delivery.outcomes import Outcome, classify
from dicom_node.delivery.types import Confirmation, Seen
from dicom_node.delivery.web import Web, trouble
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.tls import Identity

PREFIX = "whsec_"
MIN_SECRET_BYTES = 24
_ANSWER_CAP_BYTES = 65_536


@dataclass(frozen=True)
class WebhookTarget:
    """Where a call goes, and with which secret it is signed."""

    url: str
    """https, or http to loopback, or http with `insecure_ok_because`."""
    key: Callable[[], str] = field(repr=False)
    """Reads the secret as its file has it when it is needed."""
    insecure_ok_because: str = ""
    timeout_s: float = 60.0
    total_timeout_s: float = 120.0
    ca_file: Path | None = None
    identity: Identity | None = None
    username: str = ""
    secret: None = None
    """There are no credentials: a call is known by its signature alone, and no answer makes us send more."""


@dataclass(frozen=True)
class OutgoingCall:
    """What is said, under an id that is the same at every try."""

    id: str
    kind: str
    """``type`` of the event, such as ``request.finished``."""
    happened_at: str
    """Aware ISO 8601: when it happened, not when the call is made."""
    data: Mapping[str, Any]

    @property
    def body(self) -> bytes:
        """The same call is the same bytes."""
        told = {"type": self.kind, "timestamp": self.happened_at, "data": dict(self.data)}
        return json.dumps(told, sort_keys=True, separators=(",", ":")).encode()


def key_bytes(secret: str) -> bytes:
    """The key of a secret: what stands in base64 behind ``whsec_``, else its letters.

    Raises
    ------
    Refused
        ``validation`` for a secret that is none, or too short to keep anything.
    """
    expected = f"a secret of at least {MIN_SECRET_BYTES} bytes, or {PREFIX} and base64 of as many"
    key = secret.encode()
    if secret.startswith(PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            raise Refused(RefusalCode.VALIDATION, expected, "something else") from None
    if len(key) < MIN_SECRET_BYTES:
        raise Refused(RefusalCode.VALIDATION, expected, "a shorter one")
    return key


def signature(key: bytes, call_id: str, seconds: int, body: bytes) -> str:
    """``v1,`` and the base64 of the HMAC-SHA256 over ``id.seconds.body``."""
    signed = b".".join((call_id.encode(), str(seconds).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode("ascii")


def call(outgoing: OutgoingCall, target: WebhookTarget) -> Confirmation:
    """Make one call; an answer of 2xx is all that can be known of it (`Seen.TOLD`).

    Raises
    ------
    PeerTrouble
        Try again later: no answer, one of 5xx, or one that asks for patience.
    Refused
        ``peer-rejected`` for any other answer, redirects among them; ``validation`` or ``not-authorised`` for a secret
        or an address that is not allowed.
    """
    body = outgoing.body
    seconds = int(datetime.now(UTC).timestamp())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": outgoing.id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": signature(key_bytes(target.key()), outgoing.id, seconds, body),
    }
    with Web(target) as web:
        path = "/" if target.url.endswith("/") else ""
        answer = web.request("POST", path, headers=headers, content=body, cap_bytes=_ANSWER_CAP_BYTES)
    outcome = classify(answer.status)
    if outcome is Outcome.CLAIMED:
        sha256 = hashlib.sha256(body).hexdigest()
        return Confirmation("", sha256, seen=Seen.TOLD, was_already_there=False, answer=f"HTTP {answer.status}")
    if outcome is Outcome.PERMANENT:
        raise Refused(RefusalCode.PEER_REJECTED, "an answer of 2xx", f"HTTP {answer.status}")
    raise trouble(f"answered HTTP {answer.status} to a call", answer)
