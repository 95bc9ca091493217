"""A node with every room open and something in every state of it, over HTTPS: what the walks through the pages walk in.

Portal, record, model child, FHIR server and archive folder are real.  Analyses are played (`clinics.Played`), and so
are requests for a prediction but one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from dicom_node.desks.operation import Operation
from dicom_node.desks.people import People
from dicom_node.permissions import Person, Role
from dicom_node.record import Database, keys, people, reviews, second_factors, tables
from dicom_node.record.identity_removal import GONE
from dicom_node.record.sessions import PORTAL
from dicom_node.record.sites import add_site, close_site
from dicom_node.refusals import Refusal, RefusalCode
from tests.component.test_operation_pages import stuck
from tests.fixtures_packages import make_tiny_package
from tests.peers.fhir_peer import FhirPeer
from tests.support.api import ApiNode, head, nifti
from tests.support.browsing import served
from tests.support.certificates import new_site
from tests.support.clinics import PASSPORT, RUT, Played
from tests.support.lines import Line, line
from tests.support.people import password_hash
from tests.support.rows import add_row
from tests.support.visits import visit

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "es")
CHART = {"key": "chart", "title": "Ficha", "system": "", "issuer": "Posta", "check": ""}
MARIA = {"id": "12345678-5", "type": "rut", "system": RUT["system"], "issuer": "CL", "name": "Soto Pérez^María",
         "birth_date": "19610203", "sex": "F", "confirmed": "user"}  # fmt: skip
FOUND, SEVERAL, UNKNOWN = "12.345.678-5", "5.126.663-3", "9.999.999-3"
"""What the hospital's server knows once, twice and not at all."""
HOSTILE = '"><img src=x onerror="window.hurt=1"><script>window.hurt=2</script>\'{{7*7}}'
LATE = "2026-03-02T10:00:00.000000+00:00"
PEOPLE: dict[str, tuple[tuple[Role, ...], tuple[str, ...], str]] = {
    "clinician": ((Role.CLINICIAN,), ("post-1", "post-2"), "María José Fuentes"),
    "newcomer": ((Role.CLINICIAN,), ("post-2",), "Nueva Colega"),
    "homeless": ((Role.CLINICIAN,), ("closed",), "Sin Posta"),
    "specialist": ((Role.SPECIALIST,), ("post-1", "post-2"), "Sara Especial"),
    "idle": ((Role.SPECIALIST,), ("post-2",), "Irene Libre"),
    "laboratory": ((Role.SERVICE,), ("post-1",), "Laboratorio"),
    "operator": ((Role.OPERATOR,), (), "Olga Guardia"),
    "guarded": ((Role.OPERATOR,), (), "Rosa Llave"),
    "administrator": ((Role.ADMINISTRATOR,), (), "Ada Admin"),
}
"""Who walks: roles, sites, name; each of them once in each language."""


