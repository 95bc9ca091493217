"""Instances per second into the node, side by side with Orthanc itself and DCMTK's storescp.

The same files, DCMTK's storescu as every sender, TCP_NODELAY=1 on all arms (without it each waits for delayed
acknowledgements and nothing else is measured).  Arms take turns in every round, so that a slow minute of the machine is
everybody's.  Only the node's listener runs; it answers after fsync and commit, which the two others do not promise.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import generate_uid

from bench.machine import about, machine, save, table
from dicom_node.demo import Fate, make_study
from dicom_node.demo.sending import Peer
from dicom_node.demo.site import Site, SiteOptions, free_ports

FILES = 150
SENDERS = (1, 2, 4)
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def run(rounds: int = 3) -> None:
    facts = machine()
    folder = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
    try:
        figures = _measure(folder, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    head = ["receiver", *(f"{n} sender{'s' if n > 1 else ''}" for n in SENDERS), "kept when a second joins"]
    rows = []
    for arm, by_senders in figures.items():
        medians = {n: statistics.median(by_senders[str(n)]) for n in SENDERS}
        kept = medians[2] / medians[1]
        rows.append([arm, *(f"{medians[n]:.0f}" for n in SENDERS), f"{100 * kept:.0f} %"])
    print(table(f"Instances per second, MR slices of 256 x 256 (129 kB), {FILES} per sender", head, rows))
    print(about(facts))
    print(f"written: {save('ingest', facts, figures)}")


def _measure(folder: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    source = make_study(folder / "source", Fate.LESION, only=[3]).folder
    slices = sorted(source.glob("*/*.dcm"))
    # only the listener runs, and originals stay with it: forwarding them would feed Orthanc while Orthanc is measured
    options = SiteOptions(folder=folder / "site", process="listen", changes={"orthanc": {"pass_originals": False}})
    with Site(options) as site, _Storescp(folder / "storescp") as dcmtk:
        _wait_open(site.node_peer)
        arms: dict[str, Callable[[], Peer]] = {
            "dicom-ai-node": lambda: site.node_peer,
            "Orthanc": lambda: site.orthanc_peer,
            "DCMTK storescp": lambda: dcmtk.peer,
        }
        figures: dict[str, dict[str, list[float]]] = {arm: {str(n): [] for n in SENDERS} for arm in arms}
        for turn in range(rounds):
            for senders in SENDERS:
                names = list(arms)
                for arm in names[turn % len(names) :] + names[: turn % len(names)]:
                    sets = [_copies(slices, folder / "sets" / str(n)) for n in range(senders)]
                    figures[arm][str(senders)].append(_rate(sets, arms[arm]()))
                    shutil.rmtree(folder / "sets")
    return figures


def _copies(slices: list[Path], target: Path) -> Path:
    """One study of `FILES` new objects: the same pixels under UIDs that nobody has seen."""
    target.mkdir(parents=True)
    study, series = generate_uid(), generate_uid()
    for number in range(FILES):
        dataset = dcmread(slices[number % len(slices)])
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = number + 1
        dataset.save_as(target / f"{number:04d}.dcm")
    return target


def _rate(sets: list[Path], peer: Peer) -> float:
    """Instances per second over all senders, from the first start to the last end, process starts included."""
    begin = time.perf_counter()
    senders = [
        subprocess.Popen(
            ["storescu", "+sd", "-aet", "DEMO", "-aec", peer.ae_title, peer.host, str(peer.port), str(folder)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for folder in sets
    ]
    for sender in senders:
        _, said = sender.communicate(timeout=300)
        if sender.returncode != 0:
            raise RuntimeError(f"storescu ended with {sender.returncode}: {said.decode()[-500:]}")
    return len(sets) * FILES / (time.perf_counter() - begin)


def _wait_open(peer: Peer, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection((peer.host, peer.port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"{peer.ae_title} does not listen")


class _Storescp:
    """DCMTK's storescp, one process per association, bytes as they come, into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (port,) = free_ports(1)
        self.peer = Peer("STORESCP", "127.0.0.1", port)

    def __enter__(self) -> _Storescp:
        self._folder.mkdir(parents=True)
        command = ["storescp", "--fork", "+B", "-aet", "STORESCP", "-od", str(self._folder), str(self.peer.port)]
        self._process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_open(self.peer)
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.terminate()
        self._process.wait(10)
