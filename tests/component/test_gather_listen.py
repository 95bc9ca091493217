"""Series complete, by evidence, through the real listener: in time, late, shuffled, doubled, held."""

from __future__ import annotations

import random
import threading
import time
from datetime import datetime
from itertools import permutations
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from sqlalchemy import insert, update

from dicom_node.gather import ArchiveCounts, Gatherer, Indexer
from dicom_node.record import now
from dicom_node.record.tables import artefacts, cases, runs, series, studies
from dicom_node.volume.geometry import series_geometry
from dicom_node.words import PRODUCT, Grade
from tests.support import slices
from tests.support.listening import Listening, Records, listening, migrated, settings_for, until
from tests.support.peers_dimse import association, encode, store_raw

pytestmark = pytest.mark.component

SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def send(node: Listening, made: slices.SeriesFiles, calling: str = "MODALITY") -> None:
    done = slices.storescu(node.port, made.files, calling=calling)
    assert done.returncode == 0, done.stdout + done.stderr


def store(node: Listening, ds: object, calling: str = "MODALITY") -> int:
    with association(node.port, calling=calling, sop_class=str(ds.SOPClassUID)) as assoc:  # type: ignore[attr-defined]
        uid = str(ds.SOPInstanceUID)  # type: ignore[attr-defined]
        return store_raw(assoc, encode(ds), str(ds.SOPClassUID), uid)[0]  # type: ignore[arg-type, attr-defined]


def test_promised_goes_at_once_while_the_association_is_open(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, gather={"quiet_s": 30, "cap_s": 60, "study_quiet_s": 60})
    with listening(settings) as node, association(node.port, calling="MODALITY") as assoc:
        study_uid, series_uid = str(generate_uid()), str(generate_uid())
        order = list(range(1, 13))
        random.Random(3).shuffle(order)
        for number in order:
            ds = slices.slice_of(study_uid, series_uid, number, ImagesInAcquisition=12)
            assert store_raw(assoc, encode(ds), slices.MR, str(ds.SOPInstanceUID)) == (0, "")
        last = time.monotonic()
        until(lambda: node.reads, 10)
        assert time.monotonic() - last < 2.0
        (revision,) = node.rows("revisions")
        assert revision["grade"] == Grade.PROMISED.value
        assert revision["evidence"]["expected"] == {"images_in_acquisition": 12}
        until(lambda: node.rows("revisions")[0]["put_at"] is not None)  # written just after the road was told
        assert node.quiets == []


def test_weak_waits_for_the_cap_and_says_so(tmp_path: Path) -> None:
    with listening(settings_for(tmp_path)) as node:
        send(node, slices.series(tmp_path / "s", 5))
        sent = time.monotonic()
        until(lambda: node.reads)
        assert 0.8 < time.monotonic() - sent < 5
        assert node.rows("revisions")[0]["grade"] == Grade.WEAK.value


def test_a_gap_is_contradicting_and_closes_at_the_cap(tmp_path: Path) -> None:
    with listening(settings_for(tmp_path)) as node:
        made = slices.series(tmp_path / "s", 7)
        assert slices.storescu(node.port, [f for n, f in enumerate(made.files) if n != 3]).returncode == 0
        until(lambda: node.reads)
        (revision,) = node.rows("revisions")
        assert revision["grade"] == Grade.CONTRADICTING.value
        assert revision["evidence"]["geometry"] == "slices-missing"


def test_a_sender_may_have_its_own_patience(tmp_path: Path) -> None:
    senders = [{"ae_title": "MODALITY", "cap_s": 0.3}]
    with listening(settings_for(tmp_path, door={"senders": senders}, gather={"cap_s": 30})) as node:
        send(node, slices.series(tmp_path / "s", 4))
        until(lambda: node.reads, 5)


def test_a_late_slice_supersedes_and_a_repeated_set_changes_nothing(tmp_path: Path) -> None:
    with listening(settings_for(tmp_path, gather={"cap_s": 0.6, "study_quiet_s": 1.0})) as node:
        made = slices.series(tmp_path / "s", 6)
        assert slices.storescu(node.port, made.files[:5], calling="MODALITY").returncode == 0
        until(lambda: len(node.reads) == 1)
        until(lambda: node.quiets == [(made.study_uid, 1)])
        assert slices.storescu(node.port, made.files[:5], calling="MODALITY").returncode == 0
        time.sleep(1.5)
        assert len(node.reads) == 1 and len(node.quiets) == 1, "the same set again is nothing new"
        assert slices.storescu(node.port, made.files[5:], calling="MODALITY").returncode == 0
        until(lambda: len(node.reads) == 2)
        until(lambda: node.quiets == [(made.study_uid, 1), (made.study_uid, 2)])
        assert [(r["number"], r["state"]) for r in node.rows("revisions")] == [(1, "superseded"), (2, "complete")]


