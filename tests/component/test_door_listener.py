"""The C-STORE listener against real senders (DCMTK, pynetdicom) and against hostile ones."""

from __future__ import annotations

import gc
import os
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node.door import Disk, Door, Intake, Vault
from dicom_node.door.table import SOP_CLASSES, TRANSFER_SYNTAXES, is_kept
from dicom_node.settings import Settings
from tests.support import slices
from tests.support.listening import Records, migrated, settings_for, until
from tests.support.peers_dimse import associate, associate_request, association, encode, store_raw

pytestmark = pytest.mark.component


class OpenDoor(Records):
    """A door alone: no indexer, no gatherer."""

    def __init__(self, settings: Settings, disk: Disk | None = None) -> None:
        self.database = migrated(settings)
        self.vault = Vault(
            settings.data.folder, disk or Disk(), max_object_bytes=int(settings.door.max_object_mb * 1024 * 1024)
        )
        self.intake = Intake(self.vault, self.database)
        self.intake.recover()
        self.door = Door(settings, self.intake)

    @property
    def port(self) -> int:
        return self.door.port

    def files(self) -> list[Path]:
        return sorted(p for p in self.vault.root.rglob("*") if p.is_file())


@contextmanager
def opened(folder: Path, disk: Disk | None = None, **limits: Any) -> Iterator[OpenDoor]:
    node = OpenDoor(settings_for(folder, door=limits), disk)
    node.door.start()
    try:
        yield node
    finally:
        node.door.stop()
        node.database.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[OpenDoor]:
    with opened(tmp_path) as node:
        yield node


# who may come in


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [("STRANGER", "AINODE", (1, 1, 3)), ("ORTHANC", "OTHERNODE", (1, 1, 7)), ("orthanc", "AINODE", (1, 1, 3))],
)
def test_deny_first(node: OpenDoor, calling: str, called: str, reason: tuple[int, int, int]) -> None:
    assoc = associate(node.port, calling=calling, called=called)
    assert assoc.is_rejected
    answer = assoc.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == reason
    assert node.count("arrivals") == 0


def test_a_sender_with_an_address_must_come_from_it(tmp_path: Path) -> None:
    senders = [{"ae_title": "ORTHANC", "address": "127.0.0.77"}]
    with opened(tmp_path, senders=senders) as node:
        assert associate(node.port).is_rejected


