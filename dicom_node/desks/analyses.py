"""The desk for analyses: a photograph of one lesion, asked about by one person for one patient, or for nobody by name.

Used by the `web` process: the portal, the LUNA API and ``/api/v1/analyses`` all come here.  `accept` answers when the
bytes are durable and the row is committed (I1); the worker brings the photograph through the node's own door
(`dicom_node.stages.submit`), and what came of it is read from the records of its study (`analysis_results`).

Who asked stands in the row and nowhere else: in no object, no report, and in no answer to anybody but herself.
"""

from __future__ import annotations

import base64
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, RowMapping

from dicom_node import files, logs
from dicom_node.desks.analysis_asked import Asked, asked_before, check, check_words
from dicom_node.desks.analysis_patients import Patients, PatientSaid
from dicom_node.desks.analysis_results import COMPLETED, FILES, PAGE, PHOTO, AnalysisResult, result_of
from dicom_node.desks.analysis_seen import Seen
from dicom_node.durable import Put
from dicom_node.failpoints import reach
from dicom_node.identity import LookedUp
from dicom_node.permissions import Person
from dicom_node.record import Database, actions, analyses, arrivals, audit, now, removals, runs, sites
from dicom_node.record.analyses import NewAnalysis, Row
from dicom_node.record.identity_removal import GONE
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.settings import Settings
from dicom_node.spool import Upload
from dicom_node.stages.analysis_facts import day_of, occasion_of, patient_of
from dicom_node.stages.analysis_places import photo_spool, submit_put

__all__ = ["Analyses", "AnalysisResult", "Asked", "PatientSaid", "Photo"]

log = structlog.get_logger()


@dataclass(frozen=True)
class Photo:
    """A picture as browsers show it."""

    media_type: str
    data: bytes


