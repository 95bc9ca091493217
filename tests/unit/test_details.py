"""What stands in the details of events, jobs and the audit log has words on a page, and a person's words stay hers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC
from typing import get_args

import pytest

from dicom_node.permissions import Role
from dicom_node.record import reviews
from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.routing.gate import Channel
from dicom_node.routing.route import Exclusion
from dicom_node.words import DeliveryState, Grade, ObjectKind, Publish
from portal.pages.details import coded, deed, details
from portal.pages.language import Translator
from tests.support.sentences import Module, called, modules

pytestmark = pytest.mark.unit

ENGLISH, SPANISH = Translator("en", UTC), Translator("es", UTC)
UNSHOWN = {"study_uid", "series_uid", "run_id"}
"""Columns of an event, and no detail of it."""
MADE_OF = {
    "action": {
        "held.released", "held.rejected", "job.retried", "job.cancelled",
        "second-factor-removed", "second-factor-reset",
        "analysis-revealed", "analysis-result-seen", "analysis-exported",
    },
    "f'case-{state}'": {f"case-{state}" for state in reviews.STATES},
    "f\"user-{('disabled' if state == DISABLED else 'enabled')}\"": {"user-disabled", "user-enabled"},
    "f'{access.action}-{access.kind}'": {
        "read-DiagnosticReport", "search-Observation", "read-AuditEvent", "search-AuditEvent",
        "dicomweb-ImagingStudy", "read-prediction-file", "export-prediction-file",
    },
}  # fmt: skip
"""Where an action is no literal: what it may be."""


def calls(source: list[Module]) -> Iterator[tuple[ast.Call, str]]:
    """Every entry of a timeline and of the audit log, with its name or action as it is written."""
    for module in source:
        for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
            is_note = called(call) == "note" and len(call.args) >= 3
            if is_note or called(call) == "write_down" or ast.unparse(call.func) == "audit.append":
                yield call, "" if is_note else ast.unparse(call.args[1 if called(call) == "write_down" else 2])


@pytest.fixture(scope="module")
def entries() -> list[tuple[ast.Call, str]]:
    return list(calls(modules(("dicom_node", "portal"))))


def test_every_key_of_a_detail_has_a_word(entries: list[tuple[ast.Call, str]]) -> None:
    keys = {word.arg for call, _ in entries for word in call.keywords if word.arg} - UNSHOWN
    assert len(keys) > 70
    for words in (ENGLISH, SPANISH):
        assert not sorted(key for key in keys if not words.has(f"details.{key}"))


def test_every_action_of_the_audit_log_has_a_word(entries: list[tuple[ast.Call, str]]) -> None:
    actions: set[str] = set()
    for _, told in entries:
        if told.startswith("'"):
            actions.add(ast.literal_eval(told))
        elif told:
            actions |= MADE_OF[told]
    assert len(actions) > 50
    for words in (ENGLISH, SPANISH):
        assert not sorted(one for one in actions if deed(one, words) == one)


def test_every_code_in_a_detail_has_a_word() -> None:
    codes = [*Grade, *ObjectKind, *Publish, *DeliveryState, *Role, *Channel, *get_args(Exclusion), *reviews.STATES]
    assert len(codes) > 30
    for words in (ENGLISH, SPANISH):
        assert not sorted(str(code) for code in codes if not words.has(f"details.code_{code}"))
    assert coded(RefusalCode.SLICES_MISSING.value, SPANISH) == "Falta un corte entre otros"


def test_details_are_told_in_the_readers_language() -> None:
    refusal = Refusal(RefusalCode.TOO_LARGE, "at most 120 bytes", "130 bytes").to_json()
    told = {
        "grade": "weak",
        "seconds": {"network": 3.25},
        "from_cache": False,
        "reason": "the report on the FHIR server keeps changing",
        "until": "2026-11-22T12:05:09+00:00",
        "refusal": refusal,
        "differing": [],
        "reasons": ["no role", "the study names a phantom or a test of quality"],
        "route": "brain-flair",
    }
    assert details(told, SPANISH) == (
        "integridad: nadie contó; segundos: (red: 3,25); ya respondido antes: no; motivo: el informe en el servidor "
        "FHIR cambia una y otra vez; hasta: 22 nov 2026, 12:05:09; rechazo: La entrada es mayor que el límite · "
        "se esperaba: como máximo 120 bytes · se encontró: 130 bytes; motivos: ningún rol; el estudio nombra un "
        "fantoma o una prueba de calidad; ruta: brain-flair"
    )
    assert details(told, ENGLISH).startswith(
        "completeness: nobody counted; seconds: (network: 3.25); answered before: no"
    )


def test_what_a_person_wrote_stays_as_she_wrote_it() -> None:
    written = "asked for by a court, at most 3 files"  # which the words for "{} for {}" would make nonsense of
    assert details({"reason": written}, SPANISH, person=True) == f"motivo: {written}"
    assert details({"actor": "cli", "reason": written}, SPANISH) == f"por: línea de comandos; motivo: {written}"
    assert details({"reason": "no role"}, SPANISH) == "motivo: ningún rol"