def test_early_shuffled_and_doubled_slices_end_in_the_same_set(tmp_path: Path) -> None:
    made = slices.series(tmp_path / "s", 6, ImagesInAcquisition=6)
    digests = set()
    for n, order in enumerate(([0, 1, 2, 3, 4, 5], [5, 0, 4, 4, 1, 3, 2, 2], [3, 3, 3, 2, 1, 0, 5, 4])):
        with listening(settings_for(tmp_path / str(n))) as node:
            assert slices.storescu(node.port, [made.files[i] for i in order]).returncode == 0
            until(lambda: node.reads)
            (revision,) = node.rows("revisions")
            digests.add((revision["set_sha256"], revision["grade"], str(node.rows("series")[0]["facts"])))
    assert len(digests) == 1


@pytest.mark.parametrize("order", list(permutations((0, 1))))
def test_a_conflict_is_found_in_both_orders(tmp_path: Path, order: tuple[int, ...]) -> None:
    with listening(settings_for(tmp_path)) as node:
        study_uid, series_uid, uid = (str(generate_uid()) for _ in range(3))
        both = [slices.slice_of(study_uid, series_uid, 1, uid=uid, PixelData=bytes([n]) * 8192) for n in (0, 1)]
        for n in order:
            assert store(node, both[n]) == 0
        (copy,) = until(lambda: [c for c in node.rows("copies") if c["verdict"]])
        assert copy["verdict"] == "conflict"
        assert "quarantine" in copy["path"] and (node.settings.data.folder / copy["path"]).is_file()
        first = node.rows("instances")[0]
        assert (node.settings.data.folder / first["path"]).read_bytes().endswith(encode(both[order[0]]))
        (held,) = node.rows("series")
        assert held["held"]["code"] == "uid-conflict"
        assert {e["name"] for e in node.rows("events")} >= {"instance.conflict", "series.held"}
        time.sleep(1.5)
        assert node.reads == [] and node.quiets == [], "held: nothing goes on"


def test_the_same_content_in_other_bytes_is_a_duplicate(tmp_path: Path) -> None:
    with listening(settings_for(tmp_path)) as node:
        made = slices.series(tmp_path / "s", 4)
        send(node, made)
        # as an archive re-encodes it: group length, explicit against implicit
        for number in range(1, 5):
            ds = slices.slice_of(made.study_uid, made.series_uid, number, uid=made.uids[number - 1])
            with association(node.port, syntax="1.2.840.10008.1.2") as assoc:
                assert store_raw(assoc, encode(ds, implicit=True), slices.MR, made.uids[number - 1]) == (0, "")
        until(lambda: len([c for c in node.rows("copies") if c["verdict"] == "duplicate"]) == 4)
        until(lambda: node.reads)
        assert all(not (node.settings.data.folder / c["path"]).exists() for c in node.rows("copies"))
        assert node.rows("series")[0]["held"] is None and len(node.rows("revisions")) == 1


def test_two_patients_in_one_study_hold_it(tmp_path: Path) -> None:
    with listening(settings_for(tmp_path)) as node:
        made = slices.series(tmp_path / "s", 3)
        send(node, made)
        other = slices.slice_of(made.study_uid, str(generate_uid()), 1, PatientBirthDate="19600101")
        assert store(node, other) == 0
        until(lambda: node.rows("studies")[0]["held"])
        assert node.rows("studies")[0]["held"]["code"] == "patient-conflict"
        (event,) = [e for e in node.rows("events") if e["name"] == "study.held"]
        assert event["detail"]["differing"] == ["PatientBirthDate"]
        time.sleep(1.5)
        assert node.reads == []
        # a person releases it: what was gathered goes on by itself
        with node.database.write() as connection:
            connection.execute(update(studies).values(held=None))
        until(lambda: len(node.reads) == 2, 15)


def test_a_series_in_two_studies_is_held(tmp_path: Path) -> None:
    with listening(settings_for(tmp_path)) as node:
        made = slices.series(tmp_path / "s", 3)
        send(node, made)
        assert store(node, slices.slice_of(str(generate_uid()), made.series_uid, 4)) == 0
        until(lambda: any(s["held"] for s in node.rows("series")))


