"""kill -9 of web, worker and listener while a photograph is on its way: nothing is lost, nothing is there twice.

The fail-points A1 to A3 stand in the desk (before and after its commit, after that of a withdrawal), S1 to S5 in the
stage that brings the object to the door, K4 and K5 in the door itself: every moment between two durable steps.  It
takes as long as ten processes take to start, one after the other: a death is survived by whoever comes after it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicom_node.record.tables import analyses, artefacts, deliveries, instances, revisions, runs, studies
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.support.clinic import RUT
from tests.support.clinic_site import DEADLINE_S, ClinicSite

pytestmark = pytest.mark.system

PATIENT = {"patient": f'{{"id": "{RUT}", "type": "rut", "name": "Doe^Jane", "confirmed": true}}'}
SAID = {**PATIENT, "kind": "dermoscopic", "consent": "care"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ClinicSite]:
    made = ClinicSite(tmp_path)
    yield made
    made.stop()


def killed(process: Any, site: ClinicSite) -> None:
    assert process.wait(DEADLINE_S) == -signal.SIGKILL, site.log.read_text()[-4000:]


@pytest.mark.timeout(400)
def test_every_moment_may_be_the_last_of_a_process(site: ClinicSite) -> None:
    http = site.client(site.clinic.ana, "ana")
    image = {"image": ("lesion.jpg", jpeg(drawn_lesion()))}
    url, once = f"{site.url}/analyses", {"Idempotency-Key": "phone-1"}

    for point in ("A1", "A2"):  # the sender is not answered, and sends again
        web = site.web(point)
        with pytest.raises(httpx.TransportError):
            http.post(url, files=image, data=SAID, headers=once)
        killed(web, site)
        assert len(site.clinic.rows(analyses)) == (1 if point == "A2" else 0)
    web = site.web()
    accepted = http.post(url, files=image, data=SAID, headers=once)
    assert accepted.status_code == 202, accepted.text
    public_id = accepted.json()["id"]

    for point in ("S1", "S2", "S3"):
        killed(site.start("work", point), site)
    for point in ("K4", "K5"):  # the listener dies with the object in its hand
        listen, work = site.start("listen", point), site.start("work")
        killed(listen, site)
        work.terminate()
        work.wait(40)
    site.start("listen")
    for point in ("S4", "S5"):
        killed(site.start("work", point), site)
    site.start("work")

    def told() -> dict[str, Any]:
        return dict(http.get(f"{url}/{public_id}").raise_for_status().json())

    site.wait_for(lambda: told()["state"] in ("completed", "failed", "refused"))
    assert told()["state"] == "completed", told()
    assert http.post(url, files=image, data=SAID, headers=once).json()["id"] == public_id
    for table in (analyses, instances, studies, revisions, runs):
        assert len(site.clinic.rows(table)) == 1, table.name
    site.wait_for(lambda: {row["state"] for row in site.clinic.rows(deliveries)} == {"confirmed"})
    delivered = [str(d.SOPInstanceUID) for d in site.clinic.delivered()]
    assert sorted(delivered) == sorted({r["sop_instance_uid"] for r in site.clinic.rows(artefacts)} - {None})
    assert {str(d.PatientID) for d in site.clinic.delivered()} == {RUT}
    data = site.clinic.settings.data.folder
    assert not list((data / "analyses").glob("*.dcm"))

    web.terminate()
    web.wait(40)
    web = site.web("A3")
    with pytest.raises(httpx.TransportError):
        http.post(f"{url}/{public_id}/withdraw", json={"reason": "wrong patient"})
    killed(web, site)
    site.web()
    assert told()["state"] == "withdrawn" and told()["malignant"] is None
    site.wait_for(lambda: [d for d in site.clinic.delivered() if d.Modality == "KO"])
    (rejection,) = [d for d in site.clinic.delivered() if d.Modality == "KO"]
    assert str(rejection.PatientID) == RUT
