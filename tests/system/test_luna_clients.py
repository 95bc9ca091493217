"""LUNA's clients against the whole node, every process of it real: the script of the documentation, and messages.

One node (`ai-node serve` with listener, worker, web and bridge, a small model) and one RabbitMQ for all tests.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pika
import psutil
import pytest
import yaml
from PIL import Image
from sqlalchemy import select

from dicom_node.demo.site import free_ports
from dicom_node.desks.people import People
from dicom_node.record import Database, sites
from dicom_node.record.tables import analyses, audit
from dicom_node.settings import Settings
from tests.fixtures_classifier import make_tiny_classifier
from tests.support.photos import saved, scene
from tests.support.rabbit import Rabbit

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]
CLIENT = REPOSITORY / "docs" / "examples" / "luna_client.py"
PASSWORD = "cuatro pinguinos miran el faro"
ROUTES = """
schema_version: 1
routes:
  - name: skin-lesion
    when: {all: [{attribute: SOPClassUID, equals: 1.2.840.10008.5.1.4.1.1.77.1.4}]}
    role_sets: [[dermoscopy]]
    cases: one-per-series
    model: tiny-classifier
    result_family: skin-lesion
    destinations: [archive]
    publish: all
"""


def photo(number: int) -> bytes:
    """Photographs that differ."""
    return saved(scene(480, 640), quality=80 + number)


@dataclass
class LunaSite:
    """The node, its broker and its accounts."""

    folder: Path
    url: str
    database: Database
    process: subprocess.Popen[bytes]
    rabbit: Rabbit
    doctor: str
    administrator: str

    def client(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(CLIENT), "--node", self.url, "--password-file", str(self.folder / "password"),
             "--timeout", "120", *arguments],
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip

    def signed_in(self, email: str) -> httpx.Client:
        told = httpx.post(f"{self.url}/signin", json={"email": email, "password": PASSWORD}, trust_env=False).json()
        shown = {"x-access-token": told["token"]}
        return httpx.Client(base_url=self.url, headers=shown, trust_env=False, timeout=30)

    def rows(self, table: Any) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(table).order_by(table.c.id)).mappings())

    def bridge_pid(self) -> int:
        """Of the living bridge under the supervisor; 0 while there is none."""
        for child in psutil.Process(self.process.pid).children():
            if child.cmdline()[-1:] == ["bridge"]:
                return child.pid
        return 0

    def log_tail(self) -> str:
        return (self.folder / "node.log").read_text(errors="replace")[-4000:]


def until(condition: Callable[[], Any], timeout_s: float = 120.0, what: str = "") -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LunaSite]:
    folder = tmp_path_factory.mktemp("luna-clients")
    make_tiny_classifier(folder / "models")
    (folder / "routes.yaml").write_text(ROUTES)
    (folder / "archive").mkdir()
    door, web = free_ports(2)
    with Rabbit(folder / "rabbit") as rabbit:
        values: dict[str, Any] = {
            "data": {"folder": str(folder / "data"), "min_free_gb": 0.0, "min_free_share": 0.0},
            "door": {"port": door},
            "gather": {"quiet_s": 0.3, "cap_s": 2.0, "study_quiet_s": 1.0},
            "orthanc": {"url": "http://127.0.0.1:9", "pass_originals": False},
            "routes": str(folder / "routes.yaml"),
            "engine": {"models": str(folder / "models"), "threads": 1},
            "web": {"port": web},
            "api": {"aliases": {"skin-lesion": {"model": "tiny-classifier"}}},
            "destinations": {"archive": {"kind": "folder", "path": str(folder / "archive")}},
            "bridge": json.loads(rabbit.settings.model_dump_json(exclude_defaults=True)),
        }
        (folder / "node.yaml").write_text(yaml.safe_dump(values))
        settings = Settings(**values)
        settings.data.folder.mkdir(mode=0o700)
        database = Database(settings.records_url)
        database.migrate()
        with database.write() as connection:
            sites.add_site(connection, "test", key="north", title="North")
        accounts = People(settings.people, database)
        for name, role, where in (("root", "administrator", []), ("ana", "clinician", ["north"])):
            accounts.create("test", email=f"{name}@post.example", name=f"{name.title()} Marker", roles=[role],
                            sites=where, password=PASSWORD)  # fmt: skip
        (folder / "password").write_text(PASSWORD + "\n")
        with (folder / "node.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dicom_node.cli", "--config", str(folder / "node.yaml"), "serve"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY,
            )  # fmt: skip
        made = LunaSite(folder, f"http://127.0.0.1:{web}", database, process, rabbit, "", "")
        try:
            until(lambda: is_ready(made), what="the node is ready")
            made.doctor = made.signed_in("ana@post.example").get("/api/me").json()["id"]
            made.administrator = made.signed_in("root@post.example").get("/api/me").json()["id"]
            yield made
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            database.close()


def is_ready(site: LunaSite) -> bool:
    assert site.process.poll() is None, site.log_tail()
    try:
        return httpx.get(f"{site.url}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


# -- the script


def test_the_clients_script_tells_the_whole_story(site: LunaSite) -> None:
    (site.folder / "lesion.jpg").write_bytes(photo(0))
    picture = str(site.folder / "lesion.jpg")
    administrator = ["--admin", "root@post.example", "--admin-password-file", str(site.folder / "password")]
    done = site.client("--email", "eva@post.example", "--name", "Eva Marker", *administrator,
                       "--description", "back, grows", picture)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + site.log_tail()
    assert "melanoma" in done.stdout and "not a diagnosis" in done.stdout
    again = site.client("--email", "eva@post.example", "--header", "x-access-token", picture)
    assert again.returncode == 0, again.stdout + again.stderr

    with site.signed_in("eva@post.example") as client:
        newest, first = client.get("/api/me/getAnalysisList").json()
        assert newest["id"] != first["id"] and first["description"] == "back, grows" and first["image"] is None
        told = client.get(f"/api/getAnalysis/{first['id']}").json()
        eva = client.get("/api/me").json()["id"]
    assert told["state"] == "completed" and told["userId"] == eva and told["model"] == "tiny-classifier@1.0.0"
    assert 0 <= told["result"] <= 1 and told["isMelanoma"] is (told["result"] >= told["melanomaThreshold"])
    assert told["isMalignancyAboveThreshold"] is (told["malignancy"] >= told["malignancyThreshold"])
    assert told["result"] != told["malignancy"] and told["creationDate"] < told["analysisDate"]
    assert newest["result"] == told["result"], "the same picture, the same number"
    assert Image.open(io.BytesIO(base64.b64decode(told["image"]))).size == (640, 480)
    acts = {(row["actor"], row["action"]) for row in site.rows(audit)}
    assert {(f"user:{eva}", "analysis-revealed"), (f"user:{eva}", "analysis-result-seen")} <= acts

    # without an identity nothing leaves, whatever the route says; and who asked stands in no object
    assert not [path for path in (site.folder / "archive").rglob("*") if path.is_file()]
    stored = [path for name in ("vault", "artefacts") for path in (site.folder / "data" / name).rglob("*")]
    data = b"".join(path.read_bytes() for path in stored if path.is_file())
    assert len(data) > 10_000
    for mark in (b"Marker", b"post.example", eva.encode()):
        assert mark not in data


# -- messages


def ask(site: LunaSite, body: bytes, **properties: Any) -> None:
    with site.rabbit.connect() as connection:
        said = pika.BasicProperties(delivery_mode=2, **properties)
        connection.channel().basic_publish("send_to_process", "", body, said)


def message(image: bytes, user: str, **more: Any) -> bytes:
    return json.dumps({"image": base64.b64encode(image).decode(), "userId": user, **more}).encode()


def answers(site: LunaSite, count: int) -> list[tuple[Any, dict[str, Any]]]:
    """So many answers: properties, body."""
    found: list[tuple[Any, dict[str, Any]]] = []
    with site.rabbit.connect() as connection:
        channel = connection.channel()

        def look() -> bool:
            while (got := channel.basic_get("process_completed", auto_ack=True))[0] is not None:
                found.append((got[1], json.loads(got[2])))
            return len(found) >= count

        until(look, what=f"{count} answers; {site.log_tail()}")
    return found


def test_a_message_is_an_analysis_and_its_result_a_message(site: LunaSite) -> None:
    ask(site, message(photo(1), site.doctor), message_id="m-1", correlation_id="case-1")
    ((properties, told),) = answers(site, 1)
    assert told["state"] == "completed" and told["userId"] == site.doctor, told
    assert (properties.correlation_id, properties.message_id, properties.delivery_mode) == ("case-1", told["id"], 2)
    assert base64.b64decode(told["image"]) == photo(1)
    with site.signed_in("ana@post.example") as client:
        mine = client.get(f"/api/getAnalysis/{told['id']}").json()
    same = ("result", "isMelanoma", "creationDate", "analysisDate", "malignancy", "userId", "state", "isPrivate")
    assert {name: told[name] for name in same} == {name: mine[name] for name in same} and mine["isPrivate"]

    before = len(site.rows(analyses))
    ask(site, message(photo(1), site.doctor), message_id="m-1", correlation_id="case-1")
    ((_, again),) = answers(site, 1)
    assert again["id"] == told["id"] and len(site.rows(analyses)) == before, "the same message is the same analysis"


def test_what_is_no_question_is_answered_with_the_reason(site: LunaSite) -> None:
    before = len(site.rows(analyses))
    bad = {
        "validation": [b"no JSON", b"[]", message(photo(2), "nobody"), message(photo(2), site.doctor, role="admin")],
        "not-authorised": [message(photo(2), "0" * 32), message(photo(2), site.administrator)],
        "not-an-image": [message(b"MZ" + bytes(50), site.doctor)],
        "base64-invalid": [json.dumps({"image": "!", "userId": site.doctor}).encode()],
        "too-large": [message(bytes(23_000_000), site.doctor)],
    }
    for code, bodies in bad.items():
        for number, body in enumerate(bodies):
            ask(site, body, message_id=f"{code}-{number}")
            ((properties, told),) = answers(site, 1)
            assert told["state"] == "refused" and told["refusal"]["code"] == code, told["refusal"]
            assert properties.correlation_id == f"{code}-{number}" and told["result"] is None
    assert len(site.rows(analyses)) == before


def test_a_bridge_that_is_killed_loses_nothing_and_doubles_nothing(site: LunaSite) -> None:
    before = len(site.rows(analyses))
    for number in range(3, 7):
        ask(site, message(photo(number), site.doctor))
    until(lambda: len(site.rows(analyses)) > before, what="the first is written down")
    os.kill(site.bridge_pid(), signal.SIGKILL)
    found = answers(site, 4)
    ids = {told["id"] for _, told in found}
    assert len(ids) == 4 and {told["state"] for _, told in found} == {"completed"}
    assert {properties.message_id for properties, _ in found} == ids, "an answer that came twice can be known"
    assert len(site.rows(analyses)) == before + 4


def test_a_broker_that_comes_back_is_served_again(site: LunaSite) -> None:
    site.rabbit.stop()
    site.rabbit.start()
    ask(site, message(photo(7), site.doctor))
    ((_, told),) = answers(site, 1)
    assert told["state"] == "completed"
    assert site.bridge_pid(), "it waited, and did not die of it"


def test_nothing_of_this_stands_in_the_log(site: LunaSite) -> None:
    log = (site.folder / "node.log").read_text(errors="replace")
    assert "bridge.connected" in log
    for mark in ("Marker", "post.example", PASSWORD, "eyJ", site.doctor, "/9j/", "back, grows"):
        assert mark not in log