def test_echo_needs_no_row(node: OpenDoor) -> None:
    done = subprocess.run(
        ["echoscu", "-aet", "ORTHANC", "-aec", "AINODE", "127.0.0.1", str(node.port)],
        capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert node.count("arrivals") == 0


@pytest.mark.parametrize("sop_class", filter(is_kept, SOP_CLASSES))
def test_every_class_of_the_table_is_accepted_and_stored(node: OpenDoor, sop_class: str) -> None:
    ds = slices.slice_of("1.2", "1.3", 1, SOPClassUID=sop_class)
    with association(node.port, sop_class=sop_class) as assoc:
        assert assoc.send_c_store(_with_meta(ds)).Status == 0
    assert node.count("instances", sop_class_uid=sop_class) == 1


@pytest.mark.parametrize(
    "sop_class", ["1.2.840.10008.5.1.4.1.1.66", "1.2.840.10008.5.1.4.1.1.4.3", "1.2.826.0.1.3680043.9.1"]
)
def test_other_classes_are_not_negotiated(node: OpenDoor, sop_class: str) -> None:
    assoc = associate(node.port, sop_class=sop_class)
    rejected = [c for c in assoc.rejected_contexts if c.abstract_syntax == sop_class]
    assert [c.result for c in rejected] == [3]
    assoc.release()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.110"])
def test_other_transfer_syntaxes_are_not_negotiated(node: OpenDoor, syntax: str) -> None:
    assoc = associate(node.port, syntax=syntax)
    assert [c.result for c in assoc.rejected_contexts] == [4]
    assoc.release()


def test_every_transfer_syntax_of_the_table_is_negotiated(node: OpenDoor) -> None:
    for syntax in TRANSFER_SYNTAXES:
        with association(node.port, syntax=syntax) as assoc:
            assert len(assoc.accepted_contexts) == 2


# what is kept


def test_the_bytes_are_kept_as_they_came(node: OpenDoor, tmp_path: Path) -> None:
    made = slices.series(tmp_path / "s", 3)
    assert slices.storescu(node.port, made.files).returncode == 0
    for row, file in zip(node.rows("instances"), made.files, strict=True):
        stored = dcmread(node.vault.data_folder / row["path"])
        sent = dcmread(file)
        assert stored.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert encode(stored) == encode(sent)
        assert (row["study_uid"], row["series_uid"]) == (made.study_uid, made.series_uid)
    (arrival,) = until(lambda: [a for a in node.rows("arrivals") if a["closed_at"]])
    assert (arrival["calling_ae"], arrival["released"], arrival["instances"]) == ("ORTHANC", True, 3)


@pytest.mark.parametrize("name", ["RLE", "JPEG", "JPEG 2000", "JPEG-LS"])
def test_compressed_originals_are_kept_compressed(node: OpenDoor, data_dir: Path, tmp_path: Path, name: str) -> None:
    subprocess.run(
        ["tar", "-xJf", str(data_dir / "dicom" / "transfer-syntaxes.tar.xz"), "-C", str(tmp_path)], check=True
    )
    found = 0
    for file in sorted(tmp_path.rglob("*.dcm")):
        ds = dcmread(file)
        syntax = str(ds.file_meta.TransferSyntaxUID)
        label = TRANSFER_SYNTAXES.get(syntax, "")
        if not label.startswith(name) or str(ds.SOPClassUID) not in SOP_CLASSES:
            continue
        found += 1
        with association(node.port, sop_class=str(ds.SOPClassUID), syntax=syntax) as assoc:
            assert assoc.send_c_store(ds).Status == 0
        assert node.count("instances", uid=str(ds.SOPInstanceUID), transfer_syntax_uid=syntax) == 1
    assert found, f"no {name} file in the data folder"


def test_one_study_from_five_senders_three_times_at_once(node: OpenDoor, tmp_path: Path) -> None:
    made = slices.series(tmp_path / "s", 12)
    barrier = threading.Barrier(15)

    def send(_: int) -> int:
        barrier.wait(20)
        return slices.storescu(node.port, made.files).returncode

    with ThreadPoolExecutor(15) as pool:
        assert list(pool.map(send, range(15))) == [0] * 15
    assert node.count("instances") == 12
    assert node.count("copies") == 0
    assert len([f for f in node.files() if f.suffix == ".dcm"]) == 12
    assert node.door.refused == {}


def test_senders_at_once_with_differing_bytes_keep_one_of_each(node: OpenDoor) -> None:
    uid = str(generate_uid())
    data = [encode(slices.slice_of("1.2", "1.3", 1, uid=uid, InstanceNumber=n)) for n in range(4)]
    barrier = threading.Barrier(12)

    def send(n: int) -> int:
        with association(node.port) as assoc:
            barrier.wait(20)
            return store_raw(assoc, data[n % 4], slices.MR, uid)[0]

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(send, range(12))) == {0}
    assert (node.count("instances"), node.count("copies")) == (1, 3)


# what is refused


def test_the_command_set_is_compared_with_the_data_set(node: OpenDoor) -> None:
    ds = slices.slice_of("1.2", "1.3", 1, uid="1.2.3.4")
    data = encode(ds)
    ct = "1.2.840.10008.5.1.4.1.1.2"
    cases: list[tuple[bytes, str, str, int, str]] = [
        (data, slices.MR, "1.2.3.5", 0xA900, "uid-mismatch"),
        (data, ct, "1.2.3.4", 0xA900, "uid-mismatch"),
        (data, slices.MR, "../../x", 0xC005, "uid-invalid"),
        (data[:-50], slices.MR, "1.2.3.4", 0xC002, "dicom-truncated"),
        (encode(ds, implicit=True), slices.MR, "1.2.3.4", 0xC002, "dicom-malformed"),
        (b"\xff" * 500, slices.MR, "1.2.3.4", 0xC002, "dicom-malformed"),
    ]
    for sent, sop_class, uid, status, comment in cases:
        with association(node.port) as assoc:
            assert store_raw(assoc, sent, sop_class, uid) == (status, comment)
    assert node.files() == [] and node.count("instances") == 0
    with association(node.port) as assoc:
        assert store_raw(assoc, data, slices.MR, "1.2.3.4") == (0, "")


