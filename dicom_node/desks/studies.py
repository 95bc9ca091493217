"""The desk of the study page: look into what was dropped or picked in the archive, ask a model, show what came of it.

The work is that of every request (`dicom_node.desks.predictions`): same queue, same records, same limits.  What
somebody may see is what she asked for herself; a stranger's request is like none.  Every search in the archive and
every study that was fetched is audited; nobody leafs through an archive, because a search needs a whole identifier, and
what is no study of the person's sites (`record.access.pickable`) is for her as if the archive did not have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

from ai_engine.packages import Description
from dicom_node.delivery import StowTarget
from dicom_node.delivery.searching import FoundStudy, SearchableArchive
from dicom_node.desks.drafts import ARCHIVE, Draft, Drafts, Part, Told
from dicom_node.desks.predictions import Asked, Predictions, UnknownModel
from dicom_node.desks.uploads import GivenFile
from dicom_node.permissions import Person
from dicom_node.record import Database, access, audit, digest, predictions
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.settings import Settings, read_secret
from dicom_node.stages.kinds import fitting_set

SHOWN = 30
MAX_FOUND = 25
_MB = 1_000_000


class StudyDesk:
    """The desk.

    Parameters
    ----------
    desk
        Of predictions, which takes what is asked here.
    """

    def __init__(self, settings: Settings, database: Database, desk: Predictions) -> None:
        self._settings = settings
        self._database = database
        self._desk = desk
        self.spool = desk.spool
        unpacked = settings.api.max_unpacked_mb * _MB
        self.drafts = Drafts(desk.spool, settings.data.folder / "spool", unpacked)

    # -- what can be asked

    def models(self) -> list[dict[str, Any]]:
        """The models that read volumes: name, title and the sets of roles that each reads, by the version in force."""
        found = {}
        for told in self._desk.models():
            if not told.get("usable") or told.get("task") != "segmentation":
                continue
            try:
                model = self._desk.model(str(told["name"]), "")
            except (UnknownModel, Refused):
                continue
            if isinstance(model.description, Description):
                found[model.reference] = {
                    "name": str(told["name"]),
                    "reference": model.reference,
                    "title": model.description.title,
                    "role_sets": [list(names) for names in model.description.accepted_roles],
                    "words": model.description.words,
                }
        return list(found.values())

    def fitting(self, parts: Sequence[Part]) -> list[str]:
        """Names of the models that the guessed roles are enough for."""
        given = {part.role for part in parts if part.role}
        return [m["name"] for m in self.models() if any(set(names) <= given for names in m["role_sets"])]

    def check_admission(self, person: Person) -> None:
        """Whether there is room for one more.

        Raises
        ------
        Refused
        """
        self._desk.check_admission(person.prefix, 1)

    # -- the archive

    def search(self, person: Person, by: str, value: str) -> list[FoundStudy]:
        """Studies of her sites in the archive with exactly this identifier.

        Raises
        ------
        PeerTrouble
        """
        with self._archive() as archive:
            found = self._of_her_sites(person, archive.find(by, value))
        with self._database.write() as connection:
            # the identifier itself stays out of the log: that somebody searched, by what, and what she was shown
            shown = [one.uid for one in found]
            audit.append(connection, person.actor, "archive.searched", None, by=by, found=len(found), studies=shown)
        return found

    def pick(self, person: Person, by: str, value: str, study_uid: str) -> Draft:
        """Fetch a study that this search finds, and look into it.

        Raises
        ------
        PeerTrouble
        Refused
            ``input-empty`` when the search does not find the study; ``too-large``; as `Drafts.make`.
        """
        with self._archive() as archive:
            if study_uid not in {one.uid for one in self._of_her_sites(person, archive.find(by, value))}:
                raise Refused(RefusalCode.INPUT_EMPTY, "a study that the search finds", "another")
            with self._database.write() as connection:
                audit.append(connection, person.actor, "archive.study-fetched", study_uid)
            left = self._settings.api.max_upload_mb * _MB
            files: list[Told] = []
            for series in archive.series(study_uid):
                objects = archive.objects(study_uid, series.uid, left)
                for data in objects:
                    part = self.spool.part()
                    part.write(data)
                    files.append(Told("", self.spool.keep(part)))
                left -= sum(map(len, objects))
        return self.drafts.make(person.prefix, files, ARCHIVE)

    def _of_her_sites(self, person: Person, found: Sequence[FoundStudy]) -> list[FoundStudy]:
        sites = {_plain(name): key for name, key in self._settings.orthanc.institutions.items()}
        said = {one.uid: sites.get(_plain(one.institution)) for one in found}
        with self._database.read() as connection:
            seen = access.pickable(connection, person, said)
        return [one for one in found if one.uid in seen][:MAX_FOUND]

    def _archive(self) -> SearchableArchive:
        orthanc = self._settings.orthanc
        password = orthanc.password_file
        return SearchableArchive(
            StowTarget(
                url=orthanc.url.rstrip("/") + orthanc.dicomweb_root,
                username=orthanc.username,
                secret=None if password is None else lambda: read_secret(password),
                insecure_ok_because=orthanc.insecure_ok_because,
                ca_file=orthanc.ca_file,
                identity=self._settings.shown(orthanc),
            )
        )

    # -- asking

    def ask(
        self, person: Person, draft: Draft, model: str, roles: Sequence[str], options: Mapping[str, Any]
    ) -> RowMapping:
        """Ask a model about the parts of a draft that have a role; the row of the request.

        Parameters
        ----------
        roles
            One for each part of the draft; empty: leave it out.
        options
            As `portal.api.fields.options_of`.

        Raises
        ------
        UnknownModel
        Refused
            ``roles-unfilled``, ``validation`` (a role twice among NIfTI files), and as `Predictions.accept`.
        """
        chosen = self._desk.model(model, "")
        used = [(part, role) for part, role in zip(draft.parts, roles, strict=True) if role]
        names = [role for _, role in used]
        fitting_set(chosen.description, names)
        if len(set(names)) != len(names):
            raise Refused(RefusalCode.VALIDATION, "one series for each role", "several for one")
        case = [
            GivenFile(upload, role, is_image_field=part.kind == "nifti")
            for part, role in used
            for upload in part.uploads
        ]
        said = digest([model, list(roles), dict(options)])
        asked = Asked(
            owner=person.prefix,
            name=model,
            cases=[case],
            options={**options, "source": draft.source},
            idempotency_key=f"draft-{draft.id}-{said[:16]}",  # pressed twice is asked once
            body_sha256=said,
            actor=person.actor,
        )
        (row,) = self._desk.accept(asked)
        return row

    # -- what came of it

    def mine(self, person: Person) -> list[RowMapping]:
        """What this person asked for, newest first."""
        with self._database.read() as connection:
            return predictions.newest_of(connection, person.prefix, SHOWN)

    def of(self, person: Person, public_id: str) -> RowMapping | None:
        """One request of this person; None for a stranger's as for none."""
        row = self._desk.result(person.prefix, public_id)
        return None if row is None or "photo" in row["options"] else row

    def of_archive(self, person: Person, public_id: str) -> str | None:
        """UID of the archive's study that a request of hers was about; None for any other request."""
        row = self.of(person, public_id)
        is_picked = row is not None and row["options"].get("source") == ARCHIVE
        return str(row["study_uid"]) if row is not None and is_picked and row["study_uid"] else None

    def cancel(self, person: Person, public_id: str) -> RowMapping | None:
        """End a request; None for a stranger's as for none."""
        return self._desk.cancel(person.prefix, public_id, person.actor)

    def file(self, row: RowMapping, name: str) -> Path | None:
        """Where a file of a finished request lies."""
        return self._desk.file(row, name)

    def destinations(self) -> list[str]:
        """Where results of DICOM images may be sent."""
        return self._desk.destinations()


def _plain(institution: str) -> str:
    """A name as people write it at two machines: case and blanks do not count."""
    return " ".join(institution.casefold().split())
