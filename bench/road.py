"""From the last C-STORE response to a segmentation that QIDO lists and a DiagnosticReport that can be read.

One FLAIR series of 155 slices of 240 x 240 (the size of a BraTS case) goes straight to the node, and by way of Orthanc
with a StableAge of 2 s.  The node's own overhead is everything but the network call and the waiting of others: it must
be at most 3 s.  Memory is the sum of the proportional set sizes of the node's processes, Orthanc apart.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bench.machine import about, machine, memory_of, save, table
from dicom_node.demo import Fate, make_study, timing
from dicom_node.demo.protocol import AXIAL, FLAIR_NUMBER, SeriesPlan, protocol, stack
from dicom_node.demo.sending import Peer, storescu
from dicom_node.demo.site import Site, SiteOptions

SLICES, ROWS = 155, 240
PATIENCE_S = 300.0


@dataclass
class Measured:
    """One study; seconds from the last C-STORE response unless the name says otherwise."""

    way: str
    seg_visible_s: float
    report_readable_s: float
    network_s: float
    complete_s: float
    stages_s: dict[str, float]
    engine_s: dict[str, float]

    @property
    def own_overhead_s(self) -> float:
        """All of the node's work up to the visible segmentation, but the network call; from the complete series on."""
        return self.seg_visible_s - self.complete_s - self.network_s

    @property
    def own_overhead_to_report_s(self) -> float:
        """The same up to the readable DiagnosticReport, which waits for the confirmed copy in the archive."""
        return self.report_readable_s - self.complete_s - self.network_s


def plan_of_155() -> tuple[SeriesPlan, ...]:
    """One thin FLAIR series around the head."""
    flair = next(plan for plan in protocol() if plan.number == FLAIR_NUMBER)
    thin = stack(AXIAL, (SLICES, ROWS, ROWS), (1.0, 1.0, 1.0))
    return (replace(flair, stacks=(thin,), cuts=1),)


def run(repeats: int = 3) -> None:
    facts = machine()
    folder = Path(tempfile.mkdtemp(prefix="bench-road-"))
    try:
        measured, peak = _measure(folder, repeats)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = []
    for way in dict.fromkeys(m.way for m in measured):
        chosen = [m for m in measured if m.way == way]
        rows.append([way, *(f"{statistics.median(v):.2f}" for v in _columns(chosen))])
    head = ["sent to", "complete", "SEG in QIDO", "report readable", "of it network", "own, to SEG", "own, to report"]
    print(table(f"Seconds after the last C-STORE response, {SLICES} slices of {ROWS} x {ROWS}", head, rows))
    names = list(measured[0].stages_s)
    stage_rows = [[n, f"{statistics.median(m.stages_s.get(n, 0.0) for m in measured[1:]):.2f}"] for n in names]
    print(table("Stage by stage, median of all", ["stage", "s"], stage_rows))
    engine = [
        [n, f"{statistics.median(m.engine_s.get(n, 0.0) for m in measured[1:]):.2f}"] for n in measured[0].engine_s
    ]
    print(table("Inside the model stage, median of all", ["part", "s"], engine))
    print(f"Peak memory of the node while serving: {peak / 1e9:.2f} GB (sum of PSS)\n")
    print(about(facts))
    figures = [
        {**asdict(m), "own_overhead_s": m.own_overhead_s, "own_overhead_to_report_s": m.own_overhead_to_report_s}
        for m in measured
    ]
    print(f"written: {save('road', facts, {'studies': figures, 'peak_pss_bytes': peak})}")


def _columns(chosen: list[Measured]) -> list[list[float]]:
    return [
        [m.complete_s for m in chosen],
        [m.seg_visible_s for m in chosen],
        [m.report_readable_s for m in chosen],
        [m.network_s for m in chosen],
        [m.own_overhead_s for m in chosen],
        [m.own_overhead_to_report_s for m in chosen],
    ]


def _measure(folder: Path, repeats: int) -> tuple[list[Measured], int]:
    measured = []
    # the route brain-flair alone: as a stand-in for brain-tumour it would wait for the study's quiet period
    with Site(SiteOptions(folder=folder / "site", only=("brain-flair",))) as site:
        studies = [
            make_study(folder / f"study-{n}", Fate.LESION, seed=500 + n, plans=plan_of_155())
            for n in range(2 * repeats + 1)
        ]
        site.wait_ready()
        with memory_of(site.node_pid) as memory:
            # the first study finds a cold model; it is reported, and left out of the medians
            ways = ["first study, node", *(["node", "Orthanc"] * repeats)]
            for way, study in zip(ways, studies, strict=True):
                peer = site.orthanc_peer if way == "Orthanc" else site.node_peer
                measured.append(_one(site, study, way, peer))
        return measured, int(memory.proportional_peak_mb * 1e6)


def _one(site: Site, study: Any, way: str, peer: Peer) -> Measured:
    storescu(study.folder, peer, calling_ae_title="DEMO")
    sent = datetime.now(UTC)
    password = site.orthanc.password_file.read_text(encoding="utf-8").strip()
    with httpx.Client(auth=(site.orthanc.username, password), timeout=10, trust_env=False) as http:
        query = {"StudyInstanceUID": study.study_uid, "Modality": "SEG"}
        seg = _when(lambda: _lists(http, f"{site.orthanc.dicomweb_url}/series", query))
    headers = {"Authorization": f"Bearer {site.api_key}"}
    with httpx.Client(headers=headers, timeout=10, trust_env=False) as http:
        report = _when(lambda: study.study_uid in http.get(f"{site.web_url}/fhir/DiagnosticReport?_count=100").text)
    story = _settled(site, study.study_uid)
    at = timing.marks(story, study.flair_series_uid)
    return Measured(
        way=way,
        seg_visible_s=(seg - sent).total_seconds(),
        report_readable_s=(report - sent).total_seconds(),
        network_s=timing.network_call_s(story) or 0.0,
        complete_s=max(0.0, (at["complete"] - sent).total_seconds()),
        stages_s=dict(timing.stages(story, study.flair_series_uid, sent)),
        engine_s=_engine(story),
    )


def _lists(http: httpx.Client, url: str, query: dict[str, str]) -> bool:
    answer = http.get(url, params=query, headers={"Accept": "application/dicom+json"})
    return answer.status_code == 200 and bool(json.loads(answer.content or b"[]"))


def _when(is_so: Any) -> datetime:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if is_so():
            return datetime.now(UTC)
        time.sleep(0.05)
    raise TimeoutError(f"nothing to be seen after {PATIENCE_S:.0f} s")


def _settled(site: Site, study_uid: str) -> dict[str, Any]:
    """The story when every delivery is confirmed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        story = site.story(study_uid)
        if story and story["deliveries"] and all(d["state"] == "confirmed" for d in story["deliveries"]):
            return story
        time.sleep(0.1)
    raise TimeoutError("deliveries were not confirmed")


def _engine(story: dict[str, Any]) -> dict[str, float]:
    for event in reversed(story["timeline"]):
        if event["name"] == "run.inferred":
            return {str(k): float(v) for k, v in event["detail"].get("seconds", {}).items()}
    return {}
