"""The demonstration: three studies go in, and everybody can see what becomes of each, and why.

One has a lesion, one has none ("no region above threshold"), from one a slice was taken away (its refusal).  The
segmentation is compared with the truth of the synthetic head; below a Dice coefficient of 0.7 the demonstration fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dicom_node import files
from dicom_node.demo import found, timing
from dicom_node.demo.sending import storescu
from dicom_node.demo.site import Site
from dicom_node.demo.study import DemoStudy, Fate, make_study
from dicom_node.record import removals
from dicom_node.refusals import PeerTrouble

LEAST_DICE = 0.7
RESULT_S = 240.0
"""How long a study may take from its last image to its last confirmed delivery, on a slow machine."""

GAP = ("slices-missing", "series-incomplete")
TITLES = {
    Fate.LESION: "a head with a lesion",
    Fate.NO_LESION: "a head without a lesion",
    Fate.SLICE_REMOVED: "a lesion, one FLAIR slice taken away",
}


@dataclass
class Outcome:
    """What became of one study."""

    study: DemoStudy
    said: str = ""
    """In words: what the node says of the study."""
    refusal: str = ""
    objects: list[found.FoundObject] = field(default_factory=list)
    written: dict[str, Path] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    dice: float | None = None
    found_ml: float | None = None
    stages: list[tuple[str, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What is not as it should be; empty when the demonstration of this study succeeded."""

    def to_json(self) -> dict[str, Any]:
        return {
            "fate": self.study.fate.value,
            "study_uid": self.study.study_uid,
            "said": self.said,
            "refusal": self.refusal or None,
            "objects": [item.kind for item in self.objects],
            "files": {kind: str(path) for kind, path in self.written.items()},
            "report_id": None if self.report is None else self.report.get("id"),
            "dice": self.dice,
            "found_ml": self.found_ml,
            "true_ml": self.study.true_volume_ml,
            "stages_s": {name: round(seconds, 3) for name, seconds in self.stages},
            "faults": self.faults,
        }


def run_demo(site: Site, console: Console, *, seed: int = 1) -> list[Outcome]:
    """Send three studies to the site's Orthanc, wait for their fates and collect what can be seen of them.

    Parameters
    ----------
    site
        Started; need not be ready yet: the studies are made while it comes up.

    Raises
    ------
    PeerTrouble
        If the node does not come up, or a sender fails.
    """
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=False
    ) as progress:
        studies = _make(site, progress, seed)
        with _step(progress, "the node comes up: listener, worker with its model, web"):
            site.wait_ready()
        sent: dict[str, datetime] = {}
        for study in studies:
            with _step(progress, f"storescu sends {study.instances} images to Orthanc: {TITLES[study.fate]}"):
                storescu(study.folder, site.orthanc_peer, calling_ae_title="DEMO")
                sent[study.study_uid] = datetime.now(UTC)
        stories = _follow(site, studies, progress)
    return [_collect(site, study, stories[study.study_uid], sent[study.study_uid]) for study in studies]


class _step:
    """One line of progress: a spinner while it runs, a tick when it is done."""

    def __init__(self, progress: Progress, text: str) -> None:
        self._progress = progress
        self._text = text

    def __enter__(self) -> None:
        self._task = self._progress.add_task(self._text, total=1)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        mark = "[green]✓[/]" if kind is None else "[red]✗[/]"
        self._progress.update(self._task, completed=1, description=f"{mark} {self._text}")


def _make(site: Site, progress: Progress, seed: int) -> list[DemoStudy]:
    made = []
    for number, fate in enumerate(Fate):
        with _step(progress, f"a synthetic head is drawn: {TITLES[fate]}"):
            made.append(make_study(site.folder / "studies" / fate.value, fate, seed=seed + number))
    return made


# -- waiting


def _follow(site: Site, studies: Sequence[DemoStudy], progress: Progress) -> dict[str, timing.Story]:
    """Poll the record until every study has its fate, showing where each one is."""
    deadline = time.monotonic() + RESULT_S
    tasks = {study.study_uid: progress.add_task(f"{TITLES[study.fate]}: on its way", total=1) for study in studies}
    stories: dict[str, timing.Story] = {}
    while True:
        for study in studies:
            uid = study.study_uid
            story = site.story(uid)
            if story is None or progress.tasks[tasks[uid]].finished:
                continue
            stories[uid] = story
            is_over = has_its_fate(study, story)
            mark = "[green]✓[/] " if is_over else ""
            text = f"{mark}{TITLES[study.fate]}: {where(study, story)}"
            progress.update(tasks[uid], description=text, completed=int(is_over))
        if all(progress.tasks[task].finished for task in tasks.values()):
            return stories
        if time.monotonic() > deadline:
            late = [TITLES[s.fate] for s in studies if not progress.tasks[tasks[s.study_uid]].finished]
            tail = site.log_tail()
            raise PeerTrouble(f"no result within {RESULT_S:.0f} s for: {'; '.join(late)}. The node's log ends:\n{tail}")
        time.sleep(0.5)


