"""Requests over HTTP when nobody looks: kept while results are on their way, held, forgotten, repeated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import update

from dicom_node.desks.predictions import Asked, Predictions
from dicom_node.record import Database, predictions, tables, workers
from dicom_node.record.predictions import NewPrediction
from dicom_node.refusals import Refused
from dicom_node.settings import Settings
from dicom_node.stages.prediction_care import hold_homeless, throw_away

pytestmark = pytest.mark.unit

LONG_AGO = "2001-01-01T00:00:00.000000+00:00"
ASKED = NewPrediction("clinic", "tiny", "tiny@1.0.0", [], {}, "b" * 64, idempotency_key="k-1")


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[SimpleNamespace]:
    archive = {"kind": "folder", "path": tmp_path / "archive"}
    settings = Settings(data={"folder": tmp_path / "data"}, destinations={"archive": archive})
    database = Database(settings.records_url)
    database.migrate()
    with database.write() as connection:
        predictions.add(connection, [ASKED])
    yield SimpleNamespace(settings=settings, database=database)
    database.close()


def end_with(tools: SimpleNamespace, **transfers: str) -> None:
    told = {name: {"state": state, "tries": 1} for name, state in transfers.items()}
    with tools.database.write() as connection:
        values = {"state": "built", "finished_at": LONG_AGO, "transfers": told or None}
        connection.execute(update(tables.predictions).values(**values))


def transfers(tools: SimpleNamespace) -> dict[str, dict[str, object]]:
    with tools.database.read() as connection:
        return dict(predictions.by_id(connection, 1)["transfers"])


def test_results_on_their_way_somewhere_are_not_thrown_away(tools: SimpleNamespace) -> None:
    end_with(tools, archive="pending")
    assert throw_away(tools) == 0
    end_with(tools, archive="confirmed")
    assert throw_away(tools) == 1


def test_a_transfer_to_a_destination_that_is_gone_is_held(tools: SimpleNamespace) -> None:
    end_with(tools, archive="pending", elsewhere="pending")
    hold_homeless(tools)
    assert {name: told["state"] for name, told in transfers(tools).items()} == {
        "archive": "pending",
        "elsewhere": "held",
    }
    assert "not configured" in str(transfers(tools)["elsewhere"]["reasons"])


def test_readiness_sees_requests_that_wait_and_the_work_on_them(tools: SimpleNamespace) -> None:
    with tools.database.write() as connection:
        assert workers.oldest_waiting(connection) == predictions.by_id(connection, 1)["created_at"]
        assert workers.last_progress(connection) is None  # that it was accepted is no work
        predictions.tell(connection, 1, "prediction.infer", attempt=1)
        moved_at = workers.last_progress(connection)
        assert moved_at is not None
        predictions.cancel(connection, 1)
        assert (workers.oldest_waiting(connection), workers.last_progress(connection)) == (None, moved_at)


def test_an_idempotency_key_stands_for_one_model_and_one_kind_of_call(tools: SimpleNamespace) -> None:
    desk = Predictions(tools.settings, tools.database, lambda put: None)
    same = Asked("clinic", "tiny", [], idempotency_key="k-1", body_sha256="b" * 64)
    assert [row["id"] for row in desk.repeated(same) or ()] == [1]
    for other in (
        replace(same, name="another"),
        replace(same, is_batch=True),
        replace(same, body_sha256="c" * 64),
    ):
        with pytest.raises(Refused) as refused:
            desk.repeated(other)
        assert refused.value.refusal.code.value == "idempotency-conflict"
    assert desk.repeated(replace(same, owner="somebody else")) is None
