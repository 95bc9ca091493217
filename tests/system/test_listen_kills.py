"""kill -9 of the listen process at K1 to K7, then restart and resend: nothing acknowledged is lost, nothing is twice.

I1, I10 and, with the derived key of the job, I12.  The power-cut half of it is in tests/unit/test_door_vault.py.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.record import Database
from dicom_node.record.arrivals import stored_paths
from tests.support import slices
from tests.support.listening import ListenProcess, Records, settings_for, start_process, until

pytestmark = pytest.mark.system

COUNT = 6


def send(child: ListenProcess, made: slices.SeriesFiles) -> set[str]:
    """Send the series; the SOP Instance UIDs that were acknowledged with 0000."""
    done = slices.storescu(child.port, made.files, calling="MODALITY", options=("-to", "30"))
    answers = re.findall(r"Received Store Response \((\w+)", done.stdout + done.stderr)
    return {uid for uid, answer in zip(made.uids, answers, strict=False) if answer == "Success"}


def oracle(folder: Path, acknowledged: set[str], made: slices.SeriesFiles) -> None:
    """What must hold whenever no process runs."""
    records = Records(Database(settings_for(folder).records_url))
    stored = records.rows("instances")
    assert acknowledged <= {r["uid"] for r in stored}, "an acknowledged instance is gone"
    assert len(stored) == len({r["uid"] for r in stored})
    with records.database.read() as connection:
        for path, sha256 in stored_paths(connection):
            file = folder / "data" / path
            assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256
    sent = {uid: dcmread(f) for uid, f in zip(made.uids, made.files, strict=True)}
    for row in stored:
        assert dcmread(folder / "data" / row["path"]).PixelData == sent[row["uid"]].PixelData
    records.database.close()


def finish(folder: Path, made: slices.SeriesFiles) -> None:
    """Restart without a fail-point, send everything again, wait for the revision, stop; then exact counts."""
    settings = settings_for(folder)
    child = start_process(folder, settings)
    try:
        assert send(child, made) == set(made.uids)
        records = Records(Database(settings.records_url))
        until(lambda: _is_told(child, records), 60, "the road is told of the current revision")
    finally:
        assert child.end() == 0
    oracle(folder, set(made.uids), made)
    assert records.count("instances") == COUNT and records.count("copies") == 0
    vault = folder / "data" / "vault"
    assert len(list((vault / "objects").rglob("*.dcm"))) == COUNT
    assert list((vault / "incoming").iterdir()) == [] and list((vault / "quarantine").iterdir()) == []
    current = [r for r in records.rows("revisions") if r["state"] == "complete"]
    assert len(current) == 1 and current[0]["instance_uids"] == sorted(made.uids)
    assert all(a["closed_at"] for a in records.rows("arrivals"))
    for secret in (slices.MARKER, made.study_uid, made.series_uid, *made.uids):
        assert secret not in child.log
    records.database.close()


def _is_told(child: ListenProcess, records: Records) -> bool:
    told = [t["read"] for t in child.told() if "read" in t]
    current = [r for r in records.rows("revisions") if r["state"] == "complete" and r["put_at"]]
    return any(r["id"] in told and len(r["instance_uids"]) == COUNT for r in current)


@pytest.mark.parametrize("failpoint", ["K1:3", "K2:3", "K3:3", "K4:3", "K5:3", "K6:3", "K7"])
def test_a_kill_at_every_point_and_a_resend(tmp_path: Path, failpoint: str) -> None:
    made = slices.series(tmp_path / "s", COUNT)
    child = start_process(tmp_path, settings_for(tmp_path), failpoint)
    try:
        acknowledged = send(child, made)
        assert child.process.wait(60) == -9, "the fail-point was never reached"
    finally:
        child.kill()
    if failpoint == "K7":
        assert acknowledged == set(made.uids)
        assert child.told() == [], "killed between the row and the put"
    else:
        assert len(acknowledged) < COUNT
    oracle(tmp_path, acknowledged, made)
    finish(tmp_path, made)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 12))])
def test_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    made = slices.series(tmp_path / "s", COUNT)
    acknowledged: set[str] = set()
    for _ in range(3):
        child = start_process(tmp_path, settings_for(tmp_path))
        killer = threading.Timer(rng.uniform(0.0, 0.6), child.kill)
        killer.start()
        acknowledged |= send(child, made)
        killer.join()
        child.kill()
        oracle(tmp_path, acknowledged, made)
    finish(tmp_path, made)


def test_a_second_listener_on_one_vault_does_not_start(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    first = start_process(tmp_path, settings)
    try:
        second_folder = tmp_path / "second"
        second_folder.mkdir()
        second = start_process(second_folder, settings)
        assert second.process.wait(60) != 0
        assert "AlreadyListening" in second.log
    finally:
        assert first.end() == 0


def test_sigterm_finishes_what_is_in_hand(tmp_path: Path) -> None:
    made = slices.series(tmp_path / "s", 40, size=256)
    child = start_process(tmp_path, settings_for(tmp_path))
    timer = threading.Timer(0.3, child.process.terminate)
    timer.start()
    try:
        acknowledged = send(child, made)
        assert child.process.wait(60) == 0
    finally:
        child.kill()
    oracle(tmp_path, acknowledged, made)
    records = Records(Database(settings_for(tmp_path).records_url))
    assert all(a["closed_at"] for a in records.rows("arrivals")), "no association was left open in the record"
    records.database.close()