def has_its_fate(study: DemoStudy, story: timing.Story) -> bool:
    """Whether nothing more will happen to a study by itself."""
    if story["state"] in ("failed", "held"):
        return True
    if study.fate is Fate.SLICE_REMOVED and refusal_of(study, story):
        return True
    runs = [run for run in story["run_rows"] if run["state"] != "superseded"]
    if any(run["state"] == "refused" for run in runs):
        # another route may stand in: the end of the quiet period decides, once it was considered
        is_quiet = any(event["name"] == "study.quiet" for event in story["timeline"])
        return is_quiet and all(revision["assembled"] for revision in story["revisions"] if _is_current(revision))
    deliveries = story["deliveries"]
    is_built = bool(runs) and all(run["state"] == "built" for run in runs)
    return is_built and bool(deliveries) and all(d["state"] == "confirmed" for d in deliveries)


def _is_current(revision: Mapping[str, Any]) -> bool:
    return bool(revision["state"] == "complete")


def refusal_of(study: DemoStudy, story: timing.Story) -> str:
    """Code of the refusal that decides a study: of its FLAIR series, of its case, or of its run."""
    reasons: list[Mapping[str, Any] | None] = [
        revision["refusal"] for revision in story["revisions"] if revision["series_uid"] == study.flair_series_uid
    ]
    reasons += [case["refusal"] for case in story["cases"] if case["state"] == "refused"]
    reasons += [run["refusal"] for run in story["run_rows"] if run["state"] != "superseded"]
    return next((str(reason["code"]) for reason in reasons if reason), "")


def where(study: DemoStudy, story: timing.Story) -> str:
    """Where a study is on the road, in a few words."""
    refusal = refusal_of(study, story)
    if refusal:
        return f"refused: {refusal}"
    if story["state"] in ("failed", "held"):
        return str(story["state"])
    deliveries = story["deliveries"]
    if deliveries:
        confirmed = sum(d["state"] == "confirmed" for d in deliveries)
        return f"{confirmed} of {len(deliveries)} deliveries seen at their destination"
    if story["run_rows"]:
        stages = [attempt["stage"] for attempt in story["attempts"]]
        return {"infer": "the model reads", "write": "objects are built and checked"}.get(
            stages[-1] if stages else "", "waits for the model"
        )
    complete = len({revision["series_uid"] for revision in story["revisions"]})
    return f"{complete} of {len(story['series_rows'])} series complete"


# -- collecting


def _collect(site: Site, study: DemoStudy, story: timing.Story, sent_at: datetime) -> Outcome:
    outcome = Outcome(study, refusal=refusal_of(study, story))
    archive = site.archive()
    try:
        outcome.objects = archive.results(study.study_uid)
    finally:
        archive.close()
    folder = site.folder / "results" / study.fate.value
    outcome.written = found.save(outcome.objects, folder)
    outcome.report = found.diagnostic_report(site.web_url, site.api_key, study.study_uid)
    if outcome.report is not None:
        path = folder / "report.json"
        path.write_text(json.dumps(outcome.report, indent=2, ensure_ascii=False), encoding="utf-8")
        outcome.written["DiagnosticReport"] = path
    _write_overlay(site, story, folder, outcome)
    outcome.stages = timing.stages(story, study.flair_series_uid, sent_at)
    _compare(outcome)
    _judge(outcome, story)
    return outcome


def _write_overlay(site: Site, story: timing.Story, folder: Path, outcome: Outcome) -> None:
    for row in story["artefacts"]:
        if row["kind"] == "overlay":
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "overlay.png"
            path.write_bytes(files.load(site.settings.data.folder / "artefacts", *removals.place(row)))
            outcome.written["overlay"] = path


def _compare(outcome: Outcome) -> None:
    """The segmentation as the archive keeps it, against the truth on the FLAIR grid."""
    study = outcome.study
    segmentations = [item for item in outcome.objects if item.kind == "SEG"]
    if not segmentations:
        return
    mask = found.mask_of(segmentations[0].dataset, study.flair_uids, study.truth.shape)
    outcome.found_ml = float(mask.sum()) * study.flair_affine.voxel_volume_mm3 / 1000
    outcome.dice = found.dice(mask, study.truth)


def _judge(outcome: Outcome, story: timing.Story) -> None:
    kinds = [item.kind for item in outcome.objects]
    fate = outcome.study.fate
    if story["state"] in ("failed", "held"):
        outcome.faults.append(f"the study is {story['state']}: see `ai-node study show`")
    if fate is Fate.SLICE_REMOVED:
        outcome.said = f"refused: {outcome.refusal}" if outcome.refusal else "no refusal"
        if outcome.refusal not in GAP:
            outcome.faults.append(f"expected a refusal {' or '.join(GAP)}, found {outcome.refusal or 'none'}")
        if kinds or outcome.report is not None:
            outcome.faults.append("a refused study must have no result")
        return
    wanted = ["SEG", "PDF", "SR"] if fate is Fate.LESION else ["PDF", "SR"]
    missing = [kind for kind in wanted if kind not in kinds]
    if outcome.report is None:
        missing.append("DiagnosticReport")
    if missing:
        outcome.faults.append(f"missing: {', '.join(missing)}")
    outcome.said = outcome.report.get("conclusion", "") if outcome.report else ""
    if fate is Fate.NO_LESION and "SEG" in kinds:
        outcome.faults.append(f"a region of {outcome.found_ml:.1f} mL was found in a head without a lesion")
    if fate is Fate.LESION and (outcome.dice is None or outcome.dice < LEAST_DICE):
        dice = "no segmentation" if outcome.dice is None else f"{outcome.dice:.3f}"
        outcome.faults.append(f"Dice coefficient: expected at least {LEAST_DICE}, found {dice}")