def test_a_command_set_without_a_uid_ends_the_association(node: OpenDoor) -> None:
    ds = slices.slice_of("1.2", "1.3", 1, size=1500)
    with association(node.port) as assoc:
        assert store_raw(assoc, encode(ds), slices.MR, "")[0] == -1
        until(lambda: assoc.is_aborted)
    until(lambda: node.door.active() == 0)
    assert node.files() == []


def test_too_large_is_permanent_and_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, max_object_mb=1.5) as node:
        big = slices.slice_of("1.2", "1.3", 1, size=1200)
        with association(node.port) as assoc:
            status = store_raw(assoc, encode(big), slices.MR, str(big.SOPInstanceUID))
            assert status == (0xC003, "too-large")
            small = slices.slice_of("1.2", "1.3", 2)
            assert store_raw(assoc, encode(small), slices.MR, str(small.SOPInstanceUID)) == (0, "")
        assert len(node.files()) == 1


def test_a_full_disk_is_answered_at_once_and_later_accepted(tmp_path: Path) -> None:
    class Fullable(Disk):
        is_full = True

        def free_bytes(self, path: Path) -> tuple[int, int]:
            return (0, 100) if self.is_full else (100, 100)

    disk = Fullable()
    with opened(tmp_path, disk) as node:
        node.vault._min_free = (10.0, 0.0)
        ds = slices.slice_of("1.2", "1.3", 1)
        with association(node.port) as assoc:
            assert store_raw(assoc, encode(ds), slices.MR, str(ds.SOPInstanceUID)) == (0xA700, "storage-full")
            disk.is_full = False
            assert store_raw(assoc, encode(ds), slices.MR, str(ds.SOPInstanceUID)) == (0, "")


def test_a_fault_of_ours_is_0110_without_its_text(
    node: OpenDoor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError(slices.MARKER)

    monkeypatch.setattr(node.intake, "accept", fail)
    ds = slices.slice_of("1.2", "1.3", 1)
    with association(node.port) as assoc:
        assert store_raw(assoc, encode(ds), slices.MR, str(ds.SOPInstanceUID)) == (0x0110, "processing-failure")
    out, err = capfd.readouterr()
    assert "door.store-refused" in out + err and slices.MARKER not in out + err


# how transfers end


def test_an_abort_in_the_middle_leaves_nothing(node: OpenDoor) -> None:
    ds = slices.slice_of("1.2", "1.3", 1, size=1500)
    data, uid = encode(ds), str(ds.SOPInstanceUID)
    for cut in (2_000, 1_500_000, 4_000_000):
        _send_part(node.port, data, uid, cut)
    until(lambda: node.door.active() == 0)
    assert node.files() == []
    assert node.count("instances") == 0 and node.count("arrivals") == 0
    with association(node.port) as assoc:
        assert store_raw(assoc, data, slices.MR, uid) == (0, "")


def test_an_aborted_association_keeps_what_was_acknowledged(node: OpenDoor) -> None:
    ds = slices.slice_of("1.2", "1.3", 1)
    assoc = associate(node.port)
    assert store_raw(assoc, encode(ds), slices.MR, str(ds.SOPInstanceUID)) == (0, "")
    assoc.abort()
    (arrival,) = until(lambda: [a for a in node.rows("arrivals") if a["closed_at"]])
    assert (arrival["released"], arrival["instances"]) == (False, 1)
    assert node.count("instances") == 1


def test_stopping_ends_every_association_and_frees_the_port(tmp_path: Path) -> None:
    with opened(tmp_path) as node:
        port = node.port
        assocs = [associate(port) for _ in range(3)]
        silent = socket.create_connection(("127.0.0.1", port))
        begun = time.monotonic()
        node.door.stop()
        assert time.monotonic() - begun < 5
        until(lambda: not any(a.is_established for a in assocs))
        until(lambda: node.door.active() == 0)
        silent.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=2)


# hostile peers


def test_a_pdu_that_claims_4_gb_is_not_swallowed(node: OpenDoor) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    peers = []
    for _ in range(5):
        peer = socket.create_connection(("127.0.0.1", node.port), timeout=10)
        peer.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF) + bytes(200_000))
        peers.append(peer)
    for peer in peers:
        assert _is_closed(peer)
    assert process.memory_info().rss - before < 20e6


def test_a_p_data_longer_than_announced_ends_the_association(node: OpenDoor) -> None:
    peer = socket.create_connection(("127.0.0.1", node.port), timeout=10)
    peer.sendall(associate_request())
    assert peer.recv(1)[0] == 2
    peer.sendall(struct.pack(">BBL", 4, 0, 50_000_000) + bytes(100_000))
    assert _is_closed(peer)


