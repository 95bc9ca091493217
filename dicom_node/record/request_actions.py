"""What a person may do with requests by HTTP (``request-…``) and with their transfers (``transfer-…``).

A request that is started again begins with the reading of its images; one whose images are not kept any more ends as
failed, and says so.  Its owner finds each act among its events.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from dicom_node.record import circuits, transfers
from dicom_node.record import predictions as requests
from dicom_node.record.acts import Job, UnknownItem, number_of, write_down
from dicom_node.record.tables import predictions
from dicom_node.record.transfers import CANCELLED, FAILED, HELD, PENDING, Transfer
from dicom_node.words import RunState

KINDS = ("request", "transfer")


def release(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Let a held transfer go on."""
    transfer = _transfer(connection, item, HELD)
    return [_again(connection, transfer, item, "held.released", actor, reason)]


def reject(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Decide that a held transfer is not made."""
    _stop(connection, _transfer(connection, item, HELD), item, "held.rejected", actor, reason)
    return []


def retry(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Start a failed or cancelled request or transfer again."""
    kind, _, key = item.partition("-")
    if kind == "transfer":
        transfer = _transfer(connection, item, FAILED, CANCELLED, PENDING)
        return [_again(connection, transfer, item, "job.retried", actor, reason)]
    row = connection.execute(select(predictions).where(predictions.c.id == number_of(key))).mappings().first()
    if row is None or row["state"] not in (RunState.FAILED.value, RunState.CANCELLED.value):
        raise UnknownItem(f"{item}: no failed or cancelled request of that name; `ai-node jobs list` shows them")
    requests.begin_again(connection, row["id"])
    number = write_down(connection, "job.retried", actor, reason, item, row["study_uid"], request=row["public_id"])
    key = f"predict/{row['id']}/{requests.FIRST_STAGE}/act-{number}"
    return [("cpu", "predict", key, (row["id"], requests.FIRST_STAGE))]


def cancel(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Stop a request, or a transfer that was not made yet."""
    kind, _, key = item.partition("-")
    if kind == "transfer":
        _stop(connection, _transfer(connection, item, PENDING, FAILED, HELD), item, "job.cancelled", actor, reason)
        return []
    row = connection.execute(select(predictions).where(predictions.c.id == number_of(key))).mappings().first()
    if row is None or not requests.cancel(connection, row["id"]):
        raise UnknownItem(f"{item}: no running or queued request of that name; `ai-node jobs list` shows them")
    write_down(connection, "job.cancelled", actor, reason, item, row["study_uid"], request=row["public_id"])
    return []


def _transfer(connection: Connection, item: str, *states: str) -> Transfer:
    number, _, name = item.partition("-")[2].partition("-")
    found = transfers.find(connection, number_of(number), name)
    if found is None or found.state not in states:
        raise UnknownItem(f"{item}: expected a transfer that is {', '.join(states)}; the lists show them")
    return found


def _again(connection: Connection, transfer: Transfer, item: str, action: str, actor: str, reason: str) -> Job:
    transfers.decide(connection, transfer, PENDING)
    circuits.probe_now(connection, transfer.destination)
    number = _note(connection, transfer, PENDING, item, action, actor, reason)
    name = transfer.destination
    args = (transfer.number, "send", name)
    return f"out-{name}", "predict", f"predict/{transfer.number}/send-{name}/act-{number}", args


def _stop(connection: Connection, transfer: Transfer, item: str, action: str, actor: str, reason: str) -> None:
    transfers.decide(connection, transfer, CANCELLED)
    _note(connection, transfer, CANCELLED, item, action, actor, reason)


def _note(
    connection: Connection, transfer: Transfer, state: str, item: str, action: str, actor: str, reason: str
) -> int:
    requests.tell(
        connection,
        transfer.number,
        "prediction.transfer",
        destination=transfer.destination,
        state=state,
        tries=transfer.tries,
    )
    row = transfer.row
    return write_down(connection, action, actor, reason, item, row["study_uid"], request=row["public_id"])
