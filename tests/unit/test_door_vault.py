"""What a crash at any moment leaves, and what a disk that fails at any call does (hardening 2.4; I1, I10).

`RecordingDisk` notes every call of the storage port.  For every prefix of the notes, every folder that a crash could
legally leave is built: bytes that were not synchronised are absent, cut or zeroed; renames and new names whose folder
was not synchronised may be undone.  The vault's recovery then runs on it, and an oracle looks at what is left.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dicom_node.door import Disk, Intake, Vault
from dicom_node.door.intake import Arrival
from dicom_node.door.part10 import data_set_offset, file_meta, read_meta
from dicom_node.door.vault import BUFFER_BYTES
from dicom_node.record import Database
from dicom_node.record.arrivals import Kept, stored_paths
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.sealing.master_keys import MAGIC, SealBroken
from tests.support.sealing import sealing
from tests.unit.test_door_scan import encoded, small

pytestmark = pytest.mark.unit

MR, EXPLICIT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1"


def object_bytes(uid: str, pixel: int = 0, size: int = 128) -> bytes:
    return encoded(small(SOPInstanceUID=uid, PixelData=bytes([pixel]) * size))


def accept(intake: Intake, data: bytes, uid: str, arrival: Arrival | None = None, piece: int = 100_000) -> Kept:
    item = intake.vault.receive(MR, uid, EXPLICIT)
    for start in range(0, len(data), piece):
        item.write(data[start : start + piece])
    return intake.accept(item, MR, uid, EXPLICIT, arrival or Arrival("TEST", "127.0.0.1"))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    database.migrate()
    yield database
    database.close()


@pytest.fixture(params=["as it is", "sealed"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """How files lie on the disk: what a crash leaves must be found in either form."""
    with sealing(tmp_path / "keys") if request.param == "sealed" else nullcontext():
        yield request.param


def digest_of(path: Path) -> str:
    """sha256 of what a stored file holds; empty when it cannot be opened: a seal that a crash has torn."""
    try:
        return hashlib.sha256(at_rest.read(path)).hexdigest()
    except SealBroken:
        return ""


def rows(database: Database) -> dict[str, str]:
    with database.read() as connection:
        return dict(stored_paths(connection))


def files(root: Path) -> list[Path]:
    return sorted(p for p in (root / "vault").rglob("*") if p.is_file())


# the file itself


def test_what_is_stored_is_a_part_10_file_with_the_bytes_as_received(tmp_path: Path, database: Database) -> None:
    intake = Intake(Vault(tmp_path, Disk()), database)
    intake.recover()
    data = object_bytes("1.2.3", pixel=7, size=3 * BUFFER_BYTES)
    assert accept(intake, data, "1.2.3") is Kept.NEW
    (path,) = files(tmp_path)
    raw = path.read_bytes()
    assert raw[:132] == bytes(128) + b"DICM"
    assert raw[data_set_offset(raw) :] == data
    assert path.stem == hashlib.sha256(raw).hexdigest()
    assert read_meta(raw) == {2: MR, 3: "1.2.3", 0x10: EXPLICIT, 0x12: read_meta(raw)[0x12]}  # type: ignore[index]
    assert raw[132:].startswith(file_meta(MR, "1.2.3", EXPLICIT))
    assert path.stat().st_mode & 0o077 == 0


def test_the_same_bytes_again_change_nothing_and_other_bytes_are_kept_beside(
    tmp_path: Path, database: Database
) -> None:
    intake = Intake(Vault(tmp_path, Disk()), database)
    intake.recover()
    assert accept(intake, object_bytes("1.2.3"), "1.2.3") is Kept.NEW
    assert accept(intake, object_bytes("1.2.3"), "1.2.3") is Kept.SAME
    assert accept(intake, object_bytes("1.2.3", pixel=1), "1.2.3") is Kept.COPY
    assert accept(intake, object_bytes("1.2.3", pixel=1), "1.2.3") is Kept.SAME
    assert len(files(tmp_path)) == len(rows(database)) == 2


def test_refusals_leave_nothing(tmp_path: Path, database: Database) -> None:
    intake = Intake(Vault(tmp_path, Disk(), max_object_bytes=2 * BUFFER_BYTES), database)
    intake.recover()
    whole = object_bytes("1.2.3")
    for data, uid, code in (
        (whole, "1.2.4", RefusalCode.UID_MISMATCH),
        (whole, "../1", RefusalCode.UID_INVALID),
        (whole[:-20], "1.2.3", RefusalCode.DICOM_TRUNCATED),
        (object_bytes("1.2.3", size=3 * BUFFER_BYTES), "1.2.3", RefusalCode.TOO_LARGE),
        (b"", "1.2.3", RefusalCode.UID_INVALID),
    ):
        with pytest.raises(Refused) as refused:
            accept(intake, data, uid)
        assert refused.value.refusal.code is code
    assert files(tmp_path) == [] and rows(database) == {}


def test_a_transfer_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    vault = Vault(tmp_path, Disk())
    vault.prepare()
    item = vault.receive(MR, "1.2.3", EXPLICIT)
    item.write(bytes(2 * BUFFER_BYTES))
    assert len(files(tmp_path)) == 1
    item.discard()
    assert files(tmp_path) == []


def test_admission_stops_below_the_line(tmp_path: Path, database: Database) -> None:
    intake = Intake(Vault(tmp_path, Disk(), min_free_bytes=1e18), database)
    intake.recover()
    with pytest.raises(Refused) as refused:
        accept(intake, object_bytes("1.2.3"), "1.2.3")
    assert refused.value.refusal.code is RefusalCode.STORAGE_FULL
    assert files(tmp_path) == []


# start


@pytest.mark.usefixtures("stored")
def test_the_start_sweeps_adopts_and_quarantines(tmp_path: Path, database: Database) -> None:
    intake = Intake(Vault(tmp_path, Disk()), database)
    intake.recover()
    accept(intake, object_bytes("1.2.3"), "1.2.3")
    placed = intake.vault.place(_received(intake.vault, "1.2.4"))  # renamed, no row: K4
    (tmp_path / "vault" / "incoming" / "x.part").write_bytes(b"half")
    torn = tmp_path / "vault" / "objects" / "ab" / ("ab" * 32 + ".dcm")
    torn.write_bytes(b"torn")
    again = Intake(Vault(tmp_path, Disk()), database)
    found = again.recover()
    assert (found.parts_removed, found.adopted, found.quarantined, found.missing) == (1, 1, 1, ())
    assert placed.path in rows(database)
    assert accept(again, object_bytes("1.2.4"), "1.2.4") is Kept.SAME, "the sender sends again: nothing twice"
    assert Intake(Vault(tmp_path, Disk()), database).recover().adopted == 0


@pytest.mark.usefixtures("stored")
def test_an_adopted_object_is_claimed_by_its_sender(tmp_path: Path, database: Database) -> None:
    intake = Intake(Vault(tmp_path, Disk()), database)
    intake.recover()
    intake.vault.place(_received(intake.vault, "1.2.4"))
    again = Intake(Vault(tmp_path, Disk()), database)
    again.recover()
    accept(again, object_bytes("1.2.4"), "1.2.4", Arrival("MODALITY", "127.0.0.1", pass_on=True))
    with database.read() as connection:
        row = connection.exec_driver_sql("select calling_ae, pass_state from instances").one()
    assert tuple(row) == ("MODALITY", "pending"), "it must still be passed on to the archive"


@pytest.mark.usefixtures("stored")
def test_rows_without_a_file_block_readiness_until_the_file_is_back(tmp_path: Path, database: Database) -> None:
    intake = Intake(Vault(tmp_path, Disk()), database)
    intake.recover()
    accept(intake, object_bytes("1.2.3"), "1.2.3")
    (path,) = files(tmp_path)
    raw = path.read_bytes()
    path.unlink()
    again = Intake(Vault(tmp_path, Disk()), database)
    assert len(again.recover().missing) == 1
    trouble = again.vault.why_not_ready()
    assert trouble is not None and trouble.refusal.code is RefusalCode.NOT_READY
    with pytest.raises(Refused):
        accept(again, object_bytes("1.2.9"), "1.2.9")
    path.write_bytes(raw)
    again.look_again()
    assert again.vault.why_not_ready() is None


def _received(vault: Vault, uid: str) -> Any:
    item = vault.receive(MR, uid, EXPLICIT)
    item.write(object_bytes(uid))
    return item


# every state a crash could leave


@dataclass
class RecordingDisk(Disk):
    """The real disk, and a note of every call that changes it."""

    notes: list[tuple[Any, ...]] = field(default_factory=list)
    _paths: dict[int, Path] = field(default_factory=dict)

    def create(self, path: Path) -> int:
        handle = super().create(path)
        self._paths[handle] = path
        self.notes.append(("create", path))
        return handle

    def write(self, handle: int, data: Any) -> None:
        super().write(handle, data)
        self.notes.append(("write", self._paths[handle], bytes(data)))

    def sync(self, handle: int) -> None:
        super().sync(handle)
        self.notes.append(("sync", self._paths[handle]))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.notes.append(("rename", old, new))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.notes.append(("sync_folder", path))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.notes.append(("unlink", path))


class NoFolderSync(RecordingDisk):
    """The mistake that a kill test never finds."""

    def sync_folder(self, path: Path) -> None:
        return None


class NoFileSync(RecordingDisk):
    def sync(self, handle: int) -> None:
        return None


@dataclass
class _Inode:
    data: bytes = b""
    synced: bytes | None = None

    def after_crash(self) -> set[bytes]:
        """What its bytes may be: as synchronised, or any of what was on its way."""
        if self.synced == self.data:
            return {self.data}
        return {b"", self.data[: len(self.data) // 2], bytes(len(self.data)), self.data, self.synced or b""}


def crash_states(notes: list[tuple[Any, ...]]) -> Iterator[dict[Path, bytes]]:
    """Every folder (path -> bytes) that a crash after these notes may leave."""
    names: dict[Path, _Inode] = {}
    durable: dict[Path, _Inode] = {}
    for note in notes:
        match note:
            case ("create", path):
                names[path] = _Inode()
            case ("write", path, data):
                names[path].data += data
            case ("sync", path):
                names[path].synced = names[path].data
            case ("rename", old, new):
                names[new] = names.pop(old)
            case ("unlink", path):
                names.pop(path)
            case ("sync_folder", folder):
                for path in {*names, *durable}:
                    if path.parent == folder:
                        if path in names:
                            durable[path] = names[path]
                        else:
                            durable.pop(path, None)
    changed = [p for p in sorted({*names, *durable}) if names.get(p) is not durable.get(p)]
    for kept in itertools.product((True, False), repeat=len(changed)):
        view = dict(durable)
        for path, is_kept in zip(changed, kept, strict=True):
            source = names if is_kept else durable
            if path in source:
                view[path] = source[path]
            else:
                view.pop(path, None)
        inodes = list({id(i): i for i in view.values()}.values())
        for contents in itertools.product(*(sorted(i.after_crash()) for i in inodes)):
            by_inode = {id(i): c for i, c in zip(inodes, contents, strict=True)}
            yield {path: by_inode[id(inode)] for path, inode in view.items()}


def violations(tmp_path: Path, database: Database, disk: RecordingDisk) -> list[str]:
    """Accept two objects and one again; crash after every call; what the oracle has to say."""
    root = tmp_path / "data"
    intake = Intake(Vault(root, disk), database)
    intake.recover()
    disk.notes.clear()
    promised_after: list[dict[str, str]] = []
    for uid, size in (("1.2.3", 128), ("1.2.4", BUFFER_BYTES + 500), ("1.2.3", 128)):
        before = rows(database)
        seen = len(disk.notes)
        accept(intake, object_bytes(uid, size=size), uid, piece=700_000)
        # the row is committed after the object's last call and before the acknowledgement
        promised_after += [before] * (len(disk.notes) - seen)
    final = rows(database)
    found: list[str] = []
    for end in range(len(disk.notes) + 1):
        possible = [promised_after[end]] if end < len(disk.notes) else [final]
        if end and (end == len(disk.notes) or promised_after[end] != promised_after[end - 1]):
            possible.append(promised_after[end - 1] if end < len(disk.notes) else final)
        for number, state in enumerate(crash_states(disk.notes[:end])):
            for promised in possible:
                found += oracle(tmp_path / f"crash-{end}-{number}", root, state, promised)
    return found


def oracle(folder: Path, root: Path, state: dict[Path, bytes], promised: dict[str, str]) -> list[str]:
    vault = Vault(folder, Disk())
    vault.prepare()
    for path, data in state.items():
        (folder / path.relative_to(root)).write_bytes(data)
    adopted: list[str] = []
    recovery = vault.recover(promised, lambda path, sha256, size: bool(adopted.append(path)) or True)
    found = [f"row without a file: {path}" for path in recovery.missing]
    for path, sha256 in {**promised, **{p: Path(p).stem for p in adopted}}.items():
        file = folder / path
        if file.is_file() and digest_of(file) != sha256:
            found.append(f"row with other bytes: {path}")
    found += [f"left behind: {p.name}" for p in (folder / "vault" / "incoming").iterdir()]
    return found


def test_no_crash_loses_what_was_acknowledged(tmp_path: Path, database: Database, stored: str) -> None:
    disk = RecordingDisk()
    assert violations(tmp_path, database, disk) == []
    written = [note[2] for note in disk.notes if note[0] == "write"]
    assert any(data.startswith(MAGIC) for data in written) == (stored == "sealed"), "what this test has tried"


@pytest.mark.parametrize(
    ("stored", "disk"),
    [("as it is", NoFolderSync), ("as it is", NoFileSync), ("sealed", NoFileSync)],
    indirect=["stored"],
)
def test_the_enumeration_finds_a_missing_fsync(
    tmp_path: Path, database: Database, stored: str, disk: type[RecordingDisk]
) -> None:
    assert any(v.startswith("row with") for v in violations(tmp_path, database, disk()))


# the n-th call fails

CALLS = ("create", "write", "sync", "close", "rename", "sync_folder", "unlink")


class FailingDisk(Disk):
    """Fails at the n-th call from 1, once."""

    def __init__(self, at: int, error: int) -> None:
        self._left, self._error = at, error
        self.failed = ""
        self.is_armed = False

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name not in CALLS or not super().__getattribute__("is_armed"):
            return value

        def call(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self.failed = name
                if name == "close":
                    value(*arguments)  # POSIX: the descriptor is gone although close said no
                raise OSError(self._error, os.strerror(self._error))
            return value(*arguments)

        return call


@pytest.mark.parametrize(
    ("stored", "error"),
    [*(("as it is", error) for error in (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EACCES)), ("sealed", errno.EIO)],
    indirect=["stored"],
)
def test_any_call_may_fail_and_nothing_acknowledged_is_lost(
    tmp_path: Path, database: Database, stored: str, error: int
) -> None:
    for n in range(1, 30):
        uid = f"1.2.{error}.{n}"
        disk = FailingDisk(n, error)
        intake = Intake(Vault(tmp_path, disk), database)
        intake.recover()
        held = rows(database)
        disk.is_armed = True
        data = object_bytes(uid, size=BUFFER_BYTES + 500)
        try:
            outcome: Kept | None = accept(intake, data, uid, piece=700_000)
        except OSError:
            outcome = None
        if not disk.failed:
            assert outcome is Kept.NEW
            break
        if outcome is not None:
            assert len(rows(database)) == len(held) + 1
        assert set(held) <= set(rows(database))
        if disk.failed in ("sync", "sync_folder"):
            with pytest.raises(Refused) as refused:
                accept(intake, object_bytes("1.9"), "1.9")
            assert refused.value.refusal.code is RefusalCode.NOT_READY, "an fsync that failed once is never trusted"
        again = Intake(Vault(tmp_path, Disk()), database)
        assert again.recover().missing == ()
        assert accept(again, data, uid) in (Kept.NEW, Kept.SAME)
        assert all(digest_of(tmp_path / p) == s for p, s in rows(database).items())
        assert not any(p.name.endswith(".part") for p in files(tmp_path))
    else:
        pytest.fail("the last call was never reached")


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
    disk = Disk()
    handle = disk.create(tmp_path / "x")
    disk.write(handle, b"0123456789abcdef" * 3)
    disk.close(handle)
    assert (tmp_path / "x").read_bytes() == b"0123456789abcdef" * 3


@pytest.mark.usefixtures("stored")
def test_a_failed_commit_is_not_acknowledged(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    from dicom_node.record import arrivals

    intake = Intake(Vault(tmp_path, Disk()), database)
    intake.recover()

    def fail(*_: Any) -> Kept:
        raise OperationalError("INSERT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as broken:
        broken.setattr(arrivals, "add_instance", fail)
        with pytest.raises(OperationalError):
            accept(intake, object_bytes("1.2.3"), "1.2.3")
    assert accept(intake, object_bytes("1.2.3"), "1.2.3") is Kept.NEW
    assert len(rows(database)) == 1
