"""Rows of people, analyses and answers, for tests of what comes after an answer: no road, no picture."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from ai_engine.classification import ABOVE, BELOW
from ai_engine.findings import Code, Findings, Measurement, ModelIdentity, Observation
from dicom_node import files
from dicom_node.record import Database, tables
from tests.support.rows import add_row

ASKED = "2026-03-02T10:00:00.000000+00:00"
PERCENT, ONE = Code("%", "UCUM", "percent"), Code("1", "UCUM", "no units")
SKIN = Code("39937001", "SCT", "Skin")


@dataclass
class Clinic:
    """A record with one user, and a folder for what runs said."""

    database: Database
    artefacts: Path
    number: int = 0

    def user(self, connection: Connection, email: str = "gp@example.org", **known: Any) -> int:
        """An account; the same one for the same e-mail."""
        found = connection.execute(tables.users.select().where(tables.users.c.email == email)).first()
        if found is not None:
            return int(found.id)
        values = {"roles": ["clinician"], "sites": ["post-1"], "state": "active", "language": "en", **known}
        public = hashlib.sha256(email.encode()).hexdigest()[:32]
        return add_row(connection, tables.users, email=email, public_id=public, **values)

    def analysis(self, connection: Connection, **known: Any) -> dict[str, Any]:
        """An analysis as its row; without `study_uid` nobody has answered it."""
        self.number += 1
        values: dict[str, Any] = {
            "public_id": f"{self.number:032x}",
            "user_id": self.user(connection),
            "site": "post-1",
            "state": "submitted",
            "is_identified": False,
            "consent": "care",
            "created_at": ASKED,
            **known,
        }
        number = add_row(connection, tables.analyses, **values)
        row = connection.execute(tables.analyses.select().where(tables.analyses.c.id == number)).mappings().one()
        return dict(row)

    def answer(self, connection: Connection, findings: Findings | None, **known: Any) -> dict[str, Any]:
        """An analysis that a model answered so; None: whose answer is lost."""
        self.number += 1
        study = f"2.25.{self.number}"
        add_row(connection, tables.studies, uid=study, public_id=f"{self.number:032x}")
        name = "skin-lesion@1.0.0" if findings is None else f"{findings.model.name}@{findings.model.version}"
        case = add_row(connection, tables.cases, study_uid=study, case_key=study, state="ready", model=name)
        run = add_row(
            connection, tables.runs, study_uid=study, case_id=case, run_key=study, state="built", created_at=ASKED
        )
        sha256, path = "0" * 64, "none"
        if findings is not None:
            sha256, path = files.keep(self.artefacts, json.dumps(findings.to_json()).encode())
        add_row(connection, tables.artefacts, run_id=run, kind="findings", sha256=sha256, path=path, attempt=1)
        return self.analysis(connection, study_uid=study, **known)


def said(malignant: float, melanoma: float = 0.01, *, version: str = "1.0.0", threshold: float = 0.05) -> Findings:
    """What the shipped kind of classifier says: two calibrated outputs."""
    model = ModelIdentity("skin-lesion", version, version * 8, "Skin", "torch", "openvino", "CPU", "f32")
    values = {"malignant": malignant, "melanoma": melanoma}
    return Findings(model, observations=tuple(_observed(key, value, threshold) for key, value in values.items()))


def _observed(key: str, value: float, threshold: float) -> Observation:
    name = Code(key.upper(), "99AINODE", f"Model-estimated probability of {key}")
    side = ABOVE if value >= threshold else BELOW
    measured = (Measurement("probability", name, 100 * value, PERCENT),)
    return Observation(key, name, SKIN, SKIN, measured, side, 100 * threshold)
