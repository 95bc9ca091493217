"""Fifty doctors send a photograph each at the same moment; then again, while a magnetic resonance study is read.

Real Orthanc, the whole node as `ai-node serve` runs it, the shipped models, camera files, a key of her own account for
each doctor.  Measured are the acknowledgement as a client waits for it (which means: on the disk and in the record),
the result from the beginning of the upload to the checked objects, photographs per minute, and the same MR study with
and without the doctors.  Counted is whether anything was lost or is there twice.  The cache of answers is off: fifty
doctors do not send the same nine pictures.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
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
from dicom_node.record.tables import analyses, events, instances, runs, studies

DOCTORS = 50
WARM = 4
"""Photographs before the first that is measured: they find a cold model."""
SHARES = (0.5, 0.95, 1.0)
PATIENCE_S = 1800.0
SCOPES = ("analysis:make", "analysis:own")


@dataclass(frozen=True)
class Sent:
    """One photograph, acknowledged; times by the clock of this machine, which is the node's as well."""

    public_id: str
    began: datetime
    acknowledged_s: float


@dataclass(frozen=True)
class Burst:
    """Fifty at once: seconds of each until it was acknowledged, and until its result was there; and all of them."""

    acknowledged_s: list[float]
    result_s: list[float]
    per_minute: float


def run(rounds: int = 3) -> None:
    facts = machine()
    pictures = _pictures()
    folder = Path(tempfile.mkdtemp(prefix="bench-doctors-"))
    try:
        figures = _measure(folder, pictures, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    alone, beside = ([Burst(**one) for one in figures[key]] for key in ("alone", "beside"))
    rows = [
        [what, *(f"{_at(sorted(s for b in bursts for s in getattr(b, field)), share):.2f}"
                 for bursts in (alone, beside) for share in SHARES)]
        for what, field in (("acknowledged, s", "acknowledged_s"), ("result, s", "result_s"))
    ]  # fmt: skip
    per_minute = [f"{statistics.median(b.per_minute for b in bursts):.0f}" for bursts in (alone, beside)]
    rows.append(["photographs per minute", per_minute[0], "", "", per_minute[1], "", ""])
    head = ["", *(f"{name} {where}" for where in ("", "+ MR") for name in ("P50", "P95", "longest"))]
    print(table(f"{DOCTORS} doctors, a photograph each at the same moment, {rounds} times alone and beside an MR study",
                head, rows))  # fmt: skip
    mr = [f"{statistics.median(figures[key]):.1f}" for key in ("mr_alone_s", "mr_beside_s")]
    print(table("MR study of 155 slices, last slice to segmentation and report built, s",
                ["alone", "beside the doctors", "times"],
                [[*mr, f"{float(mr[1]) / float(mr[0]):.1f}"]]))  # fmt: skip
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
    scans = [
        make_study(folder / f"study-{n}", Fate.LESION, seed=700 + n, plans=plan_of_155()) for n in range(2 * rounds + 1)
    ]
    with Site(options) as site:
        site.wait_ready()
        tokens = _accounts(site)
        _mr(site, scans[0])  # finds a cold model
        _burst(site, tokens[:WARM], pictures)
        _settled(site, WARM)
        found: dict[str, list[Any]] = {key: [] for key in ("alone", "beside", "mr_alone_s", "mr_beside_s")}
        sent: list[Sent] = []
        for study in range(1, 2 * rounds, 2):
            found["mr_alone_s"].append(_mr(site, scans[study]))
            _quiet(site)
            for key in ("alone", "beside"):
                with ThreadPoolExecutor(1) as doctors:
                    sending = doctors.submit(_burst, site, tokens, pictures)
                    if key == "beside":
                        found["mr_beside_s"].append(_mr(site, scans[study + 1]))
                    burst = sending.result()
                sent += burst
                _settled(site, WARM + len(sent))
                found[key].append(asdict(_judged(site, burst)))
                _quiet(site)
        return {**_counted(site, sent), **found}


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
            at, began = datetime.now(UTC), time.perf_counter()
            answer = http.post(f"{site.web_url}/api/v1/analyses", files=image, data=said)
            sent.append(Sent(answer.raise_for_status().json()["id"], at, time.perf_counter() - began))

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


def _quiet(site: Site) -> None:
    """Wait until nothing is open, and the studies' quiet periods are over: what follows is measured alone."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with site.database.read() as connection:
            waiting = connection.execute(select(studies.c.uid).where(studies.c.quiet_put_at.is_(None)).limit(1)).first()
        if waiting is None and site.is_idle():
            return
        time.sleep(0.5)
    raise TimeoutError("the node does not come to rest")


def _ends(site: Site) -> dict[str, datetime]:
    """Public id -> when its objects were built, or its refusal was said."""
    query = select(events.c.study_uid, events.c.at).where(events.c.name.in_(("run.built", "run.refused")))
    with site.database.read() as connection:
        own = {str(row.study_uid): str(row.public_id) for row in connection.execute(select(analyses)) if row.study_uid}
        found = {str(row.study_uid): datetime.fromisoformat(row.at) for row in connection.execute(query)}
    return {own[uid]: at for uid, at in found.items() if uid in own}


def _judged(site: Site, burst: list[Sent]) -> Burst:
    ends = _ends(site)
    results = [(ends[one.public_id] - one.began).total_seconds() for one in burst]
    whole_s = (max(ends[one.public_id] for one in burst) - min(one.began for one in burst)).total_seconds()
    return Burst(sorted(one.acknowledged_s for one in burst), sorted(results), 60 * len(burst) / whole_s)


def _counted(site: Site, sent: list[Sent]) -> dict[str, Any]:
    """What became of everything that was acknowledged."""
    ends, told = _ends(site), {one.public_id for one in sent}
    with site.database.read() as connection:
        rows = [row for row in connection.execute(select(analyses)).mappings()]
        own = [str(row["study_uid"]) for row in rows if row["public_id"] in told]
        kept = Counter(str(uid) for uid in connection.execute(select(instances.c.study_uid)).scalars())
        made = [row for row in connection.execute(select(runs.c.study_uid, runs.c.state)) if row.study_uid in own]
    return {
        "sent": len(sent),
        "lost": len(told - ends.keys()) + sum(not kept[uid] for uid in own),
        "twice": len(rows) - WARM - len(sent) + sum(kept[uid] > 1 for uid in own) + len(made) - len(set(own)),
        "states": dict(Counter(str(row.state) for row in made)),
    }


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]
