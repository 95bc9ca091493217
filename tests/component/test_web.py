"""The web process over a real record: readiness tells the truth (I23), reports by key only, metrics from the record."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from dicom_node.cli import readiness, web
from dicom_node.record import Database, arrivals, keys, reports, tables, workers
from dicom_node.settings import Settings
from fhir_bridge import ReportStore, tokens_of
from fhir_bridge.search import parse
from fhir_bridge.store import count_in, select_from
from tests.fixtures_packages import make_tiny_package
from tests.support.node import ROUTES
from tests.support.rows import add_row, add_run

pytestmark = pytest.mark.component

STUDY = "1.2.826.0.1.3680043.8.498.1"
CHECKS = ["database", "vault", "disk", "models", "listener", "worker", "audit"]


@dataclass
class Site:
    """An installation of which only the web process is asked; a plain socket stands for its listener."""

    settings: Settings
    database: Database
    port: socket.socket
    models: Path

    def client(self, *, key: str = "", local: bool = True) -> TestClient:
        app = web.make_app(self.settings, self.database)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        address = ("127.0.0.1" if local else "192.0.2.7", 40000)
        return TestClient(app, base_url="http://127.0.0.1", headers=headers, client=address)

    def checks(self) -> dict[str, dict[str, Any]]:
        answer = self.client().get("/readyz")
        rows = {row["name"]: row for row in answer.json()["checks"]}
        assert answer.status_code == (200 if all(row["ok"] for row in rows.values()) else 503)
        return rows

    def only(self, name: str) -> dict[str, Any]:
        """The one check that does not hold."""
        rows = self.checks()
        assert [row["name"] for row in rows.values() if not row["ok"]] == [name]
        assert rows[name]["reason"] and rows[name]["advice"]
        return rows[name]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_tiny_package(root)
    return root


@pytest.fixture
def site(tmp_path: Path, package: Path) -> Iterator[Site]:
    shutil.copytree(package, tmp_path / "models")
    (tmp_path / "routes.yaml").write_text(ROUTES, encoding="utf-8")
    (tmp_path / "data").mkdir()
    port = socket.create_server(("127.0.0.1", 0))
    settings = Settings(
        data={"folder": tmp_path / "data", "min_free_gb": 0.0, "min_free_share": 0.0},
        door={"port": port.getsockname()[1]},
        routes=tmp_path / "routes.yaml",
        engine={"models": tmp_path / "models"},
    )
    database = Database(settings.records_url)
    database.migrate()
    with database.write() as connection:
        workers.beat(connection)
    yield Site(settings, database, port, tmp_path / "models")
    port.close()
    database.close()


def change(site: Site, **section: Any) -> None:
    site.settings = site.settings.model_copy(
        update={name: getattr(site.settings, name).model_copy(update=keys) for name, keys in section.items()}
    )


def test_a_whole_node_is_ready_and_a_peer_that_is_down_does_not_change_it(site: Site) -> None:
    """Nothing listens at the configured Orthanc, and that is no reason to turn images away (I26)."""
    rows = site.checks()
    assert list(rows) == CHECKS
    assert all(row["ok"] for row in rows.values()), rows
    assert site.client().get("/livez").status_code == 200


def test_below_the_admission_line_it_is_not_ready(site: Site) -> None:
    free = shutil.disk_usage(site.settings.data.folder).free
    change(site, data={"min_free_gb": free / 1e9 + 100.0})
    assert "admission line" in site.only("disk")["reason"]


def test_files_missing_from_the_vault_are_told(site: Site) -> None:
    with site.database.write() as connection:
        arrivals.set_missing_files(connection, 3)
    assert site.only("vault")["reason"].startswith("3 acknowledged objects")
    with site.database.write() as connection:
        arrivals.set_missing_files(connection, 0)
    assert site.checks()["vault"]["ok"]


def test_a_model_that_is_not_as_its_manifest_says_is_told(site: Site) -> None:
    weights = next(site.models.rglob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    site.only("models")
    shutil.rmtree(site.models / "tiny-bright")
    site.only("models")


def test_a_route_file_that_cannot_be_read_is_told(site: Site) -> None:
    site.settings.routes.write_text("routes: [", encoding="utf-8")
    site.only("models")


def test_a_closed_port_is_told(site: Site) -> None:
    site.port.close()
    assert "does not accept" in site.only("listener")["reason"]


def test_a_record_that_cannot_be_written_is_told(site: Site) -> None:
    with site.database.engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_writes BEFORE INSERT ON site BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        connection.commit()
    site.only("database")


def test_an_audit_log_that_is_gone_is_told(site: Site) -> None:
    with site.database.engine.connect() as connection:
        connection.execute(text("DROP TABLE audit"))
        connection.commit()
    site.only("audit")


def test_a_check_tells_no_path_and_no_text_of_an_error(site: Site) -> None:
    shutil.rmtree(site.models)
    site.port.close()
    with site.database.engine.connect() as connection:
        connection.execute(text("DROP TABLE audit"))
        connection.commit()
    answer = site.client().get("/readyz").text
    assert str(site.settings.data.folder.parent) not in answer
    assert "no such table" not in answer


def test_models_are_hashed_again_only_when_something_changed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = readiness.check_models
    monkeypatch.setattr(readiness, "check_models", lambda *a: asked.append(1) or real(*a))
    checks = readiness.Readiness(site.settings, site.database).checks()
    assert all(checks["models"]().ok for _ in range(3)) and len(asked) == 1
    weights = next(site.models.rglob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert not checks["models"]().ok and not checks["models"]().ok and len(asked) == 2


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def test_a_worker_that_is_gone_is_told(site: Site) -> None:
    with site.database.write() as connection:
        connection.execute(tables.site.delete().where(tables.site.c.key == workers.SEEN))
    assert "never" in site.only("worker")["reason"]
    with site.database.write() as connection:
        connection.execute(tables.site.insert().values(key=workers.SEEN, value=ago(120)))
    assert re.search(r"1[2-9]\d s", site.only("worker")["reason"])
    with site.database.write() as connection:
        workers.beat(connection)
    assert site.checks()["worker"]["ok"]


def test_a_worker_that_lives_and_does_nothing_is_told(site: Site) -> None:
    """A long queue is no fault, and what waits for a person waits for nobody else; a queue that stands still is."""
    day = 86400.0
    with site.database.write() as connection:
        run = add_run(connection, 1, study_uid=STUDY, state="queued")
        connection.execute(tables.runs.update().values(created_at=ago(day)))
    assert "nothing moves" in site.only("worker")["reason"]
    with site.database.write() as connection:
        add_row(connection, tables.attempts, run_id=run, started_at=ago(60))
    assert site.checks()["worker"]["ok"], "it has begun something a minute ago"
    with site.database.write() as connection:
        connection.execute(tables.attempts.update().values(started_at=ago(day)))
    site.only("worker")
    with site.database.write() as connection:
        connection.execute(tables.studies.update().values(held={"code": "patient-conflict"}))
    assert site.checks()["worker"]["ok"]


# -- reports


@pytest.fixture
def published(site: Site) -> Site:
    """Two versions of a report, as two revisions of a study make them."""
    with site.database.write() as connection:
        add_run(connection, 1, study_uid=STUDY)
        for title in ("first", "second"):
            resource = {
                "resourceType": "DiagnosticReport",
                "id": "report-1",
                "status": "preliminary",
                "code": {"text": "FLAIR"},
                "conclusion": title,
                "identifier": [{"system": "urn:ainode:result", "value": "r1"}],
            }
            assert reports.put_resources(connection, 1, STUDY, [resource], tokens_of) == 1
            assert reports.put_resources(connection, 1, STUDY, [resource], tokens_of) == 0
    return site


def test_reports_are_for_keys_with_the_scope(published: Site) -> None:
    url = "/fhir/DiagnosticReport/report-1"
    assert published.client().get(url).status_code == 401
    assert published.client(key="ain_00000000_" + "A" * 43).get(url).status_code == 401
    monitor = keys.create(published.database, "monitor", ["metrics:read"])
    assert published.client(key=monitor).get(url).status_code == 403
    ehr = keys.create(published.database, "ehr", ["fhir:read"])
    answer = published.client(key=ehr, local=False).get(url)
    assert answer.status_code == 200
    assert answer.json()["conclusion"] == "second" and answer.json()["meta"]["versionId"] == "2"
    assert answer.headers["ETag"] == 'W/"2"'
    keys.revoke(published.database, "ehr")
    assert published.client(key=ehr).get(url).status_code == 401


def test_a_search_shows_current_versions_only_and_is_audited(published: Site) -> None:
    ehr = keys.create(published.database, "ehr", ["fhir:read"])
    client = published.client(key=ehr)
    bundle = client.get("/fhir/DiagnosticReport", params={"identifier": "urn:ainode:result|r1"}).json()
    assert bundle["total"] == 1
    assert [entry["resource"]["conclusion"] for entry in bundle["entry"]] == ["second"]
    assert client.get("/fhir/DiagnosticReport", params={"identifier": "urn:ainode:result|r2"}).json()["total"] == 0
    assert client.get("/fhir/DiagnosticReport/other").status_code == 404
    with published.database.read() as connection:
        rows = [dict(row) for row in connection.execute(select(tables.audit)).mappings()]
    seen = [row for row in rows if row["action"].endswith("DiagnosticReport")]
    assert seen and all("ehr" in row["actor"] for row in seen)
    assert "report-1" in json.dumps([row["detail"] for row in seen])


QUESTIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("identifier", "urn:ainode:result|r7"),),
    (("identifier", "r7"),),
    (("identifier", "urn:ainode:result|"),),
    (("identifier", "|r7"),),
    (("identifier", "urn:ainode:result|r7,urn:ainode:result|r8"),),
    (("status", "preliminary"), ("patient.identifier", "urn:patients|p1")),
    (("status", "final"),),
    (("_id", "report-3,report-5"),),
    (("category", "imaging"),),
    (("_lastUpdated", "ge2000-01-01"), ("_lastUpdated", "lt2001-01-01")),
    (("_lastUpdated", "ge2000-01-01"),),
)


@pytest.mark.parametrize("pairs", QUESTIONS)
def test_the_search_in_sql_answers_as_the_definition_does(site: Site, pairs: tuple[tuple[str, str], ...]) -> None:
    """`select_from` and `count_in` say what a search means; here every page of it, in order, and nothing twice."""
    with site.database.write() as connection:
        add_run(connection, 1, study_uid=STUDY)
        for number in range(12):
            resource = {
                "resourceType": "DiagnosticReport",
                "id": f"report-{number}",
                "status": "preliminary" if number % 3 else "entered-in-error",
                "category": [{"coding": [{"system": "urn:c", "code": "imaging" if number % 2 else "lab"}]}],
                "subject": {"identifier": {"system": "urn:patients", "value": f"p{number % 4}"}},
                "identifier": [{"system": "urn:ainode:result", "value": f"r{number}"}],
            }
            reports.put_resources(connection, 1, STUDY, [{**resource, "status": "registered"}], tokens_of)
            reports.put_resources(connection, 1, STUDY, [resource], tokens_of)
    with site.database.read() as connection:
        rows = [row for row in connection.execute(select(tables.reports)).mappings() if row["is_current"]]
    everything = [web._stored(row) for row in rows]
    assert len(everything) == 12
    store: ReportStore = web.RecordReports(site.database)
    query = replace(parse("DiagnosticReport", [*pairs, ("_count", "5")]).query)
    expected, found = [], []
    for pages, select_page in ((expected, lambda q: select_from(everything, q)), (found, store.select)):
        asked = query
        while page := select_page(asked):
            pages += [(one.id, one.version) for one in page]
            asked = replace(asked, after=(page[-1].last_updated, page[-1].id))
    assert found == expected and len(set(found)) == len(found)
    assert store.count(query) == count_in(everything, query) == len(found)


def test_a_search_loads_what_it_shows_and_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.database.write() as connection:
        add_run(connection, 1, study_uid=STUDY)
        for number in range(60):
            resource = {"resourceType": "Device", "id": f"d{number}", "identifier": [{"system": "s", "value": "x"}]}
            reports.put_resources(connection, 1, STUDY, [resource], tokens_of)
    loaded: list[str] = []
    real = web._stored
    monkeypatch.setattr(web, "_stored", lambda row: loaded.append(row["resource_id"]) or real(row))
    store = web.RecordReports(site.database)
    query = parse("Device", [("identifier", "s|x"), ("_count", "3")]).query
    assert len(store.select(query)) == 3 == len(loaded) and store.count(query) == 60


def test_reports_of_an_older_installation_are_found(published: Site) -> None:
    with published.database.write() as connection:
        connection.execute(tables.report_tokens.delete())
    store = web.RecordReports(published.database)
    assert store.count(parse("DiagnosticReport", [("identifier", "urn:ainode:result|r1")]).query) == 1


# -- metrics


def test_metrics_tell_what_the_record_knows(published: Site) -> None:
    with published.database.write() as connection:
        connection.execute(tables.runs.update().values(state="failed"))
    rendered = published.client().get("/metrics")
    assert rendered.status_code == 200
    lines = rendered.text.splitlines()
    assert 'ainode_jobs{state="failed"} 1.0' in lines
    assert 'ainode_held_jobs{reason="delivery-incomplete"} 0.0' in lines
    assert any(line.startswith('ainode_disk_free_bytes{area="data"} ') for line in lines)
    assert STUDY not in rendered.text
    assert published.client(local=False).get("/metrics").status_code == 401
