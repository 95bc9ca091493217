"""Fifty doctors send a photograph each at the same moment, while a magnetic resonance study is read.

Real Orthanc, the whole node as `ai-node serve` runs it, the shipped models, camera files, a key of her own account for
each doctor.  Measured are the acknowledgement as a client waits for it (which means: on the disk and in the record),
the result from there to the checked objects, and the same MR study with and without the doctors.  Counted is whether
anything was lost or is there twice.  The cache of answers is off: fifty doctors do not send the same nine pictures.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from bench.machine import about, machine, save, table
from bench.road import plan_of_155
from dicom_node.demo import Fate, make_study
from dicom_node.demo.sending import storescu
from dicom_node.demo.site import Site, SiteOptions
from dicom_node.record import keys, people, sites
from dicom_node.record.tables import analyses, events, instances, runs

DOCTORS = 50
PATIENCE_S = 1800.0
SCOPES = ("analysis:make", "analysis:own")


@dataclass(frozen=True)
class Sent:
    """One photograph, acknowledged."""

    public_id: str
    acknowledged_s: float


def run(rounds: int = 3) -> None:
    facts = machine()
    pictures = _pictures()
    folder = Path(tempfile.mkdtemp(prefix="bench-doctors-"))
    try:
        figures = _measure(folder, pictures, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [
        [name, *(f"{_at(figures[name], share):.2f}" for share in (0.5, 0.95, 1.0))]
        for name in ("acknowledged_s", "result_s")
    ]
    title = f"Seconds for a photograph, {DOCTORS} doctors at once, {rounds} times"
    print(table(title, ["", "median", "95 %", "longest"], rows))
    print(f"MR study of 155 slices, last slice to segmentation and report built: {figures['mr_alone_s']:.1f} s alone, "
          f"{statistics.median(figures['mr_beside_s']):.1f} s beside the doctors\n")  # fmt: skip
    print(f"sent {figures['sent']}, lost {figures['lost']}, twice {figures['twice']}, by state {figures['states']}\n")
    print(about(facts))
    print(f"written: {save('doctors', facts, figures)}")


def _pictures() -> list[bytes]:
    data = Path(os.environ.get("AI_NODE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    found = sorted((data / "dermoscopy" / "originals").glob("*.jpg"))
    if not found:
        raise SystemExit(f"no camera files in {data / 'dermoscopy' / 'originals'}: set AI_NODE_TEST_DATA")
    return [path.read_bytes() for path in found]


def _measure(folder: Path, pictures: list[bytes], rounds: int) -> dict[str, Any]:
    options = SiteOptions(
        folder=folder / "site", only=("brain-flair", "skin-lesion"), changes={"engine": {"cache_mb": 0}}
    )
    studies = [
        make_study(folder / f"study-{n}", Fate.LESION, seed=700 + n, plans=plan_of_155()) for n in range(rounds + 2)
    ]
    with Site(options) as site:
        site.wait_ready()
        tokens = _accounts(site)
        _mr(site, studies[0])  # finds a cold model
        alone = _mr(site, studies[1])
        sent: list[Sent] = []
        beside = []
        for study in studies[2:]:
            doctors = threading.Thread(target=lambda: sent.extend(_burst(site, tokens, pictures)))
            doctors.start()
            beside.append(_mr(site, study))
            doctors.join()
            _settled(site, len(sent))
        return {
            **_counted(site, sent),
            "acknowledged_s": sorted(one.acknowledged_s for one in sent),
            "mr_alone_s": alone,
            "mr_beside_s": beside,
        }


def _accounts(site: Site) -> list[str]:
    kind = {"key": "rut", "title": "RUT", "system": "urn:ainode:demo:rut", "issuer": "RUT", "check": "rut"}
    with site.database.write() as connection:
        sites.add_site(connection, "bench", key="post", title="Rural post", identifier_types=[kind])
        for number in range(DOCTORS):
            people.add_user(
                connection,
                "bench",
                email=f"doctor{number}@post.example",
                name=f"Doctor {number}",
                password_hash="-",
                roles=["clinician"],
                sites=["post"],
            )
    return [
        keys.create(site.database, f"phone-{number}", SCOPES, account=f"doctor{number}@post.example")
        for number in range(DOCTORS)
    ]


def _burst(site: Site, tokens: list[str], pictures: list[bytes]) -> list[Sent]:
    """Every doctor sends one photograph, all at the same moment."""
    together, sent = threading.Barrier(len(tokens)), list[Sent]()

    def send(number: int, token: str) -> None:
        said = {"kind": "dermoscopic", "patient": f'{{"id": "{_rut()}", "type": "rut", "confirmed": true}}'}
        image = {"image": ("lesion.jpg", pictures[number % len(pictures)])}
        with httpx.Client(headers={"X-API-Key": token}, timeout=PATIENCE_S, trust_env=False) as http:
            together.wait()
            began = time.perf_counter()
            answer = http.post(f"{site.web_url}/api/v1/analyses", files=image, data=said)
            sent.append(Sent(answer.raise_for_status().json()["id"], time.perf_counter() - began))

    threads = [threading.Thread(target=send, args=pair) for pair in enumerate(tokens)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sent


def _rut() -> str:
    number = random.SystemRandom().randrange(1_000_000, 30_000_000)
    total = sum(int(digit) * (2 + place % 6) for place, digit in enumerate(reversed(str(number))))
    return f"{number}-{'0123456789K'[-total % 11]}"


def _mr(site: Site, study: Any) -> float:
    """Seconds from the last C-STORE response to the built objects of an MR study."""
    storescu(study.folder, site.node_peer, calling_ae_title="DEMO")
    sent = datetime.now(UTC)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for event in (site.story(study.study_uid) or {"timeline": []})["timeline"]:
            if event["name"] == "run.built":
                return (datetime.fromisoformat(event["at"]) - sent).total_seconds()
        time.sleep(0.2)
    raise TimeoutError("the MR study was not read")


def _settled(site: Site, count: int) -> None:
    """Wait until every photograph has its answer or its refusal."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if len(_ends(site)) >= count:
            return
        time.sleep(0.5)
    raise TimeoutError("photographs without an answer")


