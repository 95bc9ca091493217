"""Fifty doctors send at once while every process of the node is killed again and again: nothing lost, nothing twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.record.tables import analyses, artefacts, deliveries, instances, runs, studies
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.support.clinic_site import ClinicSite

pytestmark = [pytest.mark.system, pytest.mark.long]

DOCTORS, EACH, KILLS = 50, 2, 9


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ClinicSite]:
    made = ClinicSite(tmp_path, api={"images_per_minute": 6000, "requests_per_minute": 60000})
    yield made
    made.stop()


@pytest.mark.timeout(1200)
def test_fifty_doctors_and_nine_deaths(site: ClinicSite) -> None:
    running = {"listen": site.start("listen"), "work": site.start("work"), "web": site.web()}
    people = [site.clinic.person(f"d{n}@post.example", f"D {n}", ["clinician"], ["post"]) for n in range(DOCTORS)]
    clients = [site.client(one, f"phone-{n}") for n, one in enumerate(people)]
    accepted: dict[tuple[int, int], str] = {}
    together = threading.Barrier(DOCTORS)

    def send(number: int) -> None:
        """As a phone on a bad line: the same upload under the same name until it is answered for."""
        together.wait()
        for place in range(EACH):
            image = {"image": ("lesion.jpg", jpeg(drawn_lesion(seed=number * EACH + place)))}
            said = {
                "kind": "dermoscopic",
                "patient": f'{{"id": "CH-{1000 + number}", "type": "chart", "confirmed": true}}',
            }
            deadline = time.monotonic() + 300
            while (number, place) not in accepted and time.monotonic() < deadline:
                try:
                    answer = clients[number].post(
                        f"{site.url}/analyses", files=image, data=said, headers={"Idempotency-Key": f"u{place}"}
                    )
                except httpx.TransportError:
                    time.sleep(0.2)
                    continue
                if answer.status_code == 202:
                    accepted[number, place] = answer.json()["id"]

    threads = [threading.Thread(target=send, args=(number,)) for number in range(DOCTORS)]
    for thread in threads:
        thread.start()
    dice = random.Random(7)
    for number in range(KILLS):
        time.sleep(dice.uniform(0.3, 3.0))
        name = ("web", "work", "listen")[number % 3]
        running[name].kill()
        running[name].wait()
        running[name] = site.start(name)
    for thread in threads:
        thread.join()
    assert len(accepted) == len(set(accepted.values())) == DOCTORS * EACH, site.log.read_text()[-4000:]

    def ended() -> bool:
        return len([r for r in site.clinic.rows(runs) if r["state"] in ("built", "refused")]) >= DOCTORS * EACH

    site.wait_for(ended, 600)
    site.wait_for(lambda: {row["state"] for row in site.clinic.rows(deliveries)} == {"confirmed"}, 300)
    for table in (analyses, instances, studies, runs):
        assert len(site.clinic.rows(table)) == DOCTORS * EACH, table.name
    assert {row["public_id"] for row in site.clinic.rows(analyses)} == set(accepted.values())
    assert {row["state"] for row in site.clinic.rows(analyses)} == {"submitted"}
    delivered = [str(d.SOPInstanceUID) for d in site.clinic.delivered()]
    assert sorted(delivered) == sorted({r["sop_instance_uid"] for r in site.clinic.rows(artefacts)} - {None})
    data = site.clinic.settings.data.folder
    assert not list((data / "analyses").glob("*.dcm"))
