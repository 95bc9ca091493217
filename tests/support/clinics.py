"""A node as a clinic uses it over HTTP: a real record, real accounts, a real server.  The road is played by the test.

What was asked lies in the record as the road would find it; `Clinic.answer` writes what the road would have written.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import Connection, select, update

from ai_engine.findings import Code, Findings, Measurement, ModelIdentity, Observation
from ai_engine.packages.schema import parse_description
from dicom_node import files
from dicom_node.cli.web import make_app
from dicom_node.desks.people import People
from dicom_node.durable import Put
from dicom_node.photo import wrap
from dicom_node.record import Database, tables
from dicom_node.record.sites import add_site
from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.settings import Settings
from portal import Listen
from portal.serving import configure
from tests.support.photos import IMPORTER, PATIENT, occasion, saved, scene
from tests.support.rows import add_row

PASSWORD = "seven rivers under an old bridge"
RUT = {"key": "rut", "title": "RUT", "system": "urn:oid:2.16.152", "issuer": "CL", "check": "rut"}
PASSPORT = {"key": "passport", "title": "Pasaporte", "system": "urn:oid:2.16.840", "issuer": "PP", "check": ""}
ANSWERED = "2026-11-22T19:20:30.000000+00:00"
SHIPPED = Path(__file__).resolve().parents[2] / "models/skin-lesion/1.0.0/model.yaml"


def said(malignant: float, melanoma: float) -> Findings:
    """What the shipped model says: two calibrated probabilities with their thresholds."""
    words = parse_description(SHIPPED.read_bytes()).words
    model = ModelIdentity("skin-lesion", "1.0.0", "ab" * 32, "Skin", "torch", "openvino", "CPU", "f32", words=words)
    notes = (
        "Trained and measured on pictures taken through a dermatoscope; photographs taken without one are refused.",
        "A low probability does not exclude malignancy: some malignant lesions are missed at every threshold.",
    )
    told = (("malignant", malignant, 0.04389), ("melanoma", melanoma, 0.06868))
    return Findings(model, observations=tuple(_observed(*one) for one in told), notes=notes)


def _observed(key: str, value: float, threshold: float) -> Observation:
    name = Code(f"AI-{key[:3].upper()}-PROB", "99AINODE", f"Model-estimated probability of {key}")
    lesion, skin = Code("52988006", "SCT", "Lesion"), Code("39937001", "SCT", "Skin")
    side = "ABOVE" if value >= threshold else "BELOW"
    measured = (Measurement("probability", name, 100 * value, Code("%", "UCUM", "percent")),)
    return Observation(key, name, lesion, skin, measured, Code(f"AI-OP-{side}", "99AINODE", side), 100 * threshold)


class Played:
    """A node on which the test plays the road: what was asked lies in its record, and what would have come of it."""

    folder: Path
    database: Database
    people: People

    def account(self, email: str, *roles: str, name: str = "María José Fuentes", sites: tuple[str, ...] = ("post-1",),
                language: str = "en") -> None:  # fmt: skip
        """Somebody with `PASSWORD`."""
        self.people.create(
            "test", email=email, name=name, roles=roles or ["clinician"], sites=sites, language=language,
            password=PASSWORD,
        )  # fmt: skip

    def rows(self) -> list[Any]:
        """Every analysis, the oldest first."""
        with self.database.read() as connection:
            return list(connection.execute(select(tables.analyses).order_by(tables.analyses.c.id)).mappings())

    def acts(self) -> list[str]:
        """What the audit log says was done, the oldest first."""
        with self.database.read() as connection:
            return list(connection.execute(select(tables.audit.c.action).order_by(tables.audit.c.id)).scalars())

    def audited(self) -> list[Any]:
        """The audit log, the oldest entry first."""
        with self.database.read() as connection:
            return list(connection.execute(select(tables.audit).order_by(tables.audit.c.id)).mappings())

    def ask(self, email: str, **known: Any) -> dict[str, Any]:
        """An analysis as if the person had asked; its row."""
        with self.database.write() as connection:
            user = connection.execute(select(tables.users.c.id).where(tables.users.c.email == email)).scalar_one()
            count = len(connection.execute(select(tables.analyses.c.id)).all())
            values: dict[str, Any] = {
                "public_id": f"{count + 1:032x}",
                "user_id": user,
                "site": "post-1",
                "state": "submitted",
                "is_identified": False,
                "pseudonym": "ANON-ABCDEFGH2345",
                "consent": "care",
                "description": "",
                "declared": {"kind": "dermoscopic", "claimed": ""},
                "created_at": ANSWERED.replace("19:20:30", f"1{count % 10}:1{count % 6}:05"),
                **known,
            }
            number = add_row(connection, tables.analyses, **values)
            return dict(
                connection.execute(select(tables.analyses).where(tables.analyses.c.id == number)).mappings().one()
            )

    def arrive(self, row: dict[str, Any], picture: bytes = b"") -> str:
        """The photograph of an analysis is in the vault; its study."""
        made = wrap(picture or saved(scene()), PATIENT, occasion(), IMPORTER)
        name = f"vault/{row['public_id']}.dcm"
        (self.folder / "vault").mkdir(exist_ok=True)
        (self.folder / name).write_bytes(made.data)
        study, uid = f"2.25.{row['id']}", f"2.25.{row['id']}.1"
        with self.database.write() as connection:
            times = {"first_seen_at": ANSWERED, "last_activity_at": ANSWERED}
            add_row(connection, tables.studies, uid=study, public_id=f"{row['id']:032x}", **times)
            arrival = add_row(connection, tables.arrivals)
            add_row(connection, tables.instances, uid=uid, path=name, arrival_id=arrival, study_uid=study)
            place = {"study_uid": study, "sop_instance_uid": uid, "state": "submitted"}
            connection.execute(update(tables.analyses).where(tables.analyses.c.id == row["id"]).values(**place))
        return study

    def answer(self, row: dict[str, Any], malignant: float, melanoma: float, picture: bytes = b"") -> None:
        """The model has answered: numbers, heat map, page."""
        study = self.arrive(row, picture)
        heat_map = saved(scene()[::-1], "PNG")
        kinds = {
            "findings": json.dumps(said(malignant, melanoma).to_json()).encode(),
            "overlay": heat_map,
            "pdf-page": b"%PDF-1.4\n% the page of a test\n",
        }
        with self.database.write() as connection:
            run = self._run(connection, study, "built")
            for kind, data in kinds.items():
                sha256, path = files.keep(self.folder / "artefacts", data)
                add_row(connection, tables.artefacts, run_id=run, kind=kind, sha256=sha256, path=path, attempt=1,
                        created_at=ANSWERED)  # fmt: skip

    def refuse(self, row: dict[str, Any], code: RefusalCode) -> None:
        """The quality gate has refused the picture."""
        study = self.arrive(row)
        with self.database.write() as connection:
            self._run(connection, study, "refused", refusal=Refusal(code).to_json())

    @staticmethod
    def _run(connection: Connection, study: str, state: str, **known: Any) -> int:
        case = add_row(connection, tables.cases, study_uid=study, case_key=study, state="ready", model="skin-lesion")
        return add_row(connection, tables.runs, study_uid=study, case_id=case, run_key=study, state=state,
                       created_at=ANSWERED, **known)  # fmt: skip


@dataclass
class Clinic(Played):
    """A node with one post, served on a port of this machine."""

    folder: Path
    sections: dict[str, Any] = field(default_factory=dict)
    puts: list[Put] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        node = {"organisation": "Posta Rural Quillón", "timezone": "America/Santiago"}
        self.settings = Settings(data={"folder": self.folder, "min_free_gb": 0}, **{"node": node, **self.sections})
        self.database = Database(self.settings.records_url)
        self.database.migrate()
        with self.database.write() as connection:
            for key in ("post-1", "post-2"):
                add_site(connection, "test", key=key, title=key.title(), identifier_types=[RUT, PASSPORT])
        self.people = People(self.settings.people, self.database)
        self.app = make_app(self.settings, self.database, self.puts.append)


@contextmanager
def clinic(folder: Path, port: int = 0, **sections: Any) -> Iterator[Clinic]:
    """A clinic that answers at `url` until the test is over."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Clinic(folder, sections)
    server = uvicorn.Server(configure(made.app, Listen(port=port)))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.started
    made.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.should_exit = True
        thread.join(20)
        made.database.close()
