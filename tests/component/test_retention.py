"""I20: what the site keeps no longer is deleted, whole and provably, and nothing that is still needed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from dicom_node import files
from dicom_node.cli.web import RecordReports
from dicom_node.demo.site import free_ports
from dicom_node.desks.retention import RetentionDesk, RetentionRefused
from dicom_node.door.vault import Vault
from dicom_node.record import actions, arrivals, audit, indexing, removals, retention, studies, views
from dicom_node.record.revisions import close_revision, gathered
from dicom_node.record.tables import (
    arrivals as arrival_rows,
)
from dicom_node.record.tables import (
    artefacts,
    copies,
    deliveries,
    instances,
    predictions,
    reports,
    revisions,
    runs,
    series,
    trials,
)
from dicom_node.record.tables import audit as audit_rows
from dicom_node.record.tables import (
    removals as removal_rows,
)
from dicom_node.record.tables import studies as study_rows
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.retention import Needed, Part
from dicom_node.sealing import at_rest
from dicom_node.stages import retention as stage
from dicom_node.stages.read import load_or_build
from dicom_node.words import Grade
from tests.support import slices
from tests.support.listening import listening, until
from tests.support.quick import FLAIR, Quick
from tests.support.rows import add_row
from tests.support.sealing import sealing

pytestmark = pytest.mark.component

ALL = {"images_days": 30, "private_days": 30, "results_days": 30, "identity_days": 30}
NAME = b"ROE^JANE"
COUNT = 5


@pytest.fixture
def flair(tmp_path: Path) -> slices.SeriesFiles:
    return slices.series(tmp_path / "flair", COUNT, **FLAIR)


Make = Callable[..., Quick]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Quick] = []

    def one(**rules: Any) -> Quick:
        (port,) = free_ports(1)
        data = {"folder": tmp_path / "node" / "data", "min_free_gb": 0.0, "min_free_share": 0.0}
        door = {"port": port, "senders": [{"ae_title": "MODALITY"}]}
        made.append(Quick(tmp_path / "node", retention=rules, data=data, door=door))
        return made[-1]

    yield one
    for node in made:
        node.close()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let days pass, for whoever asks whether something is due."""

    def pass_days(days: float) -> None:
        moment = datetime.now(UTC) + timedelta(days=days)
        monkeypatch.setattr(stage, "now", lambda: moment.isoformat(timespec="microseconds"))

    return pass_days


def done(node: Quick, flair: slices.SeriesFiles) -> Quick:
    """A study that is over: its result is delivered, its quiet period past."""
    node.bring(flair)
    node.quiet(flair.study_uid)
    node.engine.run()
    assert set(node.states()) == {"confirmed"} and node.states(runs) == ["built"]
    return node


def sweep(node: Quick) -> stage.Round:
    return stage.Retention(node.settings, node.database).run("tester")


def stored(node: Quick, *folders: str) -> list[Path]:
    return sorted(
        path
        for folder in folders or ("vault", "artefacts", "cache/volumes")
        for path in (node.settings.data.folder / folder).rglob("*")
        if path.is_file()
    )


def needed(node: Quick, uid: str) -> set[Needed]:
    with node.database.read() as connection:
        return set(retention.facts(connection, uid).needed) - {Needed.FILES_LEFT}


def test_a_site_that_says_nothing_keeps_everything(make: Make, flair: slices.SeriesFiles, later: Any) -> None:
    node = done(make(), flair)
    before = stored(node)
    later(100_000)
    assert sweep(node).studies == 0 and stored(node) == before


