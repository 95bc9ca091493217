"""Schemathesis against the routes for analyses, as the OpenAPI document describes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dicom_node.record import keys
from tests.support.clinics import Clinic
from tests.support.schemas import judged

pytestmark = pytest.mark.component

EXCLUDED: list[Any] = [
    # what fits the document may still be no picture, nobody's identifier, or another day
    positive_data_acceptance,
]
PATHS = ("/api/v1/analyses", "/api/v1/patients")
OUTCOME = "POST /api/v1/analyses/{id}/outcome"
"""Walked by itself: ``test_outcome_schema.py``."""


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    made = Clinic(tmp_path_factory.mktemp("post") / "data", {"api": {"requests_per_minute": 1_000_000}})
    made.account("gp@post.example", "clinician")
    yield made
    made.database.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_route_is_as_its_document_says(post: Clinic, mode: Any) -> None:
    row = post.ask("gp@post.example", created_at="2000-03-02T10:00:00.000000+00:00")
    scopes = ["analysis:make", "analysis:own", "docs:read"]
    token = keys.create(post.database, mode.name.lower(), scopes, account="gp@post.example")
    headers = {"X-API-Key": token, "Host": "127.0.0.1"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", post.app, headers=headers, config=judged())
    found = {one.ok().label: one.ok() for one in schema.get_all_operations()}
    walked = [one for label, one in found.items() if label.split()[1].startswith(PATHS) and label != OUTCOME]
    assert len(walked) >= 8
    for operation in walked:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def try_it(case: Any) -> None:
            if mode is GenerationMode.POSITIVE and "id" in (case.path_parameters or {}):
                case.path_parameters["id"] = row["public_id"]
            case.call_and_validate(headers=headers, excluded_checks=EXCLUDED)

        try_it()
