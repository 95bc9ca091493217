"""A photograph goes the whole road, its days pass, and everybody who would open it is told what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node.record import reviews
from dicom_node.record.tables import analyses, instances, removals, runs, studies
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.stages import retention as stage
from dicom_node.stages.submit import sweep_photos
from tests.fixtures_classifier import make_tiny_classifier
from tests.support.clinic import RUT, Clinic, Warm, patient

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_classifier(folder)
    made = Warm(folder)
    yield made
    made.close()


RULES: dict[str, Any] = {"images_days": 30, "private_days": 30, "results_days": 30, "identity_days": 30}


@pytest.fixture
def clinic(tmp_path: Path, warm: Warm) -> Iterator[Clinic]:
    gather = {"quiet_s": 0.3, "cap_s": 30.0, "study_quiet_s": 0.5}
    made = Clinic(tmp_path / "node", warm, retention=RULES, gather=gather)
    yield made
    made.close()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def pass_days(days: float) -> None:
        moment = datetime.now(UTC) + timedelta(days=days)
        monkeypatch.setattr(stage, "now", lambda: moment.isoformat(timespec="microseconds"))

    return pass_days


def sweep(clinic: Clinic) -> stage.Round:
    return stage.Retention(clinic.settings, clinic.database).run("tester")


def analysed(clinic: Clinic, **said: Any) -> Any:
    """An analysis with its result, on a study whose quiet period is past and whose objects are delivered."""
    row = clinic.desk.accept(clinic.asked(**said))
    clinic.until(row, "completed")
    clinic.settle(lambda: all(study["quiet_put_at"] for study in clinic.rows(studies)))
    clinic.settle()
    return clinic.row(row["public_id"])


def answer(clinic: Clinic, row: Any) -> None:
    with clinic.database.write() as connection:
        reviews.write(connection, row, reviews.ANSWERED, user_id=clinic.sara.user_id, actor=clinic.sara.actor, seen=0,
                      reply="Jane Doe may come on Monday", action="watch")  # fmt: skip


def files_of(clinic: Clinic) -> list[Path]:
    data = clinic.settings.data.folder
    folders = ("vault", "artefacts", "cache/volumes", "photos", "analyses")
    return [
        path for folder in folders for path in (data / folder).rglob("*") if path.is_file() and path.name != ".lock"
    ]


def test_a_private_photograph_stays_until_its_case_is_answered_and_is_then_nowhere(
    clinic: Clinic, later: Callable[[float], None]
) -> None:
    with clinic.open():
        row = analysed(clinic)
        http = clinic.client(clinic.app(), clinic.ana)
        here = f"/api/v1/analyses/{row['public_id']}"
        assert http.get(f"{here}/photo").status_code == 200
        later(31)
        assert sweep(clinic).studies == 0, "no specialist has answered"
        answer(clinic, row)
        assert sweep(clinic).studies == 1
        for path in (clinic.settings.data.folder / "photos").glob("??/*"):
            os.utime(path, (0, 0))
        sweep_photos(clinic.tools)  # of uploads that are in the vault, an hour later
    assert files_of(clinic) == []
    today = str(datetime.now(UTC).date())
    for path in ("photo", "files/heat_map.png", "files/report.pdf"):
        told = http.get(f"{here}/{path}")
        assert told.status_code == 410, told.text
        assert told.json()["type"] == "urn:ainode:problem:removed" and today in told.text
    said = http.get(here).json()
    assert said["state"] == "completed" and said["malignant"] is None and said["meaning"] is None
    assert {key: at[:10] for key, at in said["removed"].items()} == {"photo": today, "result": today}
    assert said["links"]["photo"] is None and "deleted" in said["message"]
    assert [one["id"] for one in http.get("/api/v1/analyses").json()["analyses"]] == [row["public_id"]]
    spanish = http.get(f"{here}/photo", headers={"Accept-Language": "es"})
    assert "conservación" in spanish.json()["title"]
    with pytest.raises(Refused) as refused:
        clinic.desk.redo(clinic.ana, clinic.row(row["public_id"]), None, "again")
    assert refused.value.refusal.code is RefusalCode.REMOVED
    assert clinic.row(row["public_id"])["state"] == "submitted", "nothing was withdrawn for it"


def test_an_identified_analysis_forgets_its_patient_and_what_was_written_about_her(
    clinic: Clinic, later: Callable[[float], None]
) -> None:
    with clinic.open():
        row = analysed(clinic, patient=patient(), description="Jane Doe says it itches", order="ORDER-4711")
        assert clinic.delivered()
        answer(clinic, row)
        later(31)

        def forgotten() -> bool:
            # there is no archive here to pass the original on to, and a try under way may still write that down
            with clinic.database.write() as connection:
                connection.execute(instances.update().values(pass_state="passed"))
            sweep(clinic)
            return clinic.row(row["public_id"])["patient"]["id"] == ""

        clinic.settle(forgotten)
    kept = clinic.row(row["public_id"])
    assert (kept["patient"]["id"], kept["patient"]["name"], kept["order_id"], kept["description"]) == ("", "", None, "")
    assert kept["is_identified"] and kept["patient"]["confirmed"], "that there was one, and who had confirmed it"
    assert clinic.desk.last_patients(clinic.ana) == []
    assert clinic.desk.result(kept).removed.keys() == {"photo", "result", "identity"}
    clinic.database.forget()
    data = clinic.settings.data.folder
    text = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    assert not [word for word in (RUT.encode(), b"Doe^Jane", b"itches", b"ORDER-4711", b"on Monday") if word in text]
    http = clinic.client(clinic.app(), clinic.ana)
    said = http.get(f"/api/v1/analyses/{row['public_id']}").json()
    assert said["patient"]["id"] == "" and said["removed"]["identity"]
    assert clinic.rows(instances)[0]["removed_at"] and clinic.rows(runs)[0]["state"] == "built"
    assert {part for one in clinic.rows(removals) for part in one["parts"]} == {"images", "results", "identity"}


def test_an_analysis_that_never_became_a_study_forgets_its_patient_too(
    clinic: Clinic, later: Callable[[float], None]
) -> None:
    row = clinic.desk.accept(clinic.asked(patient=patient(), description="words"))
    with clinic.database.write() as connection:
        connection.execute(analyses.update().values(state="failed", photo_path=None, error='{"refusal": {}}'))
    later(29)
    sweep(clinic)
    assert clinic.row(row["public_id"])["description"] == "words"
    later(31)
    sweep(clinic)
    assert clinic.row(row["public_id"])["patient"]["id"] == "" and clinic.row(row["public_id"])["description"] == ""
