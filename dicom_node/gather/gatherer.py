"""Closes series into revisions and declares studies quiet; the only place where time decides anything.

Inside the process every duration is measured with a monotonic clock.  Times in the record serve only to set the timers
at start, where a clock that was set may make a series wait longer or close earlier, and never loses or doubles
anything: a slice that comes after the close makes a new revision (I13, I19).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from dicom_node import logs
from dicom_node.failpoints import reach
from dicom_node.gather.archive import ArchiveCounts
from dicom_node.gather.evidence import Evidence, Patience, grade
from dicom_node.record import Database
from dicom_node.record import revisions as rows
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.settings import Settings
from dicom_node.words import PHOTOS_AE, Grade

log = structlog.get_logger(__name__)

TICK_S = 0.1
LOOK_AGAIN_S = 0.25
"""A series that is still arriving is looked at no more often than this."""
REFRESH_S = 5.0
"""How often the record is asked for series that another process opened again (a hold was released)."""
_GAPS = frozenset({RefusalCode.SLICES_MISSING, RefusalCode.SLICE_SPACING_NONUNIFORM})

SeriesGeometry = Callable[[Sequence[Mapping[str, Any]]], Any]
"""Of the volume room: a geometry with ``slices``, ``spacing_mm`` and ``plane``, or a `Refused` as a value."""


@dataclass
class _Open:
    """One series that gathers."""

    last_s: float
    """Monotonic time of the last new instance."""
    not_before_s: float
    is_dirty: bool = True
    looked_s: float = float("-inf")
    due_s: float = float("inf")
    seen: frozenset[str] = frozenset()
    grade: Grade = Grade.WEAK
    evidence: Evidence | None = None
    facts: Mapping[str, Any] | None = None


class Gatherer:
    """The timers of all series and studies.

    Parameters
    ----------
    settings
        Sections ``gather``, ``door`` (senders) and ``orthanc``.
    database
        The record.
    series_geometry
        Judges whether headers make one regular stack.
    put_read, put_quiet
        Tell the road of a closed revision (its id), of a quiet study (its UID, the number of the declaration).  Both
        may be called twice for one thing and must then do it once.
    counts
        What the archive holds.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        series_geometry: SeriesGeometry,
        put_read: Callable[[int], None],
        put_quiet: Callable[[str, int], None],
        counts: ArchiveCounts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._database, self._geometry = settings, database, series_geometry
        self._put_read, self._put_quiet, self._counts, self._clock = put_read, put_quiet, counts, clock
        self._series: dict[str, _Open] = {}
        self._studies: dict[str, float] = {}
        self._unput = False
        self._refreshed_s = float("-inf")
        self._lock = threading.Lock()
        self._wake = threading.Event()

    # what others tell

    def note(self, series_uid: str) -> None:
        """A new instance of the series is indexed."""
        now_s = self._clock()
        with self._lock:
            state = self._series.setdefault(series_uid, _Open(now_s, now_s))
            state.last_s, state.is_dirty = now_s, True
        self._wake.set()

    def look_at(self, series_uid: str) -> None:
        """Something else about the series is known now: the archive has counted it."""
        with self._lock:
            if series_uid in self._series:
                self._series[series_uid].is_dirty = True
        self._wake.set()

    def association_ended(self, arrival_id: int) -> None:
        """An association is over: its studies' quiet period begins anew, its series may be complete."""
        with self._database.read() as connection:
            studies = rows.studies_of_arrival(connection, arrival_id)
            series = rows.series_of_arrival(connection, arrival_id)
        now_s = self._clock()
        with self._lock:
            self._studies.update(dict.fromkeys(studies, now_s))
            for uid in series:
                if uid in self._series:
                    self._series[uid].is_dirty = True
        self._wake.set()

    # the timers

    def rebuild(self) -> None:
        """Set all timers from the record, at start; tells the road again what it may not have heard."""
        now_s = self._clock()
        with self._database.read() as connection:
            open_series = rows.open_series(connection)
            studies = rows.unquiet_studies(connection)
        with self._lock:
            for uid, at in open_series:
                # senders need a moment to reconnect and send again what was not acknowledged
                self._series[uid] = _Open(now_s - rows.seconds_since(at), now_s + self._settings.gather.quiet_s)
            for uid, at in studies:
                self._studies.setdefault(uid, now_s - rows.seconds_since(at))
        self._unput = True

    def run(self, stop: threading.Event) -> None:
        """Keep the timers until `stop` is set."""
        while not stop.is_set():
            self._wake.clear()
            try:
                self.tick()
            except Exception as error:  # the thread's boundary: nothing is lost, the next tick looks again
                log.error("gather.tick-failed", error=logs.named(error))
                stop.wait(1.0)
            self._wake.wait(TICK_S)

    def tick(self) -> None:
        """Look at everything that is due."""
        now_s = self._clock()
        if now_s - self._refreshed_s >= REFRESH_S:
            self._refresh(now_s)
        with self._lock:
            states = list(self._series.items())
        for uid, state in states:
            if state.is_dirty and now_s - state.looked_s >= LOOK_AGAIN_S:
                self._look(uid, state, now_s)
            if not state.is_dirty and now_s >= state.due_s:
                self._close(uid, state)
        quiet_s = self._settings.gather.study_quiet_s
        with self._lock:
            due = [uid for uid, last_s in self._studies.items() if now_s - last_s >= quiet_s]
        for uid in due:
            self._declare_quiet(uid)
        if self._unput:
            self._put_all()

    def _look(self, uid: str, state: _Open, now_s: float) -> None:
        with self._lock:
            state.is_dirty, state.looked_s = False, now_s
        with self._database.read() as connection:
            known = rows.gathered(connection, uid)
        state.due_s = float("inf")
        if not known.is_open or known.is_held:
            with self._lock:
                self._series.pop(uid, None)  # comes back with a new instance, or with the next refresh after a release
            return
        if known.waiting or not (known.headers or known.refused):
            return  # the indexer will note them
        evidence, facts = self._weigh(known, state)
        state.grade, wait_s = grade(evidence, self._patience(known.senders))
        state.seen, state.evidence, state.facts = frozenset(known.headers), evidence, facts
        state.due_s = max(state.last_s + wait_s, state.not_before_s)

    def _weigh(self, known: rows.Gathered, state: _Open) -> tuple[Evidence, Mapping[str, Any]]:
        senders = [self._settings.sender(ae) for ae in known.senders]
        is_from_archive = bool(senders) and all(s is not None and s.is_archive for s in senders)
        is_independent = self._settings.orthanc.count_as_promised
        count = None
        if is_independent or (is_from_archive and not known.is_arriving):
            count = self._counts.since(known.series_uid, state.last_s)
        geometry = self._geometry(list(known.headers.values()))
        is_regular = not isinstance(geometry, Refused)
        announced = {h.get("ImagesInAcquisition") for h in known.headers.values()}
        only = next(iter(announced)) if len(announced) == 1 else None
        evidence = Evidence(
            instances=len(known.headers),
            refused=known.refused,
            announced=int(only) if isinstance(only, int | float) else None,
            archive_count=count,
            is_archive_independent=is_independent,
            is_from_archive=is_from_archive,
            is_arriving=known.is_arriving,
            is_released=known.is_released,
            slices=len(geometry.slices) if is_regular else None,
            geometry="regular" if is_regular else geometry.refusal.code.value,
            has_gap=not is_regular and geometry.refusal.code in _GAPS,
            is_own_photograph=known.senders == {PHOTOS_AE},
        )
        return evidence, self._facts(known, geometry if is_regular else None)

    def _facts(self, known: rows.Gathered, geometry: Any | None) -> Mapping[str, Any]:
        """Attributes of the first instance by number, so that they do not depend on the order of arrival."""
        if not known.headers:
            return {"NumberOfInstances": 0}
        first = min(known.headers.items(), key=lambda pair: (_number(pair[1].get("InstanceNumber")), pair[0]))[1]
        facts = {k: v for k, v in first.items() if k != "Frames"}
        facts["NumberOfInstances"] = len(known.headers)
        if geometry is not None:
            facts["NumberOfSlices"] = len(geometry.slices)
            facts["SliceStepMm"] = float(geometry.spacing_mm[0])
            facts["SpacingMm"] = [float(v) for v in geometry.spacing_mm[1:]]
            facts["Plane"] = geometry.plane
        return facts

    def _patience(self, senders: frozenset[str]) -> Patience:
        known = [s for s in (self._settings.sender(ae) for ae in senders) if s is not None]
        default = self._settings.gather
        return Patience(
            max((s.quiet_s or default.quiet_s for s in known), default=default.quiet_s),
            max((s.cap_s or default.cap_s for s in known), default=default.cap_s),
        )

    def _close(self, uid: str, state: _Open) -> None:
        evidence = state.evidence
        if evidence is None:
            return
        with self._database.write() as connection:
            revision_id = None
            if state.seen:
                revision_id = rows.close_revision(
                    connection, uid, state.seen, state.grade, evidence.to_json(), state.facts or {}
                )
            else:
                rows.close_unreadable(connection, uid)
                log.warning("gather.series-unreadable", instances=evidence.refused)
            is_open = rows.is_open(connection, uid)
            study_uid = rows.study_of_series(connection, uid)
        with self._lock:
            if is_open:
                state.is_dirty, state.due_s = True, float("inf")
            elif not state.is_dirty:
                self._series.pop(uid, None)
                self._counts.forget(uid)
            if revision_id is not None:
                self._studies[study_uid] = self._clock()
        if revision_id is not None:
            log.info("gather.series-closed", revision=revision_id, grade=state.grade.value, instances=len(state.seen))
            reach("K7")
            self._unput = True

    def _declare_quiet(self, study_uid: str) -> None:
        with self._database.write() as connection:
            number = rows.declare_quiet(connection, study_uid)
        with self._lock:
            self._studies.pop(study_uid, None)  # if something was on its way, its end brings the study back
        if number is not None:
            self._unput = True

    def _put_all(self) -> None:
        """Tell the road of everything that it was not told of; what fails is told again at a later tick."""
        with self._database.read() as connection:
            revisions, quiets = rows.unput_revisions(connection), rows.unput_quiets(connection)
        try:
            for revision_id in revisions:
                self._put_read(revision_id)
                with self._database.write() as connection:
                    rows.mark_put(connection, revision_id)
            for study_uid, number in quiets:
                self._put_quiet(study_uid, number)
                with self._database.write() as connection:
                    rows.mark_quiet_put(connection, study_uid, number)
        except Exception as error:  # the engine's database may be away: the record remembers what is still to be told
            log.error("gather.road-unreachable", error=logs.named(error))
            return
        self._unput = False

    def _refresh(self, now_s: float) -> None:
        self._refreshed_s = now_s
        with self._database.read() as connection:
            open_series = rows.open_series(connection)
        with self._lock:
            for uid, _ in open_series:
                self._series.setdefault(uid, _Open(now_s, now_s))
        self._unput = True


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("inf")
