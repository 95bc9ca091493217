"""What LUNA's clients read of an analysis that is over: legacy names for what the record says, else no number."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import update

from dicom_node.record.tables import analyses
from dicom_node.refusals import RefusalCode
from portal.luna.schemas import Analysis
from tests.support.clinics import PASSWORD, Clinic

pytestmark = pytest.mark.component

EMAIL = "ana@post.example"
MELANOMA_THRESHOLD = 0.06868
NUMBERS = ("result", "isMelanoma", "melanomaThreshold", "malignancy", "isMalignancyAboveThreshold",
           "malignancyThreshold", "analysisDate")  # fmt: skip


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    made = Clinic(tmp_path_factory.mktemp("clinic"))
    made.account(EMAIL)
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def client(clinic: Clinic) -> TestClient:
    made = TestClient(clinic.app, base_url="http://127.0.0.1")
    token = made.post("/signin", json={"email": EMAIL, "password": PASSWORD}).json()["token"]
    made.headers["Authorization"] = f"Bearer {token}"
    return made


def read(client: TestClient, row: dict[str, Any], **headers: str) -> dict[str, Any]:
    told: dict[str, Any] = client.get(f"/api/getAnalysis/{row['public_id']}", headers=headers).json()
    Analysis.model_validate(told)
    return told


@pytest.mark.parametrize(
    ("melanoma", "is_above"), [(0.9, True), (MELANOMA_THRESHOLD, True), (0.0686, False), (0.0, False)]
)
def test_result_is_the_probability_of_melanoma(
    clinic: Clinic, client: TestClient, melanoma: float, is_above: bool
) -> None:
    row = clinic.ask(EMAIL, description="back")
    clinic.answer(row, malignant=0.95, melanoma=melanoma)
    told = read(client, row)
    assert told["state"] == "completed" and told["result"] == pytest.approx(melanoma)
    assert told["isMelanoma"] is is_above is (told["result"] >= told["melanomaThreshold"])
    assert told["malignancy"] == pytest.approx(0.95) and told["isMalignancyAboveThreshold"]
    assert told["creationDate"] == row["created_at"] and told["analysisDate"] > told["creationDate"]
    assert told["model"] == "skin-lesion@1.0.0" and "not a diagnosis" in told["disclaimer"]
    with Image.open(io.BytesIO(base64.b64decode(told["image"]))) as picture:
        assert picture.format == "JPEG" and not picture.getexif()
    (listed,) = (one for one in client.get("/api/me/getAnalysisList").json() if one["id"] == row["public_id"])
    assert listed == {**told, "image": None}


def test_what_was_looked_at_is_audited(clinic: Clinic, client: TestClient) -> None:
    row = clinic.ask(EMAIL)
    clinic.answer(row, malignant=0.1, melanoma=0.1)
    before = clinic.acts()
    client.get("/api/me/getAnalysisList")
    assert clinic.acts()[len(before) :] == ["analysis-results-listed"], "a list shows results and no picture"
    read(client, row)
    assert clinic.acts()[len(before) + 1 :] == ["analysis-revealed", "analysis-result-seen"]


def test_a_picture_that_was_refused_has_no_number(clinic: Clinic, client: TestClient) -> None:
    row = clinic.ask(EMAIL)
    clinic.refuse(row, RefusalCode.IMAGE_TOO_BLURRED)
    told = read(client, row)
    assert told["state"] == "refused" and [told[name] for name in NUMBERS] == [None] * len(NUMBERS)
    assert told["refusal"]["code"] == "image-too-blurred" and "hold still" in told["refusal"]["advice"]
    spanish = read(client, row, **{"Accept-Language": "es"})
    assert "no se mueva" in spanish["refusal"]["advice"] and "rechazada" in spanish["message"]


def test_what_was_withdrawn_has_no_number_any_more(clinic: Clinic, client: TestClient) -> None:
    row = clinic.ask(EMAIL)
    clinic.answer(row, malignant=0.9, melanoma=0.9)
    assert read(client, row)["isMelanoma"]
    with clinic.database.write() as connection:
        connection.execute(update(analyses).where(analyses.c.id == row["id"]).values(state="withdrawn"))
    told = read(client, row)
    assert told["state"] == "withdrawn" and [told[name] for name in NUMBERS] == [None] * len(NUMBERS)


def test_the_newest_is_the_first(clinic: Clinic, client: TestClient) -> None:
    made = [clinic.ask(EMAIL)["public_id"] for _ in range(3)]
    assert [one["id"] for one in client.get("/api/me/getAnalysisList").json()][:3] == made[::-1]