def test_images_go_after_their_days_and_the_records_say_so(make: Make, flair: slices.SeriesFiles, later: Any) -> None:
    node = done(make(images_days=30), flair)
    kept = stored(node, "artefacts")
    later(29.9)
    assert sweep(node).studies == 0
    assert len(stored(node, "vault")) == COUNT and stored(node, "cache/volumes")
    later(30.1)
    made = sweep(node)
    assert (made.outcome, made.studies, made.files) == ("done", 1, COUNT + 1)
    assert not stored(node, "vault", "cache/volumes") and stored(node, "artefacts") == kept
    assert all(row["removed_at"] for row in node.rows(instances))
    (removal,) = node.rows(removal_rows)
    assert (removal["state"], removal["paths"], removal["parts"]) == ("done", None, ["images"])
    (event,) = node.events("study.removed")
    assert event["detail"]["rule"] == "retention.images_days" and event["detail"]["files"] == COUNT + 1
    acts = [row["action"] for row in node.rows(audit_rows)][-2:]
    assert acts == ["study-removal-begun", "study-removed"]
    with node.database.read() as connection:
        assert audit.verify(connection) is None
        assert dict(arrivals.stored_paths(connection)) == {}, "no row promises a file that is gone"
    assert sweep(node).studies == 0, "once"


def test_whoever_would_open_an_image_is_told(make: Make, flair: slices.SeriesFiles, later: Any) -> None:
    node = done(make(images_days=30), flair)
    later(31)
    sweep(node)
    (revision,) = node.rows(revisions)
    with pytest.raises(Refused) as refused:
        load_or_build(node.tools, revision["id"])
    told = refused.value.refusal
    assert told.code is RefusalCode.REMOVED and told.found == f"deleted on {datetime.now(UTC).date()}"


def test_results_go_with_masks_of_trials_and_the_own_fhir_resources(
    make: Make, flair: slices.SeriesFiles, later: Any
) -> None:
    node = done(make(results_days=30), flair)
    with node.database.write() as connection:
        sha256, path = files.keep(node.tools.artefact_folder, b"a mask of another version")
        picture = files.keep(node.tools.artefact_folder, b"side by side")[1]
        told = {"mask_path": path, "mask_sha256": sha256, "comparison": {"regions": [], "picture": picture}}
        add_row(connection, trials, run_id=node.rows(runs)[0]["id"], state="done", trial_key="t", **told)
    shown = [row for row in node.rows(reports) if row["resource_type"] == "DiagnosticReport"]
    later(31)
    sweep(node)
    assert not stored(node, "artefacts") and len(stored(node, "vault")) == COUNT
    (trial,) = node.rows(trials)
    assert trial["mask_path"] is None and trial["comparison"] == {"regions": [], "picture": None}
    found = RecordReports(node.database).read("DiagnosticReport", shown[0]["resource_id"])
    assert found is not None and found.is_deleted and set(found.resource) == {"resourceType", "id"}
    with node.database.read() as connection:
        run_id = int(node.rows(runs)[0]["id"])
        assert views.says(connection, node.tools.artefact_folder, run_id).startswith("deleted by retention on ")
        with pytest.raises(Refused):
            node.tools.load(connection, run_id, "findings")
        story = views.story(connection, dict(studies.study_row(connection, flair.study_uid)))
    assert story["removed"][0]["parts"] == ["results"] and "paths" not in story["removed"][0]


def test_nothing_deleted_is_sent_again(make: Make, flair: slices.SeriesFiles, later: Any) -> None:
    node = done(make(results_days=30), flair)
    later(31)
    sweep(node)
    node.change(deliveries, state="cancelled")
    (first, *_) = node.rows(deliveries)
    with pytest.raises(actions.UnknownItem, match="deleted by retention"), node.database.write() as connection:
        actions.retry(connection, f"delivery-{first['id']}", "tester", "because")


def test_identity_goes_last_and_no_file_of_the_database_names_the_patient(
    make: Make, flair: slices.SeriesFiles, later: Any
) -> None:
    node = done(make(identity_days=30), flair)
    later(31)
    sweep(node)
    assert node.rows(study_rows)[0]["identity"], "files of the study are still here, and say whose they are"
    node.close()
    other = make(**ALL)
    later(31)
    sweep(other)
    assert not stored(other)
    (study,) = other.rows(study_rows)
    assert study["identity"] == {} and study["identity_removed_at"]
    data = other.settings.data.folder
    found = [path.name for path in data.rglob("*") if path.is_file() and NAME in path.read_bytes()]
    assert found == []
    assert b"ID-4711" not in b"".join(path.read_bytes() for path in data.glob("records.sqlite*"))
    assert {row["uid"] for row in other.rows(instances)} and other.events("study.removed"), "what stays, stays"