def test_an_unreadable_instance_is_kept_and_told(tmp_path: Path) -> None:
    with listening(settings_for(tmp_path)) as node:
        study_uid, series_uid = str(generate_uid()), str(generate_uid())
        for number in range(1, 5):
            assert store(node, slices.slice_of(study_uid, series_uid, number, ImagesInAcquisition=5)) == 0
        broken = slices.slice_of(study_uid, series_uid, 5, FrameOfReferenceUID="1." + "9" * 70)
        assert store(node, broken) == 0, "what can be kept and identified is kept"
        until(lambda: node.reads)
        (revision,) = node.rows("revisions")
        assert revision["grade"] == Grade.CONTRADICTING.value
        assert (revision["evidence"]["refused"], len(revision["instance_uids"])) == (1, 4)


def test_own_results_never_come_back_in(tmp_path: Path) -> None:
    """I18: known by UID, by product, by class."""
    with listening(settings_for(tmp_path)) as node:
        made = slices.series(tmp_path / "s", 3)
        send(node, made)
        until(lambda: node.reads)
        known = str(generate_uid())
        with node.database.write() as connection:
            _insert_artefact(connection, made.study_uid, known)
        echoed = [
            slices.slice_of(made.study_uid, str(generate_uid()), 1, uid=known),
            slices.slice_of(made.study_uid, str(generate_uid()), 1, ManufacturerModelName=PRODUCT),
        ]
        others = slices.slice_of(made.study_uid, str(generate_uid()), 1, SOPClassUID=SEG, Modality="SEG")
        for ds in (*echoed, others):
            assert store(node, ds, calling="ORTHANC") == 0
        until(lambda: all(r["content_sha256"] for r in node.rows("instances")))
        time.sleep(1.5)
        assert len(node.reads) == 1
        assert node.count("instances", own_result=True) == 2
        assert node.count("series", is_open=True) == 0


def test_the_study_is_quiet_when_nothing_is_on_its_way(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, gather={"quiet_s": 0.2, "cap_s": 0.4, "study_quiet_s": 1.2})
    with listening(settings) as node:
        study_uid = str(generate_uid())
        with association(node.port) as assoc:  # stays open: the study is still arriving
            made = slices.slice_of(study_uid, str(generate_uid()), 1)
            assert store_raw(assoc, encode(made), slices.MR, str(made.SOPInstanceUID))[0] == 0
            until(lambda: node.reads)
            time.sleep(2.0)
            assert node.quiets == []
        ended = time.monotonic()
        until(lambda: node.quiets)
        assert time.monotonic() - ended > 1.0


def test_a_road_that_is_away_is_told_later(tmp_path: Path) -> None:
    told: list[int] = []
    is_away = threading.Event()
    is_away.set()

    def put_read(revision: int) -> None:
        if is_away.is_set():
            raise ConnectionError("the engine's database")
        told.append(revision)

    with listening(settings_for(tmp_path, gather={"cap_s": 0.4}), put_read) as node:
        send(node, slices.series(tmp_path / "s", 3))
        until(lambda: node.rows("revisions"))
        time.sleep(1.0)
        assert node.rows("revisions")[0]["put_at"] is None
        is_away.clear()
        until(lambda: told == [1])
        until(lambda: node.rows("revisions")[0]["put_at"])


def test_markers_leak_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """I4, the paths of trouble included."""
    with listening(settings_for(tmp_path)) as node:
        made = slices.series(tmp_path / "s", 3)
        send(node, made)
        assert store(node, slices.slice_of(made.study_uid, made.series_uid, 9, uid=made.uids[0])) == 0
        other = slices.slice_of(made.study_uid, str(generate_uid()), 1, PatientName=f"{slices.MARKER}^Other")
        assert store(node, other) == 0
        until(lambda: any(s["held"] for s in node.rows("series")) and node.rows("studies")[0]["held"])
    out, err = capfd.readouterr()
    files = " ".join(str(p.relative_to(tmp_path)) for p in (tmp_path / "data").rglob("*"))
    for secret in (slices.MARKER, made.study_uid, made.series_uid, *made.uids):
        assert secret not in out + err + caplog.text + files
    assert "gather.uid-conflict" in out + err


# time that lies


