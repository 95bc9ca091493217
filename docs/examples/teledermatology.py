r"""How a tele-dermatology platform uses the service: send a photograph, be called back, file the page.

Standard library only, so that it can be read in any language.  Run it against a node that knows this platform as a
webhook (docs/reference/webhooks.md):

    python teledermatology.py --node http://127.0.0.1:8080 --key-file key.txt --webhook clinic \
        --secret-file hook.secret --listen 8765 --patient P-17 --system https://clinic.example/patients \
        --folder records lesion.jpg
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOLERANCE_S = 300
"""A call that was signed longer ago, or further ahead, is not believed: somebody may have kept it to play it again."""


def verified(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether a call is the node's: signed with the shared secret over id, time and body, and fresh."""
    key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
    call_id, seconds = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not seconds.isdigit() or abs(now - int(seconds)) > TOLERANCE_S:
        return False
    digest = hmac.new(key, f"{call_id}.{seconds}.".encode() + body, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return any(hmac.compare_digest(expected, one) for one in headers.get("webhook-signature", "").split(" "))


class Receiver(ThreadingHTTPServer):
    """Takes calls in: answers at once, and leaves the work to whoever reads `calls`."""

    def __init__(self, port: int, secret: str) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.secret = secret
        self.calls: queue.Queue[dict[str, Any]] = queue.Queue()
        self.seen: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 65_536))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not verified(self.server.secret, headers, body, time.time()):
            self._answer(401)
            return
        if headers["webhook-id"] not in self.server.seen:  # a call whose answer was lost comes again under its id
            self.server.seen.add(headers["webhook-id"])
            self.server.calls.put(json.loads(body))
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        """A request line may hold an id: nothing is logged."""


class Service:
    """The node, as one platform sees it with its key."""

    def __init__(self, node: str, key: str, language: str = "es") -> None:
        self._node, self._key, self._language = node.rstrip("/"), key, language

    def send(self, photo: bytes, *, patient: str, system: str, webhook: str, body_site: str, order: str) -> str:
        """Ask about one photograph; the id of the request."""
        said = {
            "image": base64.b64encode(photo).decode(),
            "patient": {"id": patient, "system": system},
            "kind": "dermoscopic",
            "bodySite": body_site,
            "order": order,
            "callback": webhook,
        }
        # one key for one question: whatever is lost on the way, it may be asked again, and is answered once
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        body = json.dumps(said).encode()
        for wait_s in (1, 5, 0):
            try:
                return str(json.loads(self._ask("/api/v1/predict/skin-lesion", headers, body))["id"])
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503) or not wait_s:
                    raise
            except urllib.error.URLError:
                if not wait_s:
                    raise
            time.sleep(wait_s)
        raise RuntimeError("not reached")

    def result(self, request_id: str) -> dict[str, Any]:
        """What came of a request."""
        return dict(json.loads(self._ask(f"/api/v1/results/{request_id}")))

    def fetch(self, path: str) -> bytes:
        """A file that an answer names."""
        return self._ask(path)

    def _ask(self, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> bytes:
        known = {"X-API-Key": self._key, "Accept-Language": self._language}
        request = urllib.request.Request(self._node + path, data=body, headers={**known, **(headers or {})})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())


def file_result(service: Service, request_id: str, folder: Path) -> str:
    """Put what came of a request into the patient's folder; what a person reads about it."""
    told = service.result(request_id)
    if told["status"] != "completed":
        advice = (told.get("refusal") or {}).get("advice", "")
        return f"{told['status']}: {told['message']} {advice}".strip()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{request_id}.pdf").write_bytes(service.fetch(told["pdf"]))
    (folder / f"{request_id}.fhir.json").write_bytes(service.fetch(told["diagnostic_report"]["url"]))
    percent, threshold = told["probability"]["percent"], told["threshold"]["percent"]
    return f"{percent:.0f} % ({told['category']['text']}, {threshold:.0f} %). {told['meaning']} {told['disclaimer']}"


def main(arguments: list[str] | None = None) -> int:
    """Send one photograph, wait for the call, file the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name in ("node", "key-file", "webhook", "secret-file", "patient", "system"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--listen", type=int, required=True, help="port that the node's webhook points at")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--body-site", default="")
    parser.add_argument("--order", default="")
    parser.add_argument("--language", default="es")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("photo", type=Path)
    said = parser.parse_args(arguments)
    receiver = Receiver(said.listen, Path(said.secret_file).read_text(encoding="utf-8").strip())
    service = Service(said.node, Path(said.key_file).read_text(encoding="utf-8").strip(), said.language)
    request_id = service.send(
        said.photo.read_bytes(),
        patient=said.patient,
        system=said.system,
        webhook=said.webhook,
        body_site=said.body_site,
        order=said.order,
    )
    deadline = time.monotonic() + said.timeout
    while True:
        call = receiver.calls.get(timeout=max(0.1, deadline - time.monotonic()))
        if call["data"]["id"] == request_id:
            break
    receiver.shutdown()
    sys.stdout.write(file_result(service, request_id, said.folder) + "\n")
    return 0 if call["data"]["status"] == "completed" else 3


if __name__ == "__main__":
    sys.exit(main())
