"""Photographs from the command line: wrapped, sent, and looked for; one line of JSON for each."""

from __future__ import annotations

import importlib.metadata
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import typer

from dicom_node import delivery
from dicom_node.body_sites import SITES, BodySite, body_site
from dicom_node.cli.common import Exit, emit, stop
from dicom_node.demo.sending import DicomFile, Peer, send_files
from dicom_node.photo import Importer, Occasion, Patient, PhotoClass, WrappedPhoto, wrap
from dicom_node.refusals import Refused
from dicom_node.settings import Settings, read_secret

_SIDES = {"": "", "left": "L", "l": "L", "right": "R", "r": "R", "both": "B", "b": "B", "none": "U", "u": "U"}
_DICOM_AT = 128
_HEAD_BYTES = 132

Deliver = Callable[[WrappedPhoto], dict[str, Any]]


@dataclass(frozen=True)
class Told:
    """What the options say, as they were given."""

    patient: str
    issuer: str
    name: str
    birth_date: str
    sex: str
    body_site: str
    laterality: str
    order: str
    dermoscopic: bool | None
    store_as: str

    @property
    def is_anything(self) -> bool:
        return any(value not in ("", None) for value in astuple(self))

    @property
    def declared(self) -> Literal["dermoscopic", "plain", ""]:
        if self.dermoscopic is None:
            return ""
        return "dermoscopic" if self.dermoscopic else "plain"


def are_photographs(inputs: Sequence[Path]) -> bool:
    """Whether these are files that are no DICOM objects: what they are instead, the wrapper will say."""
    return all(path.is_file() and not _is_dicom(path) for path in inputs)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)[_DICOM_AT:] == b"DICM"


def send_photographs(inputs: Sequence[Path], told: Told, chosen: Settings, *, to: str, calling: str) -> None:
    """Wrap and send photographs of one patient and one occasion.

    Raises
    ------
    Refused
        patient-unidentified or validation, before anything is sent.
    PeerTrouble
        If the receiver cannot be reached.
    typer.Exit
        3, when a photograph was refused, after the others were sent.
    """
    patient = Patient(told.patient, told.issuer, told.name, told.birth_date.replace("-", ""), told.sex.upper())
    photo_class = _class_of(told, chosen)
    site, side = _site_of(told), _side_of(told)
    importer = _importer(chosen)
    deliver = _receiver(to, calling, chosen)
    created = _now(chosen)
    refused_any = False
    for number, path in enumerate(inputs, start=1):
        occasion = Occasion(created, told.order, site, side, told.declared, number)
        try:
            made = wrap(path.read_bytes(), patient, occasion, importer, photo_class=photo_class)
            answer = deliver(made)
            refused_any = refused_any or not answer["stored"]
            emit({"file": str(path), **_facts(made), **answer})
        except Refused as refused:
            refused_any = True
            emit({"file": str(path), "stored": False, "refusal": refused.refusal.to_json()})
    if refused_any:
        raise typer.Exit(int(Exit.REFUSED))


def _facts(made: WrappedPhoto) -> dict[str, Any]:
    return {
        "study_uid": made.study_uid,
        "series_uid": made.series_uid,
        "sop_instance_uid": made.sop_instance_uid,
        "sop_class_uid": made.sop_class_uid,
        "transfer_syntax_uid": made.transfer_syntax_uid,
        "rows": made.rows,
        "columns": made.columns,
        "untouched": made.is_untouched,
        "notes": list(made.notes),
    }


def _class_of(told: Told, chosen: Settings) -> PhotoClass:
    if told.store_as:
        if told.store_as not in tuple(PhotoClass):
            stop(Exit.USAGE, f"--as: expected {' or '.join(PhotoClass)}; found {told.store_as!r}")
        return PhotoClass(told.store_as)
    if told.declared == "dermoscopic":
        return PhotoClass(chosen.photos.store_as)
    return PhotoClass.VL_PHOTOGRAPHIC