class _Node(Records):
    """Indexer and gatherer without a door, under a clock of the test's."""

    def __init__(self, tmp_path: Path) -> None:
        self.settings = settings_for(tmp_path, gather={"quiet_s": 3, "cap_s": 60, "study_quiet_s": 120})
        self.database = migrated(self.settings)
        self.clock = 1000.0
        self.reads: list[int] = []
        self.quiets: list[tuple[str, int]] = []
        self.gatherer = self.restart()

    def restart(self) -> Gatherer:
        self.gatherer = Gatherer(
            self.settings,
            self.database,
            series_geometry,
            self.reads.append,
            lambda uid, number: self.quiets.append((uid, number)),
            ArchiveCounts(self.settings.orthanc),
            clock=lambda: self.clock,
        )
        self.gatherer.rebuild()
        return self.gatherer

    def arrive(self, made: slices.SeriesFiles, released: bool = True) -> None:
        from dicom_node.record import arrivals
        from dicom_node.volume.header import content_digest, read_header

        with self.database.write() as connection:
            arrival = arrivals.open_arrival(connection, "MODALITY", "127.0.0.1")
            for file, uid in zip(made.files, made.uids, strict=True):
                row = arrivals.Received(
                    uid,
                    slices.MR,
                    "1.2.840.10008.1.2.1",
                    made.study_uid,
                    made.series_uid,
                    str(file),
                    1,
                    uid,
                    "MODALITY",
                )
                arrivals.add_instance(connection, row, arrival)
            arrivals.close_arrival(connection, arrival, released=released, kept=len(made.files))

        class Files:
            data_folder = Path("/")

            def drop(self, path: str) -> None: ...
            def to_quarantine(self, path: str) -> str:
                return path

        indexer = Indexer(
            self.database,
            Files(),
            read_header=read_header,
            content_digest=content_digest,
            is_input=lambda _: True,
            on_indexed=self.gatherer.note,
        )
        indexer.index_batch()
        self.gatherer.association_ended(arrival)

    def run_for(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.5)):
            self.clock += 0.5
            self.gatherer.tick()


@pytest.mark.parametrize("shift_h", [-2, 2])
def test_a_clock_that_jumps_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift_h: int
) -> None:
    """I13: the wall clock is set while series wait, and again over a restart."""
    import dicom_node.record.arrivals as arrivals_rows
    import dicom_node.record.revisions as revision_rows

    node = _Node(tmp_path)
    one, two = slices.series(tmp_path / "a", 3), slices.series(tmp_path / "b", 3)
    node.arrive(one)
    node.run_for(30)

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            from datetime import timedelta

            return datetime.now(tz) + timedelta(hours=shift_h)  # type: ignore[arg-type]

    monkeypatch.setattr(revision_rows, "datetime", Shifted)
    for module in (revision_rows, arrivals_rows):
        monkeypatch.setattr(module, "now", lambda: Shifted.now().astimezone().isoformat())
    node.run_for(20)
    assert node.reads == [], "not a moment early by the monotonic clock"
    node.run_for(12)
    assert node.reads == [1]
    node.arrive(two)
    node.restart()
    node.run_for(1)
    assert node.reads == [1], "a restart waits at least the quiet time"
    node.run_for(70)
    assert node.reads == [1, 2]
    node.run_for(130)
    assert sorted(node.quiets) == sorted([(one.study_uid, 1), (two.study_uid, 1)])
    node.restart()
    node.run_for(200)
    assert node.reads == [1, 2] and len(node.quiets) == 2
    node.database.close()


def test_timers_are_rebuilt_from_the_record(tmp_path: Path) -> None:
    node = _Node(tmp_path)
    node.arrive(slices.series(tmp_path / "a", 3))
    node.restart()
    node.run_for(70)
    assert node.reads == [1]
    node.restart()
    node.run_for(70)
    assert node.reads == [1]
    with node.database.write() as connection:  # as after a kill between the row and the put (K7)
        from dicom_node.record.tables import revisions

        connection.execute(update(revisions).values(put_at=None))
    node.restart()
    node.run_for(1)
    assert node.reads == [1, 1], "told again; the job's key makes it one"
    node.database.close()


def _insert_artefact(connection: object, study_uid: str, uid: str) -> None:
    execute = connection.execute  # type: ignore[attr-defined]
    case = execute(
        insert(cases).values(
            study_uid=study_uid, route="r", result_family="f", model="m", rank=0, state="ready", revisions={},
            publish="all", destinations=[], priority=5, reasons=[], created_at=now(), case_key="k",
        )
    )  # fmt: skip
    run = execute(
        insert(runs).values(
            run_key="k", case_id=case.inserted_primary_key[0], study_uid=study_uid, result_family="f", state="built",
            created_at=now(), identity={}, model_digest="m", settings_digest="s",
        )
    )  # fmt: skip
    execute(
        insert(artefacts).values(
            run_id=run.inserted_primary_key[0], attempt=1, kind="seg", sha256="0", path="x", sop_instance_uid=uid,
            created_at=now(),
        )
    )  # fmt: skip
    assert series is not None