def _ends(site: Site) -> dict[str, str]:
    """Study -> when its objects were built, or its refusal was said."""
    query = select(events.c.study_uid, events.c.at).where(events.c.name.in_(("run.built", "run.refused")))
    with site.database.read() as connection:
        own = {str(uid) for uid in connection.execute(select(analyses.c.study_uid)).scalars() if uid}
        return {str(row.study_uid): str(row.at) for row in connection.execute(query) if row.study_uid in own}


def _counted(site: Site, sent: list[Sent]) -> dict[str, Any]:
    ends = _ends(site)
    with site.database.read() as connection:
        rows = {str(row["public_id"]): dict(row) for row in connection.execute(select(analyses)).mappings()}
        kept = [str(uid) for uid in connection.execute(select(instances.c.study_uid)).scalars()]
        made = [dict(row) for row in connection.execute(select(runs.c.study_uid, runs.c.state)).mappings()]
    own = {str(row["study_uid"]) for row in rows.values()}
    results = [
        (
            datetime.fromisoformat(ends[str(row["study_uid"])]) - datetime.fromisoformat(row["created_at"])
        ).total_seconds()
        for row in rows.values()
        if str(row["study_uid"]) in ends
    ]
    states: dict[str, int] = {}
    for one in made:
        if one["study_uid"] in own:
            states[one["state"]] = states.get(one["state"], 0) + 1
    return {
        "result_s": sorted(results),
        "sent": len(sent),
        "lost": len({one.public_id for one in sent} - set(rows)) + len(rows) - len(results),
        "twice": len(rows) - len(sent) + sum(kept.count(uid) - 1 for uid in own) + sum(states.values()) - len(rows),
        "states": states,
    }


def _seconds(since: str, until: str) -> float:
    return (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]