def _site_of(told: Told) -> BodySite | None:
    if not told.body_site:
        return None
    found = body_site(told.body_site)
    if found is None:
        stop(Exit.USAGE, f"--body-site: expected one of {', '.join(site.name for site in SITES)}")
    return found


def _side_of(told: Told) -> str:
    side = _SIDES.get(told.laterality.lower())
    if side is None:
        stop(Exit.USAGE, f"--laterality: expected left, right, both or none; found {told.laterality!r}")
    return side


def _importer(chosen: Settings) -> Importer:
    """This installation, if it has records; else a namespace for this call, so that no UID is made twice."""
    from dicom_node.record import Database

    namespace, serial = chosen.node.site_namespace, "ai-node send"
    path = chosen.data.folder / "records.sqlite"
    if chosen.data.records_url or path.is_file():
        database = Database(chosen.records_url)
        try:
            if database.is_migrated():
                namespace = namespace or uuid.UUID(database.site_fact("site_namespace"))
                serial = database.site_fact("node_instance")
        finally:
            database.close()
    return Importer(namespace or uuid.uuid4(), importlib.metadata.version("dicom-ai-node"), serial)


def _now(chosen: Settings) -> str:
    """The time of this call in the site's zone."""
    zone: tzinfo
    if chosen.node.timezone:
        zone = ZoneInfo(chosen.node.timezone)
    else:
        sign, hours, minutes = chosen.node.timezone_offset[0], *chosen.node.timezone_offset[1:].split(":")
        span = timedelta(hours=int(hours), minutes=int(minutes))
        zone = timezone(-span if sign == "-" else span)
    return datetime.now(zone).isoformat(timespec="microseconds")


def _receiver(to: str, calling: str, chosen: Settings) -> Deliver:
    """How an object is brought to its receiver: by C-STORE to AE@host:port, else confirmed by looking."""
    if "@" in to:
        try:
            peer = Peer.parse(to)
        except ValueError as error:
            stop(Exit.USAGE, f"--to: {error}")
        return lambda made: _by_c_store(made, peer, calling)
    target = _destination(to, chosen) if to else _orthanc(chosen)

    def bring(made: WrappedPhoto) -> dict[str, Any]:
        confirmed = delivery.send(delivery.OutgoingObject.read(made.data, made.sha256), target)
        return {"stored": True, "seen": confirmed.seen.value, "answer": confirmed.answer}

    return bring


def _by_c_store(made: WrappedPhoto, peer: Peer, calling: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ai-node-") as folder:
        path = Path(folder) / "photo.dcm"
        path.write_bytes(made.data)
        file = DicomFile(path, made.sop_class_uid, made.transfer_syntax_uid)
        report = send_files([file], peer, calling_ae_title=calling)
    if report.failed:
        return {"stored": False, "answer": next(iter(report.failed))}
    return {"stored": True, "seen": "told", "answer": "status 0000H"}


def _destination(name: str, chosen: Settings) -> delivery.Target:
    from dicom_node.stages.targets import target

    kinds = {key for key, value in chosen.destinations.items() if value.kind in ("stow", "cstore")}
    if name not in kinds:
        known = ", ".join(sorted(kinds)) or "none"
        stop(Exit.USAGE, f"--to: expected AE@host:port or an archive of the settings ({known}); found {name!r}")
    return target(chosen, name)


def _orthanc(chosen: Settings) -> delivery.StowTarget:
    orthanc = chosen.orthanc
    secret = orthanc.password_file
    return delivery.StowTarget(
        url=orthanc.url.rstrip("/") + orthanc.dicomweb_root,
        username=orthanc.username,
        secret=(lambda: read_secret(secret)) if secret else None,
        insecure_ok_because=orthanc.insecure_ok_because,
        ca_file=orthanc.ca_file,
        identity=chosen.shown(orthanc),
    )
