"""Where what belongs to a request by HTTP lies, and whether anybody still wants it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

from dicom_node.record import predictions
from dicom_node.record.predictions import Turn
from dicom_node.spool import Spool
from dicom_node.stages.context import Tools


class UploadsGone(Exception):
    """The images of a request were kept for their time, and are no more."""


def folder_of(tools: Tools, row: RowMapping | Mapping[str, Any]) -> Path:
    """Where everything of one request lies."""
    return tools.settings.data.folder / "predictions" / str(row["public_id"])


def spool_of(tools: Tools) -> Spool:
    """Where the uploads of requests lie."""
    return Spool(tools.settings.data.folder / "spool")


def is_wanted(tools: Tools, turn: Turn) -> bool:
    """Whether this start of a request is still the one whose effects count."""
    with tools.database.read() as connection:
        return predictions.is_current(connection, turn)
