"""Schemathesis against the route for outcomes, as the OpenAPI document describes it."""

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

LABEL = "POST /api/v1/analyses/{id}/outcome"
EXCLUDED: list[Any] = [
    # a body that fits the document may still speak of a day to come, or contradict itself
    positive_data_acceptance,
]


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    made = Clinic(tmp_path_factory.mktemp("post") / "data", {"api": {"requests_per_minute": 1_000_000}})
    made.account("lab@post.example", "service", name="Laboratory")
    made.account("gp@post.example", "clinician")
    yield made
    made.database.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_route_is_as_its_document_says(post: Clinic, mode: Any) -> None:
    row = post.ask("gp@post.example", created_at="2000-03-02T10:00:00.000000+00:00")
    scopes = ["outcome:write", "docs:read"]
    token = keys.create(post.database, mode.name.lower(), scopes, account="lab@post.example")
    headers = {"X-API-Key": token, "Host": "127.0.0.1"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", post.app, headers=headers, config=judged())
    operation = {found.ok().label: found.ok() for found in schema.get_all_operations()}[LABEL]
    seen = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def try_it(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            case.path_parameters["id"] = row["public_id"]
        seen.add(case.call_and_validate(headers=headers, excluded_checks=EXCLUDED).status_code)

    try_it()
    # which days are taken depends on the photograph's: the component test of the pages has those
    assert seen <= ({200, 201, 400} if mode is GenerationMode.POSITIVE else {400, 404, 405, 406, 413, 415, 422}), seen
    told = operation.Case(
        path_parameters={"id": row["public_id"]}, body={"diagnosis": "naevus", "on_date": "2001-03-09"},
        media_type="application/json",
    )  # fmt: skip
    assert told.call_and_validate(headers=headers).status_code in (200, 201)
