"""A node without its listener: stored files become rows, series are closed by the test, jobs run in virtual time.

Everything below the door is the product itself: records, routing, volumes, a real model in its child process, results,
delivery to a folder.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import insert, select, update

from dicom_node.durable import MemoryEngine, Put
from dicom_node.models import WarmModels
from dicom_node.record import Database, arrivals, digest, indexing, now
from dicom_node.record.tables import revisions, series, studies
from dicom_node.road import jobs
from dicom_node.sealing import at_rest
from dicom_node.settings import Settings
from dicom_node.stages.context import Tools
from dicom_node.volume.digest import content_digest
from dicom_node.volume.header import read_header
from dicom_node.words import RevisionState

NAMESPACE = "6f2f7c1e-2f7b-5d0a-9a53-0d4c2c8f0001"

ROUTES = """
schema_version: 1
routes:
  - name: brain-flair
    when: {all: [{attribute: Modality, equals: MR}]}
    role_sets: [[flair]]
    model: tiny-bright
    result_family: brain-lesion
    destinations: [archive]
    publish: all
"""


class Node:
    """One installation in a folder of its own."""

    def __init__(self, folder: Path, models: Path, routes: str = ROUTES, **sections: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "routes.yaml").write_text(routes, encoding="utf-8")
        self.archive = folder / "archive"
        self.archive.mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "node": {"site_namespace": NAMESPACE, "organisation": "Test Hospital"},
            "data": {"folder": folder / "data"},
            "routes": folder / "routes.yaml",
            "engine": {"models": models, "precision": "f32", "threads": 1},
            # time is virtual here, and a circuit's is not: the tests of circuits set their own
            "destinations": {"archive": {"kind": "folder", "path": self.archive, "circuit_failures": 1000}},
        }
        self.settings = Settings(**{**values, **sections})
        self.database = Database(self.settings.records_url)
        self.database.migrate()
        self.tools = Tools(
            settings=self.settings,
            database=self.database,
            models=WarmModels(self.settings),
            site_namespace=NAMESPACE,
            node_instance="test-node",
            version=importlib.metadata.version("dicom-ai-node"),
        )
        self.engine = MemoryEngine(jobs=dict(jobs(self.tools)))

    def receive(self, files: Iterable[Path], calling_ae: str = "ORTHANC") -> None:
        """Store files and index them, as the door and the indexer do."""
        vault = self.settings.vault_folder
        vault.mkdir(parents=True, exist_ok=True)
        with self.database.write() as connection:
            arrival = arrivals.open_arrival(connection, calling_ae, "127.0.0.1")
        for file in files:
            data = file.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            target = vault / f"{sha256}.dcm"
            target.write_bytes(at_rest.seal(data))
            header = read_header(target)
            with self.database.write() as connection:
                kept = arrivals.add_instance(
                    connection,
                    arrivals.Received(
                        uid=header["SOPInstanceUID"],
                        sop_class_uid=header["SOPClassUID"],
                        transfer_syntax_uid=header["TransferSyntaxUID"],
                        study_uid=header["StudyInstanceUID"],
                        series_uid=header["SeriesInstanceUID"],
                        path=str(target.relative_to(self.settings.data.folder)),
                        size_bytes=len(data),
                        bytes_sha256=sha256,
                        calling_ae=calling_ae,
                    ),
                    arrival,
                )
                if kept is arrivals.Kept.NEW:
                    row = connection.execute(
                        select(arrivals.instances.c.id).where(arrivals.instances.c.uid == header["SOPInstanceUID"])
                    ).scalar_one()
                    indexing.index_instance(
                        connection, row, header, content_digest(target), own_result=False, is_input=True
                    )
        with self.database.write() as connection:
            arrivals.close_arrival(connection, arrival, released=True, kept=1)

    def close_series(self, series_uid: str, grade: str = "transferred") -> int:
        """Close a series into its next revision and put the read job, as the gatherer does."""
        with self.database.write() as connection:
            rows = list(
                connection.execute(
                    select(arrivals.instances).where(arrivals.instances.c.series_uid == series_uid)
                ).mappings()
            )
            number = 1 + len(
                list(connection.execute(select(revisions.c.id).where(revisions.c.series_uid == series_uid)))
            )
            connection.execute(
                update(revisions)
                .where(revisions.c.series_uid == series_uid)
                .values(state=RevisionState.SUPERSEDED.value)
            )
            revision_id = connection.execute(
                insert(revisions)
                .values(
                    series_uid=series_uid,
                    study_uid=rows[0]["study_uid"],
                    number=number,
                    state=RevisionState.COMPLETE.value,
                    set_sha256=digest(sorted([r["uid"], r["content_sha256"]] for r in rows)),
                    grade=grade,
                    evidence={"count": len(rows)},
                    instance_uids=sorted(r["uid"] for r in rows),
                    closed_at=now(),
                )
                .returning(revisions.c.id)
            ).scalar_one()
            connection.execute(update(series).where(series.c.uid == series_uid).values(is_open=False))
        self.engine.put(Put("cpu", "read", f"read/{revision_id}", ("revision", int(revision_id))))
        return int(revision_id)

    def quiet(self, study_uid: str) -> None:
        """Declare the study's quiet period over."""
        with self.database.write() as connection:
            connection.execute(update(studies).where(studies.c.uid == study_uid).values(quiet_at=now()))
        self.engine.put(Put("cpu", "read", f"quiet/{study_uid}/{now()}", ("study", study_uid)))

    def rows(self, table: Any) -> list[dict[str, Any]]:
        """All rows of a table, oldest first."""
        with self.database.read() as connection:
            return [dict(r) for r in connection.execute(select(table).order_by(*table.primary_key)).mappings()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """All timeline events of one name."""
        from dicom_node.record.tables import events

        return [e for e in self.rows(events) if e["name"] == name]

    def delivered(self) -> list[Dataset]:
        """Every object in the archive folder."""
        return [dcmread(path) for path in sorted(self.archive.rglob("*.dcm"))]

    def current_runs(self) -> list[dict[str, Any]]:
        """Runs that are built and not superseded."""
        from dicom_node.record.tables import runs

        return [r for r in self.rows(runs) if r["state"] == "built"]

    def findings(self, run_id: int) -> dict[str, Any]:
        """What a run said."""
        with self.database.read() as connection:
            data = self.tools.load(connection, run_id, "findings")
        assert data is not None
        return dict(json.loads(data))

    def close(self) -> None:
        """End the model children and close the records."""
        self.tools.models.close()
        self.database.close()
