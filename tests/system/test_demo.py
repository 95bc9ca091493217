"""The demonstration as a newcomer runs it, and the result in a real viewer: Orthanc, DCMTK, node, OHIF in Chromium."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from pydicom import dcmread
from support.chromium import viewer

from portal import TicketOffice

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).resolve().parents[2]
PICTURES = REPOSITORY / "run" / "viewer"


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dicom_node.cli", "demo", "--out", str(folder), *options]
    with (folder.parent / "demo.txt").open("w") as said:
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=said, text=True)


def processes_of(folder: Path) -> list[str]:
    """Command lines of everything that still works on the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.pid != os.getpid():
            found.append(line)
    return found


def wait_gone(folder: Path, seconds: float = 15.0) -> list[str]:
    deadline = time.monotonic() + seconds
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    return processes_of(folder)


@dataclass
class Kept:
    folder: Path
    said: dict[str, Any]

    def study(self, fate: str) -> dict[str, Any]:
        (one,) = [study for study in self.said["studies"] if study["fate"] == fate]
        return one

    def link(self, study_uid: str) -> str:
        settings = yaml.safe_load((self.folder / "node.yaml").read_text())
        office = TicketOffice(Path(settings["data"]["folder"]) / "tickets")
        return office.link(f"http://127.0.0.1:{settings['web']['port']}", study_uid)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """`ai-node demo --keep`, up to the point where it keeps running."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    process = start(folder, "--keep", "--json")
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(60)
        pytest.fail("the demonstration ended early:\n" + (folder.parent / "demo.txt").read_text()[-4000:])
    yield Kept(folder, json.loads(line))
    process.send_signal(signal.SIGTERM)
    code = process.wait(90)
    assert wait_gone(folder) == []
    assert code == (1 if any(study["faults"] for study in json.loads(line)["studies"]) else 0)


def test_each_study_meets_its_fate(kept):
    assert [study["faults"] for study in kept.said["studies"]] == [[], [], []]
    lesion, clear, gap = (kept.study(fate) for fate in ("lesion", "no-lesion", "slice-removed"))
    assert {"SEG", "SR", "PDF"} <= set(lesion["objects"])
    assert lesion["report_id"]
    assert lesion["dice"] >= 0.7
    assert abs(lesion["found_ml"] - lesion["true_ml"]) < 0.5 * lesion["true_ml"]
    assert "SEG" not in clear["objects"] and {"SR", "PDF"} <= set(clear["objects"])
    assert "no region" in clear["said"].lower()
    assert gap["refusal"] in ("slices-missing", "series-incomplete")
    assert gap["objects"] == [] and gap["report_id"] is None
    for path in lesion["files"].values():
        assert Path(path).stat().st_size > 500


def test_what_the_demonstration_wrote_passes_the_validator(kept):
    files = kept.study("lesion")["files"]
    for kind in ("SEG", "SR"):
        said = subprocess.run(
            ["dciodvfy", "-new", files[kind]], capture_output=True, text=True, timeout=60, check=False
        )
        assert "Error" not in said.stdout + said.stderr
    pdf = subprocess.run(["pdftotext", files["PDF"], "-"], capture_output=True, text=True, timeout=60, check=True)
    assert "FLAIR" in pdf.stdout


def test_the_viewer_opens_with_images_and_counts_what_the_segmentation_holds(kept):
    lesion = kept.study("lesion")
    segmentation = dcmread(lesion["files"]["SEG"])
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    numbers = [
        int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for groups in segmentation.PerFrameFunctionalGroupsSequence
    ]
    own = {number: int(sum(frames[k].sum() for k, n in enumerate(numbers) if n == number)) for number in set(numbers)}
    labels = [(int(s.SegmentNumber), str(s.SegmentLabel)) for s in segmentation.SegmentSequence]
    PICTURES.mkdir(parents=True, exist_ok=True)
    with viewer() as page:
        page.open(kept.link(lesion["study_uid"]))
        assert page.shown_images(), "the study opened without an image"
        assert not page.has_pdf_pane()
        modalities = [modality for modality, _, _ in page.display_sets()]
        assert modalities.count("MR") == 6 and {"SEG", "SR", "DOC"} <= set(modalities)
        page.page.screenshot(path=PICTURES / "opened.png")
        page.show_segmentation(str(segmentation.SeriesDescription))
        assert page.label_counts() == own
        assert page.segments() == labels
        page.open_segmentation_panel()
        index = _fullest_slice(segmentation, frames, kept)
        assert page.go_to_slice(index) == index
        page.page.screenshot(path=PICTURES / "overlay.png")
        assert page.troubles == []


def _fullest_slice(segmentation: Any, frames: np.ndarray, kept: Kept) -> int:
    """Index, as the viewer counts (from the head down), of the slice with most of the segmentation in it."""
    height = [
        float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        for groups in segmentation.PerFrameFunctionalGroupsSequence
    ]
    best = height[int(np.argmax(frames.sum(axis=(1, 2))))]
    folder = kept.folder / "studies" / "lesion" / "series-04"
    all_heights = sorted(
        (float(dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]) for p in folder.iterdir()), reverse=True
    )
    return int(np.argmin(np.abs(np.asarray(all_heights) - best)))


def test_an_interrupted_demonstration_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "out"
    process = start(folder)
    deadline = time.monotonic() + 60
    while not (folder / "node.log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert wait_gone(folder) == []


def test_a_folder_that_is_not_its_own_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    process = start(tmp_path)
    assert process.wait(60) == 2
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
