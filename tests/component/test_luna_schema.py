"""Schemathesis against the LUNA part of the OpenAPI document: no 5xx, documented statuses, true schemas."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dicom_node.desks.people import LUNA, People
from dicom_node.record import people
from portal.luna import KEY_FILE, KeyFile, Tokens
from portal.luna.schemas import Account, Analysis, SignedIn
from tests.support.luna import IMAGE, Luna, luna_node
from tests.support.schemas import judged

pytestmark = pytest.mark.component

EXCLUDED: list[Any] = [
    # a body that fits the document may still hold what is no picture, no address, no password of anybody
    positive_data_acceptance,
]
WHO = {
    "POST /signin": "",
    "POST /api/auth/signup": "root",
    "POST /logout": "ana",
    "GET /api/me": "ana",
    "POST /api/imageProcess": "ana",
    "GET /api/me/getAnalysisList": "ana",
    "GET /api/getAnalysis/{id}": "ana",
}


@pytest.fixture(scope="module")
def luna(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luna]:
    many = {"requests_per_minute": 1_000_000, "images_per_minute": 1_000_000}
    made = luna_node(tmp_path_factory.mktemp("schema"), **many, max_waiting_per_key=1_000_000, max_waiting=1_000_000)
    yield made
    made.node.close()


@pytest.fixture(scope="module")
def api(luna: Luna) -> Any:
    headers = {"X-API-Key": luna.node.key, "Host": "127.0.0.1"}
    made = schemathesis.openapi.from_asgi("/openapi.json", luna.node.app, headers=headers, config=judged())
    return made.include(tag="LUNA")


def operations(api: Any) -> dict[str, Any]:
    return {found.ok().label: found.ok() for found in api.get_all_operations()}


class Callers:
    """A token for each call: some calls end theirs."""

    def __init__(self, luna: Luna) -> None:
        settings = luna.node.settings
        self._luna = luna
        self._people = People(settings.people, luna.node.database)
        issuer = f"urn:uuid:{settings.node.site_namespace}"
        self._tokens = Tokens(KeyFile(settings.data.folder / KEY_FILE), issuer, timedelta(hours=8))

    def headers(self, name: str) -> dict[str, str]:
        if not name:
            return {"Host": "127.0.0.1"}
        with self._luna.node.database.read() as connection:
            user = people.user_of_public_id(connection, self._luna.ids[name])
        assert user is not None
        person, secret = self._people.open_session(user, LUNA, timedelta(hours=8))
        return {"Host": "127.0.0.1", "Authorization": f"Bearer {self._tokens.issue(person.public_id, secret).token}"}


def test_every_operation_is_tried(api: Any) -> None:
    assert set(operations(api)) == set(WHO)


@pytest.mark.parametrize("label", WHO)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_api_is_as_its_document_says(api: Any, luna: Luna, label: str, mode: Any) -> None:
    callers = Callers(luna)
    try:
        cases = operations(api)[label].as_strategy(generation_mode=mode)
    except Unsatisfiable:  # nothing about this operation can be wrong
        return

    @given(case=cases)
    @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def try_it(case: Any) -> None:
        case.call_and_validate(headers=callers.headers(WHO[label]), excluded_checks=EXCLUDED)

    try:
        try_it()
    except Unsatisfiable:
        return


def test_real_answers_fit_the_document(luna: Luna) -> None:
    ana = luna.as_("ana")
    SignedIn.model_validate(luna.sign_in("ana").json())
    Account.model_validate(ana.get("/api/me").json())
    sent = ana.post("/api/imageProcess", json={"image": IMAGE, "patientId": "12345678-5"}).json()
    Analysis.model_validate(sent)
    Analysis.model_validate(ana.get(f"/api/getAnalysis/{sent['id']}").json())
    for one in ana.get("/api/me/getAnalysisList").json():
        Analysis.model_validate(one)