class Analyses:
    """The desk.

    Parameters
    ----------
    put
        Hands a job to the road.

    Attributes
    ----------
    clients_confirm
        Whether a LUNA client that names a patient has had a person confirm who that is, as the site says.
    """

    def __init__(self, settings: Settings, database: Database, put: Callable[[Put], None]) -> None:
        self._settings, self._database, self._put = settings, database, put
        self.settings = settings.api
        self.language = settings.node.language
        self.clients_confirm = settings.luna.client_confirms
        self._patients = Patients(settings, database)
        self._seen = Seen(database)
        self.spool = photo_spool(settings)

    # -- asking

    def accept(self, asked: Asked) -> RowMapping:
        """Write an analysis down and put its job; its row, the same for the same `client_id` sent again.

        Raises
        ------
        Refused
            `validation`, `patient-unidentified`; `idempotency-conflict`; `too-busy`, `storage-full` for the moment.
        """
        return self._accept(asked, None, "")

    def _accept(self, asked: Asked, replaced: RowMapping | None, reason: str) -> RowMapping:
        new = self._new(asked, replaced)
        known = self._known(new)
        if known is not None:
            return known
        self.check_admission(asked.who)
        puts: list[Put] = []
        reach("A1")
        try:
            with self._database.write() as connection:
                turn = analyses.waiting(connection, new.user_id)
                row = analyses.add(connection, new)
                told = {"ids": [row["public_id"]], "site": row["site"], "identified": row["is_identified"]}
                audit.append(connection, asked.who.actor, "analysis-made", None, **told)
                if replaced is not None:
                    puts = _withdraw(connection, asked.who, replaced, reason)
        except analyses.Known:
            known = self._known(new)
            if known is None:
                raise
            return known
        reach("A2")
        self._hand_over([submit_put(row, turn=turn), *puts])
        return row

    def _hand_over(self, puts: Sequence[Put]) -> None:
        """Put jobs; the record knows what is to be done, so a road that is away keeps nobody waiting."""
        for put in puts:
            try:
                self._put(put)
            except Exception as error:  # the reconciler puts it again
                log.error("analysis.not-put", error=logs.named(error))

    def _known(self, new: NewAnalysis) -> RowMapping | None:
        if new.client_id is None:
            return None
        with self._database.read() as connection:
            row = analyses.of_client(connection, new.user_id, new.client_id)
        if row is not None and not new.is_told_by(row):
            raise Refused(RefusalCode.IDEMPOTENCY_CONFLICT, "the same analysis again", "another one")
        return row

    def check_admission(self, who: Person) -> None:
        """Whether there is room for one more.

        Raises
        ------
        Refused
            ``storage-full`` or ``too-busy``.
        """
        data, api = self._settings.data, self._settings.api
        data.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        usage = shutil.disk_usage(data.folder)
        if usage.free < max(data.min_free_gb * 1e9, data.min_free_share * usage.total):
            raise Refused(RefusalCode.STORAGE_FULL)
        with self._database.read() as connection:
            everybody, own = analyses.waiting(connection), analyses.waiting(connection, who.user_id)
        if everybody >= api.max_waiting or own >= api.max_waiting_per_key:
            raise Refused(RefusalCode.TOO_BUSY, f"at most {api.max_waiting_per_key} photographs that wait", f"{own}")

    def _new(self, asked: Asked, replaced: RowMapping | None) -> NewAnalysis:
        """What is asked, judged before anything is promised."""
        check(asked)
        site = self._site_of(asked)
        new = NewAnalysis(
            user_id=asked.who.user_id,
            site=site.key,
            photo_path=str(self.spool.path(asked.upload.sha256).relative_to(self._settings.data.folder)),
            photo_sha256=asked.upload.sha256,
            declared={"kind": asked.declared, "claimed": asked.claimed},
            patient=None if asked.patient is None else self._patients.confirmed(asked.who, site, asked.patient),
            pseudonym=_pseudonym() if asked.patient is None else None,
            order_id=asked.order.strip() or None,
            body_site=asked.body_site or None,
            laterality=asked.laterality or None,
            description=asked.description.strip(),
            consent=asked.consent,
            impression=asked.impression,
            client_id=asked.client_id,
            replaces_id=None if replaced is None else int(replaced["id"]),
        )
        told = {**vars(new), "created_at": now()}
        patient_of(told)
        occasion_of(told, self._settings.node)
        return new

    def _site_of(self, asked: Asked) -> sites.Site:
        wanted = asked.site or (asked.who.sites[0] if len(asked.who.sites) == 1 else "")
        with self._database.read() as connection:
            site = sites.site_of(connection, wanted) if wanted in asked.who.sites else None
        if site is None or site.closed_at is not None:
            raise Refused(RefusalCode.VALIDATION, f"site: one of {', '.join(asked.who.sites)}", "another, or none")
        return site

    # -- patients

    def look_up(self, who: Person, site: str, kind: str, identifier: str) -> LookedUp:
        """Who has this identifier, of a type of one of her sites.

        Raises
        ------
        Refused
            ``validation``, ``patient-unidentified``.
        """
        return self._patients.look_up(who, site, kind, identifier)

    def last_patients(self, who: Person, limit: int = 5) -> list[dict[str, str]]:
        """Whom she sent photographs of last, the newest first, each once: as `analyses.patient`, and the `site`."""
        with self._database.read() as connection:
            rows = analyses.of_user(connection, who.user_id)
        found: dict[tuple[str, str, str], dict[str, str]] = {}
        for row in rows:
            is_known = row["patient"] is not None and not row["patient"].get(GONE)
            if is_known and row["state"] != analyses.WITHDRAWN:
                key = (row["site"], row["patient"]["type"], row["patient"]["id"])
                found.setdefault(key, {**row["patient"], "site": row["site"]})
        return list(found.values())[:limit]

    def sites_of(self, who: Person) -> list[dict[str, Any]]:
        """Her open sites: key, title, and how patients can be named there."""
        with self._database.read() as connection:
            return [
                {"key": site.key, "title": site.title, "identifier_types": [dict(one) for one in site.identifier_types]}
                for site in sites.all_sites(connection, only_open=True)
                if site.key in who.sites
            ]

    # -- what came of it

    def of(self, who: Person, public_id: str) -> RowMapping | None:
        """An analysis that she may see: her own, or as a specialist one of her sites'; None for others as for none."""
        with self._database.read() as connection:
            row = analyses.by_public_id(connection, public_id)
        if row is None:
            return None
        is_own = row["user_id"] == who.user_id and who.may("analysis:own")
        return row if is_own or (who.may("analysis:site") and row["site"] in who.sites) else None

    def own(self, who: Person, public_id: str) -> RowMapping | None:
        """An analysis that she has asked for herself; None for others as for none."""
        row = self.of(who, public_id)
        return row if row is not None and row["user_id"] == who.user_id else None

    def replaced_by(self, row: Row) -> str | None:
        """The public id of the one that an analysis took the place of."""
        if row["replaces_id"] is None:
            return None
        with self._database.read() as connection:
            return str(analyses.by_id(connection, int(row["replaces_id"]))["public_id"])

    def list_of(
        self,
        who: Person,
        *,
        since: str = "",
        until: str = "",
        state: str = "",
        sites: bool = False,
        limit: int = 100,
    ) -> list[RowMapping]:
        """Her analyses, the newest first; with `sites` all of her sites', where she may.

        Parameters
        ----------
        since, until
            Days by the site's clock, YYYY-MM-DD, both included; empty: no bound.
        state
            One of `analysis_results.STATES`; empty: all.

        Raises
        ------
        Refused
            ``validation`` for what is no day.
        """
        span = {"since": self._moment(since), "until": self._moment(until, days=1)}
        kept = limit if not state else 10 * limit
        with self._database.read() as connection:
            if not sites:
                rows = analyses.of_user(connection, who.user_id, **span, limit=kept)
            else:
                rows = analyses.of_sites(connection, who.sites if who.may("analysis:site") else (), **span, limit=kept)
            if state:
                rows = [row for row in rows if self._result(connection, row).state == state][:limit]
        return rows

    def _moment(self, day: str, days: int = 0) -> str:
        if not day:
            return ""
        try:
            return day_of(date.fromisoformat(day) + timedelta(days=days), self._settings.node)
        except ValueError:
            raise Refused(RefusalCode.VALIDATION, "a day as YYYY-MM-DD", "something else") from None

    def result(self, row: Row) -> AnalysisResult:
        """What came of an analysis until now."""
        with self._database.read() as connection:
            return self._result(connection, row)

    def results(self, rows: Sequence[Row]) -> list[AnalysisResult]:
        """The same of several, in order."""
        with self._database.read() as connection:
            return [self._result(connection, row) for row in rows]

    def _result(self, connection: Connection, row: Row) -> AnalysisResult:
        return result_of(connection, self._artefacts, row)

    @property
    def _artefacts(self) -> Path:
        return self._settings.data.folder / "artefacts"

    def photo(self, row: Row, *, is_exact: bool = False) -> Photo | None:
        """The picture, upright and without what the camera wrote beside it; None until it is in the vault.

        Parameters
        ----------
        is_exact
            Not one pixel differs from what the model saw; such a file may be large.

        Raises
        ------
        Refused
            ``removed`` when it was deleted.
        """
        from dicom_node.photo.unwrap import unwrap  # DICOM libraries, for the few calls that want them

        with self._database.read() as connection:
            path = arrivals.stored_path(connection, row["sop_instance_uid"] or "")
            gone = arrivals.removed_at(connection, row["sop_instance_uid"] or "")
        if gone:
            raise removals.removed(gone)
        if path is None:
            return None
        return Photo(*unwrap(at_rest.read(self._settings.data.folder / path), is_exact=is_exact))

    def file(self, row: Row, name: str) -> tuple[str, bytes] | None:
        """Media type and bytes of a file of a completed analysis; names are looked up, never joined (I9).

        Raises
        ------
        Refused
            ``removed`` when it was deleted.
        """
        if name not in FILES:
            return None
        with self._database.read() as connection:
            result = self._result(connection, row)
            if "result" in result.removed:
                raise removals.removed(result.removed["result"])
            if name not in result.files:
                return None
            run = runs.latest_run(connection, row["study_uid"])
            kept = None if run is None else runs.artefact(connection, int(run["id"]), FILES[name][0])
        return None if kept is None else (FILES[name][1], files.load(self._artefacts, *removals.place(kept)))

    def reveal(self, who: Person, row: Row, name: str = PHOTO) -> None:
        """Write down that somebody has looked at the picture, or has taken a file away in which it is."""
        action = "analysis-exported" if name == PAGE else "analysis-revealed"
        self._note(who, row, action, "revealed_at", file=name)

    def saw_result(self, who: Person, row: Row) -> None:
        """Write down that somebody has looked at the result."""
        self._note(who, row, "analysis-result-seen", "result_seen_at")

    def saw_results(self, who: Person, rows: Sequence[Row], results: Sequence[AnalysisResult]) -> None:
        """Write down that somebody has looked at the results in a list, where there are any."""
        both = zip(rows, results, strict=True)
        self._seen.note(who.actor, [row["public_id"] for row, result in both if result.state == COMPLETED])

    def _note(self, who: Person, row: Row, action: str, column: str, **told: str) -> None:
        with self._database.write() as connection:
            analyses.note_moment(connection, int(row["id"]), column)
            audit.append(connection, who.actor, action, row["study_uid"], ids=[row["public_id"]], **told)

    # -- taking back

    def withdraw(self, who: Person, row: RowMapping, reason: str) -> RowMapping:
        """Take an analysis back, here and wherever its result has gone; the row as it is now.

        Raises
        ------
        Refused
            ``validation`` without a reason in words.
        """
        check_words("a reason", reason, is_needed=True)
        with self._database.write() as connection:
            puts = _withdraw(connection, who, row, reason.strip())
            row = analyses.by_id(connection, int(row["id"]))
        reach("A3")
        self._hand_over(puts)
        return row

    def redo(self, who: Person, row: RowMapping, asked: Asked | None, reason: str, **changes: Any) -> RowMapping:
        """Withdraw an analysis and ask again about its photograph; the new row.

        A result never moves to another patient: this is how a photograph does.

        Parameters
        ----------
        asked
            What is asked now; its upload is taken from the old one.  None: the same as before, but for `changes`,
            which are fields of `Asked`.

        Raises
        ------
        Refused
            As `accept`; ``input-empty`` when the photograph is not kept any more; ``idempotency-conflict`` when it was
            done over already, in another way.
        """
        check_words("a reason", reason, is_needed=True)
        upload, claimed = self._upload_again(row)
        again = replace(asked or asked_before(who, row, upload), upload=upload, claimed=claimed, **changes)
        client_id = f"again-{row['public_id']}"
        return self._accept(replace(again, who=who, client_id=client_id), row, reason.strip())

    def _upload_again(self, row: RowMapping) -> tuple[Upload, str]:
        photo = self.photo(row, is_exact=True)
        if photo is not None:
            part = self.spool.part()
            part.write(photo.data)
            return self.spool.keep(part), photo.media_type
        path = None if row["photo_path"] is None else self.spool.path(row["photo_sha256"])
        if path is None or not path.is_file():
            raise Refused(RefusalCode.INPUT_EMPTY, "a photograph that is still kept", "none: it has to be taken again")
        return Upload(row["photo_sha256"], at_rest.size(path)), str(row["declared"]["claimed"])


def _withdraw(connection: Connection, who: Person, row: RowMapping, reason: str) -> list[Put]:
    """Take one back in the caller's transaction; the jobs that see to it."""
    number = int(row["id"])
    if not analyses.set_withdrawn(connection, number, reason):
        return []
    row = analyses.by_id(connection, number)
    audit.append(connection, who.actor, "analysis-withdrawn", row["study_uid"], ids=[row["public_id"]], reason=reason)
    if row["study_uid"] is None or not actions.is_study(connection, row["study_uid"]):
        return [submit_put(row, "/withdrawn")]  # perhaps it is on its way at this very moment
    jobs = actions.take_back(connection, row["study_uid"], who.actor, reason)
    analyses.set_settled(connection, number)
    return [Put(*job) for job in jobs]


def _pseudonym() -> str:
    return f"ANON-{base64.b32encode(secrets.token_bytes(8)).decode()[:12]}"
