"""What a platform is told when a request of its own is over: ids and a state, nothing about a patient."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from dicom_node.delivery import OutgoingCall
from dicom_node.words import RunState

FINISHED = "request.finished"

_STATES: Mapping[str, str] = {
    RunState.BUILT.value: "completed",
    RunState.REFUSED.value: "refused",
    RunState.FAILED.value: "failed",
    RunState.CANCELLED.value: "cancelled",
}
"""State of a request that is over -> the word that its answer says."""


def finished_call(row: RowMapping | Mapping[str, Any]) -> OutgoingCall:
    """The call about the end of a request; one that was started again and ended again is another event."""
    public_id, over = str(row["public_id"]), str(row["finished_at"])
    told = {"id": public_id, "status": _STATES[row["state"]], "result": f"/api/v1/results/{public_id}"}
    if row["refusal"] and row["state"] == RunState.REFUSED.value:
        told["code"] = str(row["refusal"]["code"])
    event = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:ainode:prediction:{public_id}:{over}")
    return OutgoingCall(id=f"evt_{event.hex}", kind=FINISHED, happened_at=over, data=told)