def test_requests_without_end_and_without_reading_answers_are_cut(node: OpenDoor) -> None:
    peer = socket.create_connection(("127.0.0.1", node.port), timeout=10)
    peer.sendall(associate_request())
    peer.recv(4096)
    command = struct.pack(">BBL", 4, 0, 4 + 2 + 10_000) + struct.pack(">LBB", 2 + 10_000, 1, 1) + bytes(10_000)
    with pytest.raises(ConnectionError):
        _send_slowly(peer, [command] * 200, 0.005)
    until(lambda: node.door.active() == 0)


def test_undecodable_messages_abort_and_say_nothing(node: OpenDoor, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(7)
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", node.port), timeout=10) as peer:
            peer.sendall(associate_request())
            peer.recv(4096)
            noise = slices.MARKER.encode() + rng.randbytes(300)
            fragment = struct.pack(">LBB", 2 + len(noise), 1, 3) + noise
            peer.sendall(struct.pack(">BBL", 4, 0, len(fragment)) + fragment)
            assert _is_closed(peer)
    until(lambda: node.door.active() == 0)
    out, err = capfd.readouterr()
    assert slices.MARKER not in out + err and "Traceback" not in out + err


def test_a_trickling_peer_is_given_a_deadline(tmp_path: Path) -> None:
    with opened(tmp_path, dimse_timeout_s=1.0, acse_timeout_s=1.0) as node:
        request = associate_request()
        peer = socket.create_connection(("127.0.0.1", node.port), timeout=10)
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            _send_slowly(peer, [bytes([byte]) for byte in request[:100]], 0.1)
        assert time.monotonic() - begun < 5
        until(lambda: node.door.active() == 0)


def test_a_message_in_ever_so_small_pdus_ends_the_association(tmp_path: Path) -> None:
    """Each of them is whole and in time, and the association is never idle."""
    with opened(tmp_path, dimse_timeout_s=0.8) as node:
        peer = socket.create_connection(("127.0.0.1", node.port), timeout=10)
        peer.sendall(associate_request())
        peer.recv(4096)
        fragment = struct.pack(">BBL", 4, 0, 7) + struct.pack(">LBB", 3, 1, 1) + b"x"
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            _send_slowly(peer, [fragment] * 100, 0.1)
        assert 0.5 < time.monotonic() - begun < 5
        until(lambda: node.door.active() == 0)
        peer.close()


def test_a_message_that_is_slow_and_goes_on_is_kept(tmp_path: Path) -> None:
    """A line that brings a few kilobytes a second may take several times `dimse_timeout_s` for one image."""
    made = slices.series(tmp_path / "one", 1, size=128)
    (sent,) = made.files
    with (
        opened(tmp_path / "node", dimse_timeout_s=0.8, max_pdu_bytes=4096) as node,
        association(node.port) as assoc,
    ):
        send = assoc.dul.socket.send

        def slowly(data: bytes) -> None:
            send(data)
            if data[0] == 4:
                time.sleep(0.15)  # the slowness is what is tested

        assoc.dul.socket.send = slowly
        begun = time.monotonic()
        status, _ = store_raw(assoc, encode(dcmread(sent)), slices.MR, made.uids[0])
        assert status == 0 and time.monotonic() - begun > 1.2


def test_hostile_peers_do_not_stop_a_normal_sender(tmp_path: Path) -> None:
    """Hardening 4.4: silent, associating, trickling and aborting peers, one normal sender; then all is as it was."""
    with opened(tmp_path, acse_timeout_s=2.0, dimse_timeout_s=2.0) as node:
        made = slices.series(tmp_path / "warm", 3)
        assert slices.storescu(node.port, made.files).returncode == 0
        gc.collect()
        process = psutil.Process()
        until(lambda: node.door.active() == 0)
        threads, descriptors = threading.active_count(), process.num_fds()
        stop = threading.Event()
        request = associate_request()
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(40)]
        workers = [
            threading.Thread(target=work, args=(node.port, request, stop))
            for work in (_associating, _trickling, _aborting)
        ]
        for worker in workers:
            worker.start()
        slowest = 0.0
        try:
            for n in range(10):
                one = slices.series(tmp_path / f"n{n}", 3)
                begun = time.monotonic()
                assert slices.storescu(node.port, one.files, calling="MODALITY").returncode == 0
                slowest = max(slowest, time.monotonic() - begun)
        finally:
            stop.set()
            for worker in workers:
                worker.join(20)
            for peer in silent:
                peer.close()
        assert slowest < 5.0
        assert node.count("instances") == 33
        until(lambda: node.door.active() == 0, 20, "every connection ended")
        assert node.door.gate.counts() == (0, 0)
        until(lambda: threading.active_count() <= threads, 10, "threads are back")
        gc.collect()
        until(lambda: process.num_fds() <= descriptors + 2, 10, "descriptors are back")
        assert not list(node.vault.incoming.iterdir())


