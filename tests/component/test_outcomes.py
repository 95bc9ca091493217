"""Outcomes of lesions: only what can be true is kept, corrections stand beside what they correct, figures follow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from dicom_node import diagnoses
from dicom_node.cli import app
from dicom_node.desks import model_audit
from dicom_node.record import Database, audit, outcomes, tables
from dicom_node.record.outcomes import REASONS, Outcome, OutcomeRefused, told
from dicom_node.record.timeline import timeline
from tests.support.cases import ASKED, Clinic, said

pytestmark = pytest.mark.component


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    database = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    database.migrate()
    yield Clinic(database, tmp_path / "artefacts")
    database.close()


@pytest.mark.parametrize(
    ("diagnosis", "on_date", "malignant", "reason"),
    [
        ("cancer", "2026-03-09", None, "diagnosis-unknown"),
        ("", "2026-03-09", None, "diagnosis-unknown"),
        ("naevus", "2026-03-09", True, "contradiction"),
        ("actinic-keratosis", "2026-03-09", False, "contradiction"),
        ("naevus", "09.03.2026", None, "date-unclear"),
        ("naevus", "20260309", None, "date-unclear"),
        ("naevus", "2026-02-30", None, "date-unclear"),
        ("naevus", (datetime.now(UTC) + timedelta(days=3)).date().isoformat(), None, "date-in-future"),
        ("naevus", "2026-02-27", None, "date-before-photograph"),
    ],
)
def test_what_cannot_be_true_is_not_taken(diagnosis: str, on_date: str, malignant: bool | None, reason: str) -> None:
    with pytest.raises(OutcomeRefused) as refused:
        told(diagnosis, on_date, malignant, ASKED)
    assert refused.value.reason == reason
    assert str(refused.value) == REASONS[reason]


def test_every_diagnosis_is_malignant_or_benign_and_melanoma_is_malignant() -> None:
    assert set(diagnoses.MALIGNANT).isdisjoint(diagnoses.BENIGN)
    assert set(diagnoses.MELANOMAS) <= set(diagnoses.MALIGNANT)
    for one in diagnoses.DIAGNOSES:
        assert told(one, "2026-03-09", one in diagnoses.MALIGNANT, ASKED).malignant is (one in diagnoses.MALIGNANT)


def test_the_latest_counts_and_the_one_before_stays(clinic: Clinic) -> None:
    with clinic.database.write() as connection:
        row = clinic.answer(connection, said(0.4))
        who = {"actor": "user:one", "user_id": clinic.user(connection)}
        first, second = Outcome("naevus", "2026-03-09"), Outcome("melanoma", "2026-03-12")
        assert outcomes.write(connection, row, first, source="page", **who)
        assert not outcomes.write(connection, row, first, source="csv", **who), "told again is not told twice"
        assert outcomes.write(connection, row, second, source="csv", **who)
    with clinic.database.read() as connection:
        assert outcomes.latest(connection, [row["id"]])[row["id"]]["diagnosis"] == "melanoma"
        assert connection.execute(select(func.count()).select_from(tables.outcomes)).scalar_one() == 2
        entries = connection.execute(select(tables.audit).where(tables.audit.c.action == "outcome-written")).all()
        assert [entry.actor for entry in entries] == ["user:one", "user:one"]
        assert "melanoma" not in json.dumps([entry.detail for entry in entries]), "who did what, not what was found"
        assert audit.verify(connection) is None
        events = [event for event in timeline(connection, row["study_uid"]) if event["name"] == "outcome.written"]
        assert [event["detail"]["corrects"] for event in events] == [False, True]


def filled(clinic: Clinic) -> None:
    """34 malignant, 31 of them flagged; 40 benign, 10 flagged; two of another version; others that do not count."""
    with clinic.database.write() as connection:
        user = clinic.user(connection)

        def add(count: int, value: float, diagnosis: str, version: str = "1.0.0", **known: object) -> None:
            for _ in range(count):
                row = clinic.answer(connection, said(value, version=version), **known)
                if diagnosis:
                    one = Outcome(diagnosis, "2026-03-20")
                    outcomes.write(connection, row, one, source="csv", actor="user:one", user_id=user)

        add(31, 0.6, "basal-cell-carcinoma", impression="benign")
        add(3, 0.01, "melanoma", impression="suspicious")
        add(10, 0.3, "naevus")
        add(30, 0.02, "seborrhoeic-keratosis")
        add(7, 0.02, "")
        add(2, 0.7, "melanoma", version="1.1.0")
        add(5, 0.9, "naevus", created_at="2025-12-31T23:00:00.000000+00:00")
        add(4, 0.9, "naevus", withdrawn_at=ASKED, state="withdrawn")
        clinic.analysis(connection)
        clinic.answer(connection, None)


def test_a_model_is_audited_on_what_became_of_the_lesions(clinic: Clinic) -> None:
    filled(clinic)
    found = model_audit.audit_model(clinic.database, clinic.artefacts, "skin-lesion", "2026-01-01")
    assert (found["answered"], found["with_outcome"], found["unreadable"]) == (84, 76, 1)
    first, second = found["versions"]
    assert (first["version"], first["answered"], second["version"]) == ("skin-lesion@1.0.0", 81, "skin-lesion@1.1.0")
    malignant = first["outputs"]["malignant"]
    assert malignant["sensitivity"]["value"] == pytest.approx(31 / 34)
    assert malignant["specificity"]["value"] == pytest.approx(30 / 40)
    assert "too_few" in malignant["calibration"]
    assert first["disagreement"]["flagged_against_benign"]["yield"]["value"] == 1.0
    assert first["disagreement"]["unflagged_against_suspicious"]["malignant"] == 3
    assert first["outputs"]["melanoma"]["positive"] == 3, "a carcinoma is no melanoma"
    assert "too_few" in second["outputs"]["malignant"]["sensitivity"]


def test_another_model_whose_name_begins_alike_is_another_model(clinic: Clinic) -> None:
    filled(clinic)
    assert model_audit.audit_model(clinic.database, clinic.artefacts, "skin", "2026-01-01")["answered"] == 0
    assert model_audit.audit_model(clinic.database, clinic.artefacts, "skin%", "2026-01-01")["answered"] == 0


def test_lesions_of_one_patient_go_together_and_strangers_do_not(clinic: Clinic) -> None:
    someone = {"id": "7", "type": "rut", "system": "urn:x", "issuer": "X"}
    with clinic.database.write() as connection:
        for known in ({"patient": someone}, {"patient": dict(someone)}, {"pseudonym": "A"}, {"pseudonym": "B"}):
            row = clinic.answer(connection, said(0.6), **known)
            one = Outcome("melanoma", "2026-03-20")
            outcomes.write(connection, row, one, source="api", actor="key:lab", user_id=None)
    (version,) = model_audit.audit_model(clinic.database, clinic.artefacts, "skin-lesion", "2026-01-01")["versions"]
    assert version["outputs"]["malignant"]["patients"] == 3


def test_the_command_says_the_same_in_words_and_refuses_a_name_that_nothing_has(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'data' / 'records.sqlite'}")
    database.migrate()
    clinic = Clinic(database, tmp_path / "data" / "artefacts")
    filled(clinic)
    config = tmp_path / "node.yaml"
    config.write_text(f"data: {{folder: {tmp_path / 'data'}}}\nengine: {{models: {tmp_path / 'models'}}}\n")

    def call(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["--config", str(config), "audit-model", *words])
        return result.exit_code, result.output

    code, text = call("skin-lesion", "--since", "2026-01-01")
    assert code == 0, text
    assert "sensitivity: 0.912" in text
    assert "calibration: too few: 34 lesions of each kind" in text
    assert "doctor benign, model at or above a threshold: 31 of 31" in text
    code, text = call("skin-lesion", "--since", "2026-01-01", "--json")
    assert json.loads(text)["with_outcome"] == 76
    assert call("skin-leson", "--since", "2026-01-01")[0] == 3
    assert call("skin-lesion", "--since", "1.1.2026")[0] == 2
    database.close()
