"""A scripted DICOMweb archive: it stores, loses, lies and delays as told, and keeps a ledger of what it really did.

``StubPacs(script=["error-500", "hang-after-storing"])`` answers the n-th STOW-RS request with the n-th behaviour and
every later one with ``ok``; ``query_script`` does the same for QIDO-RS.  Own process: ``python -m peers.stub_pacs``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from pydicom import Dataset, dcmread

Change = Callable[[Dataset], None]


@dataclass
class Stored:
    data: bytes
    dataset: Dataset
    hidden_looks: int = 0


@dataclass
class StubPacs:
    """The archive's state; `start` serves it on a free loopback port."""

    script: list[str] = field(default_factory=list)
    query_script: list[str] = field(default_factory=list)
    hang_s: float = 3.0
    credentials: str = ""
    port: int = 0
    ledger: list[tuple[str, str, str]] = field(default_factory=list)
    """(what happened, SOP Instance UID, sha256 of the data set), in order."""
    store: list[Stored] = field(default_factory=list)
    """More than one entry per UID is possible, as in archives that key by patient."""
    requests: list[str] = field(default_factory=list)
    endless_bytes: int = 0
    """How much of an endless answer its reader took."""

    def start(self) -> StubPacs:
        handler = type("Handler", (_Handler,), {"pacs": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> StubPacs:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def keep(self, data: bytes, change: Change | None = None, hidden_looks: int = 0) -> None:
        """Store an object, perhaps changed on the way in; the same UID with the same patient is replaced."""
        dataset = dcmread(BytesIO(data))
        if change is not None:
            change(dataset)
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            data = buffer.getvalue()
        same = [
            s
            for s in self.store
            if s.dataset.SOPInstanceUID == dataset.SOPInstanceUID
            and s.dataset.PatientID == dataset.PatientID
            and s.dataset.StudyInstanceUID == dataset.StudyInstanceUID
        ]
        for old in same:
            self.store.remove(old)
        self.store.append(Stored(data, dataset, hidden_looks))
        self.note("replaced" if same else "stored", dataset, data)

    def note(self, what: str, dataset: Dataset, data: bytes) -> None:
        self.ledger.append((what, str(dataset.SOPInstanceUID), hashlib.sha256(data).hexdigest()))

    def count(self, what: str) -> int:
        return sum(entry[0] == what for entry in self.ledger)


def _other_pixel(dataset: Dataset) -> None:
    pixels = bytearray(dataset.PixelData)
    pixels[0] ^= 1
    dataset.PixelData = bytes(pixels)


def _other_study(dataset: Dataset) -> None:
    dataset.StudyInstanceUID = str(dataset.StudyInstanceUID)[:-1] + "9"


def _other_patient(dataset: Dataset) -> None:
    dataset.PatientID = "0" + str(dataset.PatientID)


def _upper_case_name(dataset: Dataset) -> None:
    dataset.PatientName = str(dataset.PatientName).upper() + "^COERCED"


CHANGES: dict[str, Change] = {
    "change-pixel": _other_pixel,
    "change-study": _other_study,
    "change-patient": _other_patient,
    "coerce-name": _upper_case_name,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pacs: ClassVar[StubPacs]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", content_type: str = "application/dicom+json", **headers: str):
        self.send_response(status)
        if body:
            self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refused(self) -> bool:
        wanted = self.pacs.credentials
        if wanted and self.headers.get("Authorization") != wanted:
            self.answer(401, WWW_Authenticate="Basic")
            return True
        return False

    # -- STOW-RS

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.pacs.requests.append(f"POST {self.path}")
        if self.refused():
            return
        boundary = re.search(r"boundary=([^;]+)", self.headers["Content-Type"]).group(1).encode()
        parts = body.split(b"--" + boundary)[1:-1]
        data = parts[0].partition(b"\r\n\r\n")[2][:-2]
        dataset = dcmread(BytesIO(data), stop_before_pixels=True)
        self.pacs.note("received", dataset, data)
        behaviour = self.pacs.script.pop(0) if self.pacs.script else "ok"
        self.behave(behaviour, data, dataset)

    def behave(self, behaviour: str, data: bytes, dataset: Dataset) -> None:
        pacs = self.pacs
        name, _, argument = behaviour.partition(":")
        stores = name in ("ok", "html", "empty", "error-after-storing", "hang-after-storing", "cut-after-storing")
        if stores or name == "conflict-after-storing" or name in CHANGES or name == "late":
            pacs.keep(data, CHANGES.get(name), hidden_looks=int(argument or 3) if name == "late" else 0)
        if name in ("ok", "lie", "late", *CHANGES):
            self.answer(200, stow_body(dataset))
        elif name in ("html", "lie-html"):
            self.answer(200, b"<html><body>Welcome, J\xc3\xb6rg</body></html>", "text/html")
        elif name in ("empty", "lie-empty"):
            self.answer(200)
        elif name in ("error-after-storing", "error"):
            self.answer(int(argument or 500), b"boom", "text/plain")
        elif name in ("hang-after-storing", "hang"):
            time.sleep(pacs.hang_s)
            self.close_connection = True
        elif name in ("cut-after-storing", "cut"):
            self.close_connection = True
        elif name == "half-answer":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"[{")
            self.close_connection = True
        elif name == "partial":
            self.answer(202, stow_body(dataset, failure=int(argument, 16)))
        elif name in ("conflict", "conflict-after-storing"):
            self.answer(409, stow_body(dataset, failure=int(argument or "0110", 16)))
        elif name == "busy":
            self.answer(503, b"later", "text/plain", Retry_After=argument or "7")
        elif name == "redirect":
            self.answer(302, Location=argument)
        elif name == "endless":
            self.endless()
        else:
            raise ValueError(behaviour)

    def endless(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        block = b"[" * 65536
        try:
            for _ in range(1000):
                self.wfile.write(b"%x\r\n" % len(block) + block + b"\r\n")
                self.pacs.endless_bytes += len(block)
        except OSError:
            pass
        self.close_connection = True

    # -- QIDO-RS and WADO-RS

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.pacs.requests.append(f"GET {parts.path}")
        if self.refused():
            return
        retrieve = re.fullmatch(r".*/studies/([^/]+)/series/([^/]+)/instances/([^/]+)", parts.path)
        if retrieve:
            self.retrieve(*retrieve.groups())
            return
        behaviour = self.pacs.query_script.pop(0) if self.pacs.query_script else "ok"
        if behaviour == "cut":
            self.close_connection = True
        elif behaviour != "ok":
            self.answer(int(behaviour), b"boom", "text/plain")
        elif parts.path.endswith("/studies"):
            self.studies(query["StudyInstanceUID"])
        else:
            self.instances(query["SOPInstanceUID"])

    def studies(self, uid: str) -> None:
        # as Orthanc does: one study per Patient ID, its other attributes from the first instance that came
        keys: dict[str, str] = {}
        for stored in self.pacs.store:
            if stored.dataset.StudyInstanceUID == uid:
                keys.setdefault(str(stored.dataset.PatientID).strip(), str(stored.dataset.get("IssuerOfPatientID", "")))
        matches = [{**item("0020000D", uid), **item("00100020", p), **item("00100021", i)} for p, i in keys.items()]
        self.answer(200, json.dumps(matches).encode())

    def instances(self, uid: str) -> None:
        matches = []
        for stored in self.pacs.store:
            if stored.dataset.SOPInstanceUID != uid:
                continue
            if stored.hidden_looks > 0:
                stored.hidden_looks -= 1
                continue
            d = stored.dataset
            tags = {"00080018": uid, "0020000D": d.StudyInstanceUID, "0020000E": d.SeriesInstanceUID}
            matches.append({k: v for tag, value in tags.items() for k, v in item(tag, str(value)).items()})
        self.answer(200, json.dumps(matches).encode()) if matches else self.answer(204)

    def retrieve(self, study: str, series: str, uid: str) -> None:
        for stored in self.pacs.store:
            d = stored.dataset
            if (d.StudyInstanceUID, d.SeriesInstanceUID, d.SOPInstanceUID) == (study, series, uid):
                body = b"\r\n--xyz\r\nContent-Type: application/dicom\r\n\r\n" + stored.data + b"\r\n--xyz--\r\n"
                self.answer(200, body, 'multipart/related; type="application/dicom"; boundary=xyz')
                return
        self.answer(404)


def item(tag: str, value: Any) -> dict[str, Any]:
    """One attribute of the DICOM JSON model (the stub's readers do not look at the VR)."""
    return {tag: {"vr": "UI", "Value": [value]}}


def stow_body(dataset: Dataset, failure: int | None = None) -> bytes:
    """The body of a STOW-RS answer for one instance."""
    entry = {**item("00081150", str(dataset.SOPClassUID)), **item("00081155", str(dataset.SOPInstanceUID))}
    if failure is None:
        return json.dumps([{"00081199": {"vr": "SQ", "Value": [entry]}}]).encode()
    return json.dumps([{"00081198": {"vr": "SQ", "Value": [{**entry, **item("00081197", failure)}]}}]).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted DICOMweb archive on loopback.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", default="", help="comma separated behaviours of the first STOW-RS requests")
    options = parser.parse_args()
    with StubPacs(script=[s for s in options.script.split(",") if s], port=options.port) as pacs:
        sys.stdout.write(json.dumps({"url": pacs.url}) + "\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