NEEDS: dict[Needed, Callable[[Quick, str], None]] = {
    Needed.LEGAL_HOLD: lambda node, uid: RetentionDesk(node.settings, node.database).hold("tester", uid, "court"),
    Needed.HELD: lambda node, uid: node.change(study_rows, held={"code": "test"}),
    Needed.RUNNING: lambda node, uid: node.change(runs, state="running"),
    Needed.ON_ITS_WAY: lambda node, uid: node.change(deliveries, state="pending"),
    Needed.RUN_FAILED: lambda node, uid: node.change(runs, state="failed"),
    Needed.UNCONFIRMED: lambda node, uid: node.change(deliveries, state="cancelled"),
    Needed.NOT_ARCHIVED: lambda node, uid: node.change(instances, pass_state="failed"),
}


@pytest.mark.parametrize("need", sorted(NEEDS))
def test_what_is_needed_stays(make: Make, flair: slices.SeriesFiles, later: Any, need: Needed) -> None:
    node = done(make(images_days=30), flair)
    NEEDS[need](node, flair.study_uid)
    assert needed(node, flair.study_uid) == {need}
    later(31)
    assert sweep(node).studies == 0
    assert len(stored(node, "vault")) == COUNT and not node.rows(removal_rows)


@pytest.mark.parametrize("state", ["sending", "held", "failed"])
def test_a_delivery_that_is_not_over_keeps(make: Make, flair: slices.SeriesFiles, later: Any, state: str) -> None:
    node = done(make(results_days=30), flair)
    node.change(deliveries, state=state)
    later(31)
    assert sweep(node).studies == 0 and stored(node, "artefacts")


OPEN: dict[str, Callable[[Quick], None]] = {
    "a series gathers": lambda node: node.change(series, is_open=True),
    "an association is open": lambda node: node.change(arrival_rows, closed_at=None),
    "a header is unread": lambda node: node.change(instances, content_sha256=None),
    "no decision has seen it": lambda node: node.change(revisions, assembled=False),
    "the quiet period is not over": lambda node: node.change(study_rows, quiet_at=None),
}