def test_a_flood_of_associations_is_rejected_as_transient(tmp_path: Path) -> None:
    with opened(tmp_path, max_associations_per_address=4) as node:
        assocs = []
        for _ in range(4):
            assoc = associate(node.port)
            assert assoc.send_c_echo().Status == 0
            assocs.append(assoc)
        fifth = associate(node.port)
        assert fifth.is_rejected
        assert (fifth.acceptor.primitive.result, fifth.acceptor.primitive.diagnostic) == (2, 2)
        assocs.pop().release()
        until(lambda: node.door.active() == 3)
        assocs.append(associate(node.port))
        assert assocs[-1].is_established
        for assoc in assocs:
            assoc.release()


# secrets


def test_markers_leak_nowhere(
    node: OpenDoor, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """I4: text attributes and UIDs are in vault and record, and nowhere else."""
    made = slices.series(tmp_path / "s", 2)
    assert slices.storescu(node.port, made.files).returncode == 0
    bad = slices.slice_of(made.study_uid, made.series_uid, 9)
    with association(node.port) as assoc:
        assert store_raw(assoc, encode(bad), slices.MR, "1.2.3.99")[1] == "uid-mismatch"
    out, err = capfd.readouterr()
    said = out + err + caplog.text + " ".join(os.listdir(node.vault.root))
    said += " ".join(str(p.relative_to(tmp_path)) for p in node.files())
    for secret in (slices.MARKER, made.study_uid, made.series_uid, *made.uids, "1.2.3.99"):
        assert secret not in said


def _with_meta(ds: Any) -> Any:
    from pydicom.dataset import FileMetaDataset

    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    return ds


def _is_closed(peer: socket.socket) -> bool:
    """The other side ends the connection within ten seconds (an abort may be said before)."""
    peer.settimeout(10)
    try:
        while peer.recv(4096):
            pass
    except ConnectionError:
        return True
    return True


def _send_slowly(peer: socket.socket, pieces: list[bytes], pause_s: float) -> None:
    for piece in pieces:
        peer.sendall(piece)
        time.sleep(pause_s)


def _send_part(port: int, data: bytes, uid: str, count: int) -> None:
    """Begin a C-STORE by hand, send `count` bytes of its data set, and drop the connection."""
    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE

    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 1, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = slices.MR, uid
    from io import BytesIO

    primitive.DataSet = BytesIO(data)
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        peer.sendall(associate_request())
        peer.recv(4096)
        sent = 0
        for pdata in message.encode_msg(1, 16382):
            (item,) = pdata.presentation_data_value_list
            body = struct.pack(">LB", 1 + len(item[1]), item[0]) + item[1]
            peer.sendall(struct.pack(">BBL", 4, 0, len(body)) + body)
            sent += len(item[1])
            if sent >= count:
                break
        time.sleep(0.05)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _repeat(work: Callable[[], None], stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(OSError):
            work()
        stop.wait(0.02)


def _associating(port: int, request: bytes, stop: threading.Event) -> None:
    kept: list[socket.socket] = []

    def work() -> None:
        peer = socket.create_connection(("127.0.0.1", port), timeout=5)
        peer.sendall(request)
        kept.append(peer)
        if len(kept) > 60:
            kept.pop(0).close()

    _repeat(work, stop)
    for peer in kept:
        peer.close()


def _trickling(port: int, request: bytes, stop: threading.Event) -> None:
    def work() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            for byte in request:
                peer.sendall(bytes([byte]))
                if stop.wait(0.2):
                    return

    _repeat(work, stop)


def _aborting(port: int, request: bytes, stop: threading.Event) -> None:
    def work() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            peer.sendall(request)
            peer.recv(100)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    _repeat(work, stop)
