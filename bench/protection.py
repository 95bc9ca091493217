"""What protection costs when images come in: by TLS, sealed on the disk, both, neither.

DCMTK's storescu as the sender, TCP_NODELAY=1, arms by turns.  Only the listener runs; it answers after fsync and commit
and then reads each object twice more (header, content digest), which with sealing means deciphering it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.ingest import ENVIRONMENT, FILES, _copies, _wait_open
from bench.machine import about, machine, save, table
from dicom_node import authority, files
from dicom_node.demo import Fate, make_study
from dicom_node.demo.sending import Peer
from dicom_node.demo.site import Site, SiteOptions, free_ports
from dicom_node.sealing import at_rest
from dicom_node.sealing.master_keys import new_key

SLICE_BYTES = 129_000
ARMS = ("plain", "TLS", "sealed", "TLS and sealed")


def run(rounds: int = 3) -> None:
    facts = machine()
    folder = Path(tempfile.mkdtemp(prefix="bench-protection-"))
    try:
        rates = _measure(folder, rounds)
        one = _of_one_slice(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    plain = statistics.median(rates["plain"])
    rows = [
        [
            arm,
            f"{statistics.median(rates[arm]):.0f}",
            f"{min(rates[arm]):.0f} to {max(rates[arm]):.0f}",
            f"{1000 / statistics.median(rates[arm]):.1f}",
            f"{100 * statistics.median(rates[arm]) / plain:.0f} %",
        ]
        for arm in ARMS
    ]
    title = f"MR slices of 256 x 256, {FILES} from one sender, {rounds} times, arms in turn"
    print(table(title, ["arm", "instances per second", "all rounds", "ms for each", "of plain"], rows))
    print(
        table("One slice, without the disk's part", [*one], [[f"{seconds * 1e3:.2f} ms" for seconds in one.values()]])
    )
    print(about(facts))
    print(f"written: {save('protection', facts, {'per_second': rates, 'seconds_of_one_slice': one})}")


def _measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    slices = sorted(make_study(folder / "source", Fate.LESION, only=[3]).folder.glob("*/*.dcm"))
    tls = _certificates(folder / "tls")
    files.write_durably(folder / "keys", f"{new_key()}\n".encode())
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with ExitStack() as ends:
        ways: dict[str, tuple[Peer, list[str]]] = {}
        for name, data in (("plain", {}), ("sealed", {"encrypt": True, "key_file": str(folder / "keys")})):
            (tls_port,) = free_ports(1)
            changes = {
                "orthanc": {"pass_originals": False},
                "tls": {key: str(path) for key, path in tls.items()},
                "data": data,
                "door": {"tls_port": tls_port},
            }
            site = ends.enter_context(Site(SiteOptions(folder=folder / name, process="listen", changes=changes)))
            _wait_open(site.node_peer)
            trust = ["+tls", str(folder / "tls" / "demo.key"), str(folder / "tls" / "demo.pem")]
            trust += ["+cf", str(tls["authority_file"])]
            ways[name] = (site.node_peer, [])
            ways["TLS" if name == "plain" else "TLS and sealed"] = (Peer("AINODE", "127.0.0.1", tls_port), trust)
        for turn in range(rounds):
            for number in range(len(ARMS)):
                arm = ARMS[(number + turn) % len(ARMS)]
                sent = _copies(slices, folder / "sets")
                rates[arm].append(_rate(sent, *ways[arm]))
                shutil.rmtree(sent)
    return rates


def _rate(folder: Path, peer: Peer, options: list[str]) -> float:
    """Instances per second of one sender, its start and the handshake included."""
    command = [
        "storescu",
        "+sd",
        *options,
        "-aet",
        "DEMO",
        "-aec",
        peer.ae_title,
        "localhost",
        str(peer.port),
        str(folder),
    ]
    begin = time.perf_counter()
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    return FILES / (time.perf_counter() - begin)


def _certificates(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    made = {
        "certificate_file": folder / "node.pem",
        "private_key_file": folder / "node.key",
        "authority_file": folder / "authority.pem",
    }
    authority.make_authority(made["authority_file"], "", datetime.now(UTC))
    for stem, name in (("node", "localhost"), ("demo", "DEMO")):
        pair = authority.issue(made["authority_file"], name, authority.LOCAL_NAMES, "", datetime.now(UTC), 2)
        authority.write_public(folder / f"{stem}.pem", pair[0])
        files.write_durably(folder / f"{stem}.key", pair[1])
    return made


def _of_one_slice(folder: Path) -> dict[str, Any]:
    """Median seconds to seal one slice, and to read it again, without the disk's part."""
    data, path = os.urandom(SLICE_BYTES), folder / "slice"
    at_rest.use(folder / "keys", seals=True)
    path.write_bytes(at_rest.seal(data))
    found = {}
    for what, call in (
        ("to seal a slice", lambda: at_rest.seal(data)),
        ("to read it again", lambda: at_rest.read(path)),
    ):
        taken = []
        for _ in range(200):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
        found[what] = statistics.median(taken)
    at_rest.use(None, seals=False)
    return found