@dataclass
class Whole(Played):
    """The node, who walks in it, and what there is to see.

    Attributes
    ----------
    cast
        Account and secret of a session by role and language.
    seen
        Public ids of what there is in each state: analyses by state and language, requests by state.
    hospital
        The line to the FHIR server.
    scan
        A NIfTI file that the small model reads.
    """

    node: ApiNode
    hospital: Line
    address: str = ""
    certificate: Path = Path()
    scan: bytes = b""
    cast: dict[tuple[str, str], tuple[Person, str]] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder: Path = self.node.settings.data.folder
        self.database: Database = self.node.database
        self.people = People(self.node.settings.people, self.database)

    def person(self, role: str, language: str) -> Person:
        return self.cast[role, language][0]

    def email(self, role: str, language: str) -> str:
        return f"{role}-{language}@posta.example"

    def study_of(self, analysis: str) -> str:
        """UID of the study of an analysis."""
        return str(next(row["study_uid"] for row in self.rows() if row["public_id"] == analysis))

    def lend_requests(self, person: Person) -> None:
        """The requests that there are become this person's."""
        with self.database.write() as connection:
            connection.execute(update(tables.predictions).values(owner=person.prefix))

    def session(self, role: str, language: str) -> str:
        """A living session; a walk that ended hers gets another."""
        if self.people.identify(self.cast[role, language][1], PORTAL) is None:
            self._enter(role, language)
        return self.cast[role, language][1]

    def fill(self, folder: Path, trouble: pytest.MonkeyPatch) -> None:
        """Everybody, and something in every state."""
        with self.database.write() as connection:
            for key, kinds in (("post-1", [RUT, PASSPORT, CHART]), ("post-2", [RUT]), ("closed", [RUT])):
                add_site(connection, "test", key=key, title=key.title(), identifier_types=kinds)
        for role in PEOPLE:
            for language in LANGUAGES:
                self._account(role, language)
        with self.database.write() as connection:
            close_site(connection, "test", "closed")
        for language in LANGUAGES:
            self._analyses(language)
        keys.create(self.database, "ehr", ["fhir:read"])
        stuck(self.node, folder, trouble)  # type: ignore[arg-type]
        self._requests(folder)

    def _account(self, role: str, language: str) -> None:
        roles, sites, name = PEOPLE[role]
        with self.database.write() as connection:
            people.add_user(
                connection, "test", email=self.email(role, language), name=name, password_hash=password_hash(),
                roles=[one.value for one in roles], sites=list(sites), language=language,
            )  # fmt: skip
        self._enter(role, language)
        self._enter(role, language)  # a second device of hers

    def _enter(self, role: str, language: str) -> None:
        with self.database.read() as connection:
            user = people.user_of_email(connection, self.email(role, language))
        assert user is not None
        self.cast[role, language] = self.people.open_session(user, PORTAL)

    def _analyses(self, language: str) -> None:
        email = self.email("clinician", language)
        named = {"is_identified": True, "patient": MARIA, "pseudonym": None, "created_at": LATE}
        placed = {"impression": "suspicious", "body_site": "heel", "laterality": "L"}
        rows = {
            "completed": self.ask(email, **named, impression="benign", description=HOSTILE, order_id="A-77"),
            "below": self.ask(email, **placed),
            "refused": self.ask(email, **named),
            "waiting": self.ask(email),
            "withdrawn": self.ask(
                email, state="withdrawn", withdrawn_at="2026-11-22T19:40:00+00:00", withdrawn_reason="other: x"
            ),
            "failed": self.ask(email, state="failed", error='{"reason": "a fault"}'),
            "held": self.ask(email, **named),
            "answered": self.ask(email, **named, impression="unsure", description="Bleeds since May"),
            "closed": self.ask(email, **named, impression="unsure"),
            "unconfirmed": self.ask(email, **{**named, "patient": {**MARIA, "confirmed": ""}}),
            "removed": self.ask(email, **named, impression="unsure"),
        }
        self.answer(rows["completed"], 0.231, 0.12)
        self.answer(rows["below"], 0.01, 0.004)
        self.refuse(rows["refused"], RefusalCode.IMAGE_TOO_BLURRED)
        study = self.arrive(rows["held"])
        hold = Refusal(RefusalCode.PATIENT_CONFLICT).to_json()
        with self.database.write() as connection:
            connection.execute(update(tables.studies).where(tables.studies.c.uid == study).values(held=hold))
        self._delete(rows["removed"])
        for name in ("answered", "closed"):
            self.answer(rows[name], 0.37, 0.12)
            with self.database.write() as connection:
                add_row(connection, tables.reviews, analysis_id=rows[name]["id"], state="answered", at=LATE,
                        user_id=self.person("specialist", language).user_id, action=reviews.ACTIONS[0],
                        reply="Look again in three months, same light.")  # fmt: skip
        with self.database.write() as connection:
            add_row(connection, tables.reviews, analysis_id=rows["closed"]["id"], state="closed", at=LATE,
                    user_id=self.person("specialist", language).user_id, reply="", action="")  # fmt: skip
        self.seen |= {f"{name}-{language}": str(row["public_id"]) for name, row in rows.items()}

    def _delete(self, row: dict[str, Any]) -> None:
        """Answered long ago, and deleted by the rules of retention."""
        self.answer(row, 0.37, 0.12)
        mine = tables.artefacts.c.run_id.in_(
            select(tables.runs.c.id).where(tables.runs.c.study_uid == self.study_of(row["public_id"]))
        )
        with self.database.write() as connection:
            connection.execute(update(tables.artefacts).where(mine).values(removed_at=LATE))
            photo = tables.instances.c.study_uid == f"2.25.{row['id']}"
            connection.execute(update(tables.instances).where(photo).values(removed_at=LATE))
            nobody = {**dict.fromkeys(MARIA, ""), "confirmed": "user", GONE: LATE}
            asked = tables.analyses.c.id == row["id"]
            connection.execute(update(tables.analyses).where(asked).values(patient=nobody))

    def _requests(self, folder: Path) -> None:
        """One real request, and one in every other state."""
        doctor = visit(self.node.app, self.node.settings, self.database, Role.CLINICIAN, sites=("post-1",))
        self.scan = nifti(head(), folder / "scan.nii.gz").read_bytes()
        headers = {"Accept": "application/json", "Origin": doctor.origin, "X-CSRF-Token": doctor.csrf}
        given = doctor.client.post("/study/files", files=[("files", ("scan-flair.nii.gz", self.scan))], headers=headers)
        asked = doctor.post(given.json()["location"], model="tiny-bright", role_0="flair", spacing_mm="")
        self.seen["request-completed"] = str(asked.headers["location"]).rpartition("/")[2]
        common = {"owner": doctor.person.prefix, "asked": "tiny-bright", "model": "tiny-bright@1.0.0", "inputs": [],
                  "warnings": [], "options": {}, "created_at": LATE}  # fmt: skip
        states: dict[str, dict[str, Any]] = {
            "queued": {"stage": "read"},
            "running": {"stage": "infer"},
            "failed": {"stage": "infer", "error": "a fault"},
            "refused": {"stage": "read", "refusal": Refusal(RefusalCode.INPUT_EMPTY, "one series", "none").to_json()},
            "cancelled": {"stage": "read"},
        }
        for number, (state, more) in enumerate(states.items(), start=1):
            public = f"{number:032x}"
            with self.database.write() as connection:
                add_row(connection, tables.predictions, public_id=public, state=state, **common, **more)
            self.seen[f"request-{state}"] = public

    def lose_device(self, role: str, language: str) -> None:
        """Her second factor is taken away, as by an administrator, if she has one."""
        with self.database.write() as connection:
            user = people.user_of_email(connection, self.email(role, language))
            assert user is not None
            second_factors.remove(connection, "test", user)

    @contextmanager
    def breaking(self, target: str, error: Exception) -> Iterator[None]:
        """Something of the portal, by its dotted name, fails with an error for a while."""

        def fails(*_: Any, **__: Any) -> Any:
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, fails)
            yield

    @contextmanager
    def answering(self, target: str, answer: Any) -> Iterator[None]:
        """Something of the portal, by its dotted name, answers so for a while."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, lambda *_, **__: answer)
            yield

    def pause(self, is_paused: bool) -> None:
        """Somebody pauses the archive, or lets it go on."""
        desk = Operation(self.node.settings, self.database, lambda job: None)
        act = desk.pause if is_paused else desk.resume
        act("archive", "test", "migration")

    def until_answered(self, deadline_s: float = 120.0) -> None:
        """The real request has its result."""
        deadline = time.monotonic() + deadline_s
        while True:
            rows = {row["public_id"]: row["state"] for row in self.node.rows(tables.predictions)}
            if rows[self.seen["request-completed"]] not in ("queued", "running"):
                return
            assert time.monotonic() < deadline, "the model has not answered"
            time.sleep(0.05)


@contextmanager
def whole(folder: Path) -> Iterator[Whole]:
    """The node, served at `address` until the test is over."""
    models = folder / "models"
    make_tiny_package(models, role="flair")
    (models / "skin-lesion").symlink_to(ROOT / "models/skin-lesion")
    (folder / "ohif").mkdir()
    (folder / "ohif/index.html").write_text("<!doctype html><title>OHIF</title>", encoding="utf-8")
    identity = new_site(folder / "tls").issue("node")
    tls = {"certificate_file": identity.certificate_file, "private_key_file": identity.private_key_file,
           "authority_file": identity.authority_file}  # fmt: skip
    trouble = pytest.MonkeyPatch()
    with FhirPeer() as peer, line(int(peer.url.rpartition(":")[2])) as hospital:
        _known(peer)
        node = ApiNode(
            folder / "node",
            models,
            tls=tls,
            web={"tls": True, "viewer_folder": folder / "ohif"},
            orthanc={"url": "http://127.0.0.1:9"},
            retention={"images_days": 3650, "private_days": 30},
            destinations={
                "archive": {"kind": "folder", "path": folder / "node/archive", "circuit_failures": 1000},
                "hospital": {"kind": "fhir", "url": f"http://127.0.0.1:{hospital.port}"},
            },
        )
        made = Whole(node, hospital)
        try:
            made.fill(folder, trouble)
            with served(node.app, identity.certificate_file, identity.private_key_file) as address:
                made.address = address
                made.certificate = identity.certificate_file
                yield made
        finally:
            trouble.undo()
            node.close()


def _known(peer: FhirPeer) -> None:
    """The hospital's patients."""
    for identifier in ("12345678-5", "5126663-3", "5126663-3"):
        peer.create(
            {
                "resourceType": "Patient",
                "identifier": [{"system": RUT["system"], "value": identifier}],
                "name": [{"family": "Soto Pérez", "given": ["María"], "use": "official"}],
                "birthDate": "1961-02-03",
                "gender": "female",
            }
        )
