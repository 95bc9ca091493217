"""Schemathesis against the OpenAPI document of the prediction API: no 5xx, documented statuses, true schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_packages import make_tiny_package
from tests.support.api import ApiNode, head, nifti
from tests.support.schemas import judged

pytestmark = pytest.mark.component


EXCLUDED: list[Any] = [
    # a form that fits the document may still hold what is no image: that is what 422 is for
    positive_data_acceptance,
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    folder = tmp_path_factory.mktemp("schema")
    make_tiny_package(folder / "models", role="t1c")
    make_tiny_classifier(folder / "models")
    many = {"requests_per_minute": 1_000_000, "images_per_minute": 1_000_000, "max_waiting_per_key": 1_000_000,
            "max_waiting": 1_000_000, "wait_s": 5.0,
            "aliases": {"nnUNet": {"model": "tiny-bright", "default_role": "t1c"},
                        "skin-lesion": {"model": "tiny-classifier"}}}  # fmt: skip
    made = ApiNode(folder / "node", folder / "models", api=many)
    yield made
    made.close()


@pytest.fixture(scope="module")
def api(node: ApiNode) -> Any:
    headers = {"X-API-Key": node.key, "Host": "127.0.0.1"}
    made = schemathesis.openapi.from_asgi("/openapi.json", node.app, headers=headers, config=judged())
    return made.include(tag="Predictions")


OPERATIONS = (
    "POST /api/v1/predict/skin-lesion",
    "POST /api/v1/predict/{model}",
    "POST /api/v1/predict/{model}/batch",
    "GET /api/v1/results/{id}",
    "POST /api/v1/results/{id}/cancel",
    "GET /api/v1/results/{id}/events",
    "GET /api/v1/results/{id}/files/{name}",
    "GET /api/v1/batches/{id}",
    "GET /api/v1/health",
    "GET /api/v1/models",
)


def operations(api: Any) -> dict[str, Any]:
    return {found.ok().label: found.ok() for found in api.get_all_operations()}


def test_every_operation_is_tried(api: Any) -> None:
    assert set(operations(api)) == set(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_api_is_as_its_document_says(api: Any, node: ApiNode, label: str, mode: Any) -> None:
    operation = operations(api)[label]
    try:
        cases = operation.as_strategy(generation_mode=mode)
    except Unsatisfiable:  # nothing about this operation can be wrong
        return

    @given(case=cases)
    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def try_it(case: Any) -> None:
        case.call_and_validate(headers={"X-API-Key": node.key, "Host": "127.0.0.1"}, excluded_checks=EXCLUDED)

    try:
        try_it()
    except Unsatisfiable:
        return


def test_every_route_asks_for_its_permission(node: ApiNode) -> None:
    document = node.client().get("/openapi.json").json()
    paths = {path: list(methods) for path, methods in document["paths"].items() if path.startswith("/api/v1")}
    assert len(paths) >= 10
    stranger = node.client(key="", local=False)
    for path, methods in paths.items():
        for method in methods:
            url = path.replace("{model}", "nnUNet").replace("{id}", "0" * 32).replace("{name}", "mask.nii.gz")
            assert stranger.request(method.upper(), url).status_code == 401, path


def test_a_real_answer_fits_the_document(node: ApiNode, tmp_path: Path) -> None:
    from portal.api.schemas import Answer, BatchAnswer

    image = nifti(head(), tmp_path / "a.nii.gz").read_bytes()
    client = node.client()
    Answer.model_validate(client.post("/api/v1/predict/nnUNet", files={"image": image}).json())
    files = [("images", image), ("images", b"junk")]
    BatchAnswer.model_validate(client.post("/api/v1/predict/nnUNet/batch", files=files).json())
