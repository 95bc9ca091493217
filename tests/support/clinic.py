"""A node with people, a site, and its own door: photographs go the whole way, in this process.

Listener, indexer and gatherer are the real ones on threads; jobs run on a thread in virtual time; the model is a real
one in its child process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import RowMapping

from dicom_node.cli import web
from dicom_node.demo.site import free_ports
from dicom_node.desks.analyses import Analyses, AnalysisResult, Asked, PatientSaid
from dicom_node.durable import MemoryEngine, Put
from dicom_node.models import WarmModels
from dicom_node.permissions import Person
from dicom_node.record import keys, people, sites
from dicom_node.record.tables import analyses, api_keys, series
from dicom_node.road import jobs
from dicom_node.settings import Settings
from dicom_node.stages.places import quiet_put, read_put
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.support.listening import Listening, listening
from tests.support.node import Node

SYSTEM = "https://health.example/rut"
TYPES = (
    {"key": "rut", "title": "RUT", "system": SYSTEM, "issuer": "CL-RUT", "check": "rut"},
    {"key": "chart", "title": "Chart number", "system": "", "issuer": "POST", "check": ""},
)
RUT = "12345678-5"

ROUTES = """
schema_version: 1
routes:
  - name: skin-lesion
    when: {attribute: SOPClassUID, in: [1.2.840.10008.5.1.4.1.1.77.1.4, 1.2.840.10008.5.1.4.1.1.77.1.7]}
    exclude: [burned-in, own-result, not-an-image]
    role_sets: [[dermoscopy]]
    cases: one-per-series
    model: tiny-classifier
    result_family: skin-lesion
    destinations: [archive]
    publish: all
"""


class Warm:
    """A model in its child process, for all nodes of a test module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = WarmModels(Settings(engine={"models": folder, "precision": "f32", "threads": 1}))

    def close(self) -> None:
        self.models.close()


class Clinic(Node):
    """One installation with a post and a hospital, two clinicians and a specialist."""

    def __init__(self, folder: Path, warm: Warm, routes: str = ROUTES, **sections: Any) -> None:
        self.port, self.archive_port = free_ports(2)
        given = {
            "data": {"folder": folder / "data", "min_free_gb": 0.0, "min_free_share": 0.0},
            "door": {"port": self.port, "senders": [{"ae_title": "MODALITY"}]},
            "gather": {"quiet_s": 0.3, "cap_s": 30.0, "study_quiet_s": 60.0},
            "orthanc": {"url": "http://127.0.0.1:9", "dicom_port": self.archive_port},
        }
        super().__init__(folder, warm.folder, routes, **{**given, **sections})
        self.tools.models.close()
        self.tools = replace(self.tools, models=warm.models)
        self.engine = MemoryEngine(jobs=dict(jobs(self.tools)))
        self.desk = Analyses(self.settings, self.database, self.put)
        self._some = threading.Condition()
        self._stopped = self._working = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        with self.database.write() as connection:
            for key in ("post", "hospital"):
                sites.add_site(connection, "test", key=key, title=key.title(), identifier_types=TYPES)
        self.ana = self.person("ana@post.example", "Ana Primera", ["clinician"], ["post"])
        self.eva = self.person("eva@post.example", "Eva Segunda", ["clinician"], ["post"])
        self.sara = self.person("sara@hospital.example", "Sara Especial", ["specialist"], ["hospital", "post"])
        self.olga = self.person("olga@hospital.example", "Olga Otra", ["specialist"], ["hospital"])

    def person(self, email: str, name: str, roles: list[str], places: list[str]) -> Person:
        with self.database.write() as connection:
            user = people.add_user(
                connection, "test", email=email, name=name, password_hash="-", roles=roles, sites=places
            )
        return user.person(None, "key")

    # -- the road on a thread

    @contextmanager
    def open(self, *, works: bool = True) -> Iterator[Listening]:
        """The door is open, and jobs run."""

        def put_read(revision_id: int) -> None:
            with self.database.write() as connection:
                item = read_put(self.settings, connection, revision_id)
            self.put(item)

        def put_quiet(study_uid: str, number: int) -> None:
            with self.database.write() as connection:
                item = quiet_put(self.settings, connection, study_uid, number)
            self.put(item)

        with listening(self.settings, put_read, put_quiet) as door:
            if works:
                self.start_work()
            yield door

    def start_work(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def put(self, item: Put) -> None:
        with self._some:
            self.engine.put(item)
            self._some.notify()

    def _work(self) -> None:
        while not self._stopped:
            with self._some:
                self._some.wait_for(lambda: self.engine.live() or self._stopped, timeout=5.0)
                self._working = True
            self.engine.run()
            self._working = False

    def close(self) -> None:
        self._stopped = True
        with self._some:
            self._some.notify()
        if self._thread.is_alive():
            self._thread.join(30.0)
        self.database.close()

    def settle(self, look: Callable[[], Any] | None = None, timeout_s: float = 60.0) -> None:
        """Wait until `look` says yes, or until no job is left and nothing gathers."""
        deadline = time.monotonic() + timeout_s
        while not (look() if look is not None else self._is_idle()):
            assert time.monotonic() < deadline, self.engine.errors
            time.sleep(0.02)

    def _is_idle(self) -> bool:
        busy = self.engine.live() or self._working
        return not busy and not any(row["is_open"] for row in self.rows(series))

    # -- asking

    def asked(self, who: Person | None = None, data: bytes | None = None, **changes: Any) -> Asked:
        part = self.desk.spool.part()
        part.write(jpeg(drawn_lesion()) if data is None else data)
        said: dict[str, Any] = {"declared": "dermoscopic", "consent": "care", **changes}
        return Asked(who or self.ana, self.desk.spool.keep(part), **said)

    def row(self, public_id: str) -> RowMapping:
        return next(row for row in self.rows(analyses) if row["public_id"] == public_id)  # type: ignore[return-value]

    def until(self, row: Any, *states: str, timeout_s: float = 60.0) -> AnalysisResult:
        """What came of an analysis, once it is in one of these states."""
        return self.wait_for(lambda: self.desk.result(self.row(row["public_id"])), states, timeout_s)

    def wait_for(self, look: Callable[[], AnalysisResult], states: tuple[str, ...], timeout_s: float) -> AnalysisResult:
        deadline = time.monotonic() + timeout_s
        while True:
            result = look()
            if result.state in states:
                return result
            assert time.monotonic() < deadline, (result, self.engine.errors)
            time.sleep(0.02)

    # -- over HTTP

    def app(self) -> Any:
        return web.make_app(self.settings, self.database, self.put)

    def client(self, app: Any, who: Person, scopes: tuple[str, ...] = ()) -> TestClient:
        """Somebody with a key of her account."""
        roles = ["analysis:make", "analysis:own", "analysis:reveal"]
        wanted = scopes or (*roles, *(["analysis:site"] if who.may("analysis:site") else []))
        name = f"k{len(self.rows(api_keys))}"
        token = keys.create(self.database, name, wanted, account=who.email)
        headers = {"X-API-Key": token}
        return TestClient(app, base_url="http://127.0.0.1", headers=headers, client=("127.0.0.1", 40000))


def patient(**changes: Any) -> PatientSaid:
    """One whom somebody has confirmed."""
    return PatientSaid(**{"id": RUT, "type": "rut", "name": "Doe^Jane", "birth_date": "19700101", "sex": "F",
                          "confirmed": True, **changes})  # fmt: skip
