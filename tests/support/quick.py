"""A node whose model answers at once, in virtual time; and a place to make its destinations fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from ai_engine.findings import Findings
from ai_engine.prediction import InputVolume
from dicom_node.durable import MemoryEngine, Put
from dicom_node.record import actions, views
from dicom_node.record.tables import attempts, deliveries, runs
from dicom_node.refusals import PeerTrouble
from dicom_node.road import jobs
from dicom_node.stages import deliver as deliver_stage
from dicom_node.stages.context import ChildDied, Mask, ModelDescription
from dicom_node.work import reconcile
from tests.fixtures_results import MODEL, findings_of
from tests.support import slices
from tests.support.node import ROUTES, Node

FLAIR: dict[str, Any] = {
    "SeriesDescription": "ax t2 flair",
    "SequenceName": "*tir2d1",
    "ScanningSequence": ["SE", "IR"],
    "RepetitionTime": "9000",
    "EchoTime": "120",
    "InversionTime": "2500",
    "StudyDescription": "brain",
    "PatientName": "ROE^JANE",
    "PatientID": "ID-4711",
    "IssuerOfPatientID": "TEST",
}


class QuickModel:
    """Answers with a block of two labels, as often as it is not told to die."""

    def __init__(self) -> None:
        self.deaths = 0
        self.asked: list[str] = []

    def describe(self, reference: str) -> ModelDescription:
        return ModelDescription("tiny-bright", "1.0.0", MODEL.digest_sha256, "cd" * 32, ("flair",), "flair")

    def predict(
        self, reference: str, inputs: Mapping[str, InputVolume], is_wanted: Callable[[], bool] | None = None
    ) -> tuple[Mask, Findings]:
        self.asked.append(reference)
        if self.deaths:
            self.deaths -= 1
            raise ChildDied("child-died")
        volume = inputs["flair"]
        mask = np.zeros(volume.array.shape, np.uint8)
        mask[2:4, 10:20, 12:30] = 1
        mask[2:3, 12:16, 14:20] = 2
        return mask, findings_of(mask, volume.affine)

    def has_room(self, reference: str) -> bool:
        return True

    def close(self) -> None:
        """Nothing to end."""


class Quick(Node):
    """A node whose model needs no child process."""

    def __init__(self, folder: Path, routes: str = ROUTES, **sections: Any) -> None:
        super().__init__(folder, folder / "models", routes, **sections)
        self.model = QuickModel()
        self.tools = replace(self.tools, models=self.model)
        self.forget_jobs()

    def forget_jobs(self) -> None:
        """The engine is emptied; truth is in the records."""
        self.engine = MemoryEngine(jobs=dict(jobs(self.tools)))

    def bring(self, files: slices.SeriesFiles, count: int | None = None) -> None:
        self.receive(files.files[:count])
        self.close_series(files.series_uid)
        self.engine.run()

    def act(self, action: Callable[..., list[actions.Job]], item: str) -> None:
        with self.database.write() as connection:
            puts = action(connection, item, "tester", "because")
        for queue, job, key, args in puts:
            self.engine.put(Put(queue, job, key, args))
        self.engine.run()

    def reconcile(self) -> int:
        count = reconcile(self.tools, self.engine, is_start=False)
        self.engine.run()
        return count

    def state(self) -> str:
        with self.database.read() as connection:
            return str(views.list_studies(connection)[0]["state"])

    def held(self) -> list[str]:
        with self.database.read() as connection:
            return [row["id"] for row in views.held(connection)]

    def states(self, table: Any = deliveries) -> list[str]:
        return [row["state"] for row in self.rows(table)]

    def ids(self, destination: str, state: str) -> list[int]:
        return [d["id"] for d in self.rows(deliveries) if (d["destination"], d["state"]) == (destination, state)]

    def change(self, table: Any, **values: Any) -> None:
        with self.database.write() as connection:
            connection.execute(update(table).values(**values))

    def nothing_is_left(self) -> None:
        """No run and no delivery waits for a job that nobody will put, and no attempt is open."""
        assert self.reconcile() == 0
        assert self.engine.errors == {}
        assert not {"queued", "running"} & set(self.states(runs))
        assert "sending" not in self.states()
        assert all(row["ended_at"] for row in self.rows(attempts))


class Trouble:
    """Stands between the road and its destinations: raises what it is told for the next sends to a destination."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue: dict[str, list[Exception]] = {}
        self.sent: list[tuple[int, str, str]] = []
        real = deliver_stage._send

        def send(tools: Any, run_id: int, name: str, row: Any, *, tries: int) -> dict[str, Any]:
            if self.queue.get(name):
                raise self.queue[name].pop(0)
            confirmation = real(tools, run_id, name, row, tries=tries)
            self.sent.append((run_id, name, row["kind"]))
            return confirmation

        monkeypatch.setattr(deliver_stage, "_send", send)


def down(times: int) -> list[Exception]:
    return [PeerTrouble("down") for _ in range(times)]