@pytest.mark.parametrize("what", ["a hold", "a new event"])
def test_what_happens_between_looking_and_deleting_counts(
    make: Make, flair: slices.SeriesFiles, later: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The list of what is due is old when its turn comes: the rule is asked again in the transaction that deletes."""
    node = done(make(**ALL), flair)
    later(31)
    before, real = stored(node), stage.Retention.due

    def due(self: stage.Retention, *asked: Any) -> Iterator[stage.Due]:
        for one in real(self, *asked):
            with node.database.write() as connection:
                if what == "a hold":
                    removals.hold(connection, flair.study_uid, "lawyer", "a case in court")
                else:
                    moment = {"last_activity_at": stage.now()}
                    connection.execute(update(study_rows).where(study_rows.c.uid == flair.study_uid).values(**moment))
            yield one

    monkeypatch.setattr(stage.Retention, "due", due)
    assert sweep(node).studies == 0 and stored(node) == before


def test_a_removal_that_names_a_file_elsewhere_touches_nothing(make: Make, tmp_path: Path) -> None:
    """Whatever stands in a row (I9)."""
    node = make(**ALL)
    stranger = tmp_path / "elsewhere.dcm"
    stranger.write_bytes(b"kept")
    for path in (os.path.relpath(stranger, node.settings.data.folder), str(stranger), "."):
        with pytest.raises(ValueError, match="outside the data folder"):
            stage.Retention(node.settings, node.database)._files(path)
    assert stranger.read_bytes() == b"kept"


@pytest.mark.parametrize("what", sorted(OPEN))
def test_an_open_study_stays(make: Make, flair: slices.SeriesFiles, later: Any, what: str) -> None:
    node = done(make(images_days=30), flair)
    OPEN[what](node)
    assert needed(node, flair.study_uid) == {Needed.GATHERS}
    later(31)
    assert sweep(node).studies == 0 and len(stored(node, "vault")) == COUNT
    with pytest.raises(RetentionRefused) as refused:
        RetentionDesk(node.settings, node.database).erase("tester", flair.study_uid, "asked for")
    assert refused.value.kept == (Needed.GATHERS,)


def test_a_held_series_and_a_held_case_keep(make: Make, flair: slices.SeriesFiles) -> None:
    node = done(make(), flair)
    node.change(series, held={"code": "test", "rejected": True})
    assert needed(node, flair.study_uid) == set(), "a person has decided"
    node.change(series, held={"code": "test"})
    assert needed(node, flair.study_uid) == {Needed.HELD}


def test_a_rejected_study_needs_no_result(make: Make, flair: slices.SeriesFiles) -> None:
    node = done(make(), flair)
    node.change(runs, state="failed")
    node.change(study_rows, cancelled=True)
    assert needed(node, flair.study_uid) == set()


def test_the_days_begin_anew_with_whatever_happens(make: Make, flair: slices.SeriesFiles, later: Any) -> None:
    node = done(make(images_days=30), flair)
    old = (datetime.now(UTC) - timedelta(days=40)).isoformat(timespec="microseconds")
    node.change(study_rows, last_activity_at=old)
    assert sweep(node).studies == 0, "its deliveries were confirmed just now"


def test_a_round_is_bounded_waits_for_the_road_and_does_not_starve(
    make: Make, flair: slices.SeriesFiles, later: Any, tmp_path: Path
) -> None:
    node = done(make(images_days=30, studies_per_round=1), flair)
    second = slices.series(tmp_path / "second", COUNT, **FLAIR)
    node.bring(second)
    node.quiet(second.study_uid)
    node.engine.run()
    later(31)
    keeper = stage.Retention(node.settings, node.database)
    with node.database.write() as connection:
        number = add_row(connection, predictions, public_id="0" * 32, state="queued", stage="read")
    assert keeper.run("worker", waits=True).outcome == "busy" and len(stored(node, "vault")) == 2 * COUNT
    with node.database.write() as connection:
        removals.add_round(connection, "worker", "done", 1, 1, 1)
    later(33)
    made = keeper.run("worker", waits=True)
    assert (made.outcome, made.studies) == ("more", 1), "after a day without a round one study goes all the same"
    with node.database.write() as connection:
        connection.execute(update(predictions).where(predictions.c.id == number).values(state="failed"))
    for _ in range(3):
        keeper.run("worker", waits=True)
    assert not stored(node, "vault")
    with node.database.read() as connection:
        last = removals.last_round(connection)
    assert last is not None and last["outcome"] == "done"


# -- the same bytes elsewhere


def test_bytes_that_something_alive_has_too_stay(make: Make, flair: slices.SeriesFiles, later: Any) -> None:
    node = done(make(results_days=30), flair)
    shared = next(row for row in node.rows(artefacts) if row["kind"] == "findings")
    with node.database.write() as connection:
        number = add_row(connection, runs, case_id=node.rows(runs)[0]["case_id"], study_uid="1.2.3.4", run_key="other",
                         state="built")  # fmt: skip
        connection.execute(insert(artefacts).values(**{**shared, "id": None, "run_id": number}))
    later(31)
    sweep(node)
    assert [path.name for path in stored(node, "artefacts")] == [shared["sha256"][2:]]


# -- death


class Died(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("point", ["R1", "R2", "R3"])
def test_a_death_at_any_moment_is_made_good(
    make: Make, flair: slices.SeriesFiles, later: Any, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    node = done(make(**ALL), flair)
    later(31)

    def reach(name: str) -> None:
        if name == point:
            raise Died

    with monkeypatch.context() as dying:
        dying.setattr(stage, "reach", reach)
        with pytest.raises(Died):
            sweep(node)
    (removal,) = node.rows(removal_rows)
    assert removal["state"] == ("done" if point == "R3" else "begun")
    assert all(row["removed_at"] for row in node.rows(instances)), "readers are told from the decision on"
    for _ in range(2):
        sweep(node)
    assert not stored(node)
    assert {row["state"] for row in node.rows(removal_rows)} == {"done"}
    assert [event["detail"]["parts"] for event in node.events("study.removed")] == [
        ["images"], ["results"], ["identity"]
    ]  # fmt: skip
    assert node.events("study.removed")[0]["detail"]["files"] == COUNT + 1
    with node.database.read() as connection:
        assert audit.verify(connection) is None and dict(arrivals.stored_paths(connection)) == {}


def test_the_door_ends_a_deletion_that_a_death_left_open(
    make: Make, flair: slices.SeriesFiles, later: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = make(images_days=30)
    with listening(node.settings) as door:
        assert slices.storescu(door.port, flair.files, calling="MODALITY").returncode == 0
        until(lambda: all(row["content_sha256"] for row in node.rows(instances)), 60, "headers are read")
    with node.database.write() as connection:
        removals.begin(connection, flair.study_uid, [Part.IMAGES], "erase", "t", "")
    assert len(stored(node, "vault/objects")) == COUNT
    with listening(node.settings):
        assert not stored(node, "vault/objects"), "not adopted: it was deleted"
    assert all(row["removed_at"] for row in node.rows(instances))


# -- it comes again


def test_the_same_study_again_is_a_new_receipt_and_no_new_result(
    make: Make, flair: slices.SeriesFiles, later: Any
) -> None:
    node = done(make(**ALL), flair)
    later(31)
    sweep(node)
    with node.database.read() as connection:
        row = dict(node.rows(instances)[0])
        assert arrivals.holds(connection, row["uid"], row["bytes_sha256"]) is None, "nobody is told that it is here"
    node.receive(flair.files)
    assert len(stored(node, "vault")) == COUNT
    assert all(row["removed_at"] is None for row in node.rows(instances))
    assert len(node.events("study.received-again")) == 1
    assert len(node.rows(instances)) == COUNT and len(node.rows(runs)) == 1


def test_a_late_slice_of_a_deleted_series_is_held_and_takes_nothing_back(
    make: Make, flair: slices.SeriesFiles, later: Any
) -> None:
    node = make(images_days=30)
    node.receive(flair.files[:4])
    node.close_series(flair.series_uid)
    node.engine.run()
    node.quiet(flair.study_uid)
    node.engine.run()
    later(31)
    sweep(node)
    node.receive(flair.files[4:])
    assert close(node, flair.series_uid) is None
    assert node.rows(series)[0]["held"]["code"] == "removed"
    assert node.states(runs) == ["built"] and set(node.states()) == {"confirmed"}
    node.receive(flair.files[:4])  # all of it has come again, and a person lets it go on
    node.act(actions.release, f"series-{node.rows(series)[0]['public_id']}")
    assert close(node, flair.series_uid) is not None


def close(node: Quick, series_uid: str) -> int | None:
    with node.database.write() as connection:
        seen = frozenset(gathered(connection, series_uid).headers)
        return close_revision(connection, series_uid, seen, Grade.TRANSFERRED, {}, {})


def test_other_bytes_of_a_deleted_object_take_its_place(make: Make, flair: slices.SeriesFiles, later: Any) -> None:
    node = done(make(images_days=30), flair)
    later(31)
    sweep(node)
    first = node.rows(instances)[0]
    with node.database.write() as connection:
        arrival = arrivals.open_arrival(connection, "ORTHANC", "127.0.0.1")
        item = arrivals.Received(first["uid"], first["sop_class_uid"], first["transfer_syntax_uid"], first["study_uid"],
                                 first["series_uid"], "vault/other.dcm", 10, "f" * 64, "ORTHANC")  # fmt: skip
        assert arrivals.add_instance(connection, item, arrival) is arrivals.Kept.COPY
    with node.database.write() as connection:
        (waiting,) = indexing.unjudged_copies(connection, 9)
        assert waiting["removed_at"] and waiting["first_sha256"] == first["content_sha256"]
        indexing.take_place(connection, waiting["id"])
    again = next(row for row in node.rows(instances) if row["uid"] == first["uid"])
    assert (again["path"], again["removed_at"]) == ("vault/other.dcm", None) and not node.rows(copies)


def test_a_file_that_a_deletion_takes_from_under_its_receipt_is_not_acknowledged(
    make: Make, flair: slices.SeriesFiles, later: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make(images_days=30)
    with listening(node.settings) as door:
        assert slices.storescu(door.port, flair.files, calling="MODALITY").returncode == 0
        until(lambda: all(row["content_sha256"] for row in node.rows(instances)), 60, "headers are read")
        with node.database.write() as connection:
            removals.begin(connection, flair.study_uid, [Part.IMAGES], "erase", "t", "")
        placed = Vault.place

        def placed_and_taken(self: Vault, item: Any) -> Any:
            found = placed(self, item)
            (node.settings.data.folder / found.path).unlink()
            return found

        with monkeypatch.context() as taking:
            taking.setattr(Vault, "place", placed_and_taken)
            assert slices.storescu(door.port, flair.files[:1], calling="MODALITY").returncode != 0
        assert slices.storescu(door.port, flair.files[:1], calling="MODALITY").returncode == 0
    kept = [row for row in node.rows(instances) if row["removed_at"] is None]
    assert len(kept) == 1 and (node.settings.data.folder / kept[0]["path"]).is_file()


# -- by hand


def test_an_erasure_takes_everything_of_one_study_at_once(make: Make, flair: slices.SeriesFiles, later: Any) -> None:
    node = done(make(), flair)
    desk = RetentionDesk(node.settings, node.database)
    study = node.rows(study_rows)[0]["public_id"]
    with pytest.raises(RetentionRefused, match="reason-missing"):
        desk.erase("tester", study, "  ")
    desk.hold("tester", study, "court file")
    with pytest.raises(RetentionRefused, match="legal-hold"):
        desk.erase("tester", study, "patient's request")
    assert [hold["study"] for hold in desk.holds()] == [study]
    desk.release("tester", study, "closed")
    assert desk.erase("tester", study, "patient's request").studies == 1
    assert not stored(node)
    begun = next(row for row in node.rows(audit_rows) if row["action"] == "study-removal-begun")
    assert begun["detail"]["reason"] == "patient's request" and begun["detail"]["rule"] == "erase"
    assert "request" not in json.dumps(node.events("study.removed")[0]["detail"])
    assert desk.erase("tester", study, "again").studies == 0
    with pytest.raises(RetentionRefused, match="study-unknown"):
        desk.erase("tester", "1.2.3", "because")


def test_what_is_due_is_told_before_it_goes(make: Make, flair: slices.SeriesFiles, later: Any) -> None:
    node = done(make(images_days=30, results_days=30), flair)
    later(31)
    desk = RetentionDesk(node.settings, node.database)
    study = node.rows(study_rows)[0]["public_id"]
    assert {rule.kind.value: rule.going for rule in desk.rules()} == {
        "images": 1, "private": 0, "results": 1, "identity": 0
    }  # fmt: skip
    assert desk.rules()[0].next[0] | {"last_at": ""} == {"study": study, "last_at": "", "parts": ["images"], "kept": []}
    desk.hold("tester", study, "court file")
    assert [dict(rule.kept) for rule in desk.rules()[:3:2]] == [{"legal-hold": 1}] * 2
    assert desk.run("tester").studies == 0


# -- sealed


def test_a_deleted_sealed_file_cannot_be_deciphered_with_any_key(
    make: Make, flair: slices.SeriesFiles, later: Any, tmp_path: Path
) -> None:
    """A hard link stands for whatever of a file is left on a medium after it was unlinked."""
    with sealing(tmp_path / "keys"):
        node = done(make(**ALL), flair)
        kept = stored(node)
        for number, path in enumerate(kept):
            os.link(path, tmp_path / f"left-{number}")
        later(31)
        sweep(node)
        assert not stored(node)
        left = sorted(tmp_path.glob("left-*"))
        assert len(left) == len(kept) > COUNT
        assert not any(at_rest.is_sealed(path) for path in left), "no data key is left"
        assert not any(NAME in path.read_bytes() for path in left)
