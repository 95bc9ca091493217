"""Small parts of the demonstration: addresses, files, masks from a SEG, timings from a story, when a study is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset

from ai_engine.geometry import Affine
from dicom_node.demo import DemoStudy, Fate, timing
from dicom_node.demo.found import dice, mask_of
from dicom_node.demo.run import has_its_fate, refusal_of, where
from dicom_node.demo.sending import Peer, find_files

pytestmark = pytest.mark.unit

BEGIN = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    return (BEGIN + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("ORTHANC@127.0.0.1:4242", Peer("ORTHANC", "127.0.0.1", 4242)),
        ("A B@pacs.example:104", Peer("A B", "pacs.example", 104)),
        ("X@[::1]:11112", Peer("X", "::1", 11112)),
    ],
)
def test_a_peer_is_named_by_title_host_and_port(text, peer):
    assert Peer.parse(text) == peer


@pytest.mark.parametrize(
    "text", ["", "ORTHANC", "@h:1", "A@h", "A@:1", "A@h:x", "A@h:0", "A@h:70000", "A" * 17 + "@h:1"]
)
def test_what_names_no_peer_is_refused(text):
    with pytest.raises(ValueError, match=r"expected|AE title|port"):
        Peer.parse(text)


def test_files_are_found_by_what_they_are(tmp_path):
    for number, sop_class in enumerate(("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.3.10")):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, f"2.25.{number}"
        (tmp_path / f"d{number}").mkdir()
        dataset.save_as(tmp_path / f"d{number}" / "IM0001", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty.dcm").touch()
    found, others = find_files(tmp_path)
    assert [(file.path.parent.name, file.sop_class_uid) for file in found] == [("d0", "1.2.840.10008.5.1.4.1.1.4")]
    assert others == 3
    assert find_files(tmp_path / "d0" / "IM0001")[0] == found


def test_a_mask_is_read_from_the_frames_sources_whatever_their_order():
    pixels = np.zeros((3, 4, 5), dtype=np.uint8)
    pixels[0, 1, 1] = pixels[1, 2, 2] = pixels[2, 1, 2] = 1
    groups = [
        SimpleNamespace(
            DerivationImageSequence=[
                SimpleNamespace(SourceImageSequence=[SimpleNamespace(ReferencedSOPInstanceUID=uid)])
            ]
        )
        for uid in ("c", "a", "c")
    ]
    seg = SimpleNamespace(pixel_array=pixels, PerFrameFunctionalGroupsSequence=groups)
    mask = mask_of(seg, ["a", "b", "c"], (3, 4, 5))
    assert sorted(map(tuple, np.argwhere(mask))) == [(0, 2, 2), (2, 1, 1), (2, 1, 2)]


def test_dice():
    a, b = np.zeros((2, 2), bool), np.zeros((2, 2), bool)
    assert dice(a, b) == 1
    a[0] = True
    assert dice(a, b) == 0
    b[0, 0] = True
    assert dice(a, b) == pytest.approx(2 / 3)


def study(fate: Fate, tmp_path) -> DemoStudy:
    return DemoStudy(fate, tmp_path, "1.2", "P", "1.2.4", ("a",), Affine(np.eye(4)), np.zeros((1, 1, 1), bool), 0.0, 1)


def story(**changes):
    base = {
        "state": "waiting",
        "revisions": [],
        "cases": [],
        "run_rows": [],
        "attempts": [],
        "deliveries": [],
        "series_rows": [{}],
        "timeline": [],
    }
    return {**base, **changes}


DONE = {
    "revisions": [{"series_uid": "1.2.4", "closed_at": at(2), "refusal": None}],
    "run_rows": [
        {"id": 1, "state": "superseded", "created_at": at(1), "refusal": None},
        {"id": 2, "state": "built", "created_at": at(2.5), "refusal": None},
    ],
    "attempts": [
        {"run_id": 2, "stage": "infer", "started_at": at(3), "ended_at": at(6)},
        {"run_id": 2, "stage": "write", "started_at": at(6), "ended_at": at(7)},
        {"run_id": 1, "stage": "infer", "started_at": at(900), "ended_at": at(901)},
    ],
    "deliveries": [
        {"run_id": 2, "destination": "pacs", "kind": kind, "state": "confirmed", "confirmed_at": at(8 + n)}
        for n, kind in enumerate(("seg", "pdf", "sr"))
    ]
    + [{"run_id": 2, "destination": "own-fhir", "kind": "findings", "state": "confirmed", "confirmed_at": at(12)}],
    "timeline": [{"name": "run.inferred", "detail": {"seconds": {"network": 1.25}}}],
}


def test_stages_add_up_to_the_whole_way():
    stages = timing.stages(story(**DONE), "1.2.4", BEGIN)
    assert [seconds for _, seconds in stages] == [2, 1, 3, 1, 3, 2]
    assert timing.network_call_s(story(**DONE)) == 1.25
    assert timing.network_call_s(story()) is None


def test_a_study_is_over_when_everything_is_confirmed_and_not_before(tmp_path):
    lesion = study(Fate.LESION, tmp_path)
    assert not has_its_fate(lesion, story())
    assert has_its_fate(lesion, story(**DONE))
    open_one = [*DONE["deliveries"][:-1], {**DONE["deliveries"][-1], "state": "sending", "confirmed_at": None}]
    assert not has_its_fate(lesion, story(**{**DONE, "deliveries": open_one}))
    assert where(lesion, story(**{**DONE, "deliveries": open_one})).startswith("3 of 4")
    assert has_its_fate(lesion, story(state="held"))


def test_a_removed_slice_is_over_with_its_refusal(tmp_path):
    gap = study(Fate.SLICE_REMOVED, tmp_path)
    refused = [{"series_uid": "1.2.4", "closed_at": at(1), "refusal": {"code": "slices-missing"}}]
    elsewhere = [{"series_uid": "1.2.9", "closed_at": at(1), "refusal": {"code": "series-mixed"}}]
    assert not has_its_fate(gap, story(revisions=elsewhere))
    assert has_its_fate(gap, story(revisions=elsewhere + refused))
    assert refusal_of(gap, story(revisions=elsewhere + refused)) == "slices-missing"


def test_a_refused_run_is_no_end_while_another_route_may_stand_in(tmp_path):
    lesion = study(Fate.LESION, tmp_path)
    refused = [{"id": 1, "state": "refused", "created_at": at(1), "refusal": {"code": "brain-not-found"}}]
    series = {"series_uid": "1.2.4", "closed_at": at(1), "refusal": None, "state": "complete"}
    quiet = [{"name": "study.quiet", "at": at(9)}]
    waits = story(run_rows=refused, revisions=[{**series, "assembled": True}])
    assert not has_its_fate(lesion, waits)
    assert not has_its_fate(lesion, {**waits, "timeline": quiet, "revisions": [{**series, "assembled": False}]})
    assert has_its_fate(lesion, {**waits, "timeline": quiet})
    gone = [{**refused[0], "state": "superseded"}]
    assert refusal_of(lesion, story(run_rows=gone)) == ""


def test_a_stand_in_shows_how_long_it_waited():
    waited = {**DONE, "timeline": [{"name": "study.quiet", "at": at(2.4)}, *DONE["timeline"]]}
    stages = timing.stages(story(**waited), "1.2.4", BEGIN)
    assert [round(seconds, 1) for _, seconds in stages] == [2, 0.4, 0.6, 3, 1, 3, 2]
    late = {**DONE, "timeline": [{"name": "study.quiet", "at": at(60)}, *DONE["timeline"]]}
    assert len(timing.stages(story(**late), "1.2.4", BEGIN)) == 6
