"""Encryption at rest: what is sealed comes back as it was or not at all, and keys change without a stop (S5, S6)."""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_engine.geometry import Affine
from dicom_node import files
from dicom_node.auditing import KEY_FILE as AUDIT_KEYS
from dicom_node.auditing import AuditKeys
from dicom_node.desks.codes import KEY_FILE
from dicom_node.door import Disk, Vault
from dicom_node.sealing import at_rest, reseal
from dicom_node.sealing.at_rest import CHUNK_BYTES
from dicom_node.sealing.box import Box
from dicom_node.sealing.master_keys import HEAD_BYTES, MAGIC, TAG_BYTES, AtRestRefused, Keys, SealBroken
from dicom_node.settings import Settings, SettingsRefused
from dicom_node.spool import Spool
from dicom_node.volume import load_volume, save_volume
from dicom_node.words import Volume
from portal import TicketOffice
from portal.luna.keys import NAME as LUNA_KEYS
from portal.luna.keys import KeyFile
from tests.support.sealing import add_key, sealing

pytestmark = pytest.mark.unit

SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    with sealing(tmp_path / "keys") as made:
        yield made


def stored(path: Path, data: bytes) -> Path:
    path.write_bytes(at_rest.seal(data))
    return path


# there and back


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_comes_back_and_is_not_on_the_disk(keys: Keys, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = stored(tmp_path / "file", data)
    on_disk = path.read_bytes()
    assert on_disk.startswith(MAGIC) and len(on_disk) == HEAD_BYTES + size + TAG_BYTES * max(1, -(-size // CHUNK_BYTES))
    assert at_rest.is_sealed(path) and at_rest.size(path) == size
    assert at_rest.read(path) == data
    if size > 64:
        assert not any(data[at : at + 16] in on_disk for at in range(0, size - 16, 997))
    with at_rest.opened(path) as file, at_rest.descriptor(path) as real:
        assert file.read() == data and real.read() == data
        assert os.fstat(real.fileno()).st_size == size
    assert at_rest.seal(data) != on_disk, "every file has a key of its own"


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.binary(max_size=CHUNK_BYTES + 3), max_size=5),
    places=st.lists(st.tuples(st.integers(0, 5 * CHUNK_BYTES), st.integers(0, 2 * CHUNK_BYTES)), max_size=6),
)
def test_any_pieces_and_any_places(
    pieces: list[bytes], places: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    with sealing(folder / "keys"):
        writer = at_rest.writer()
        (folder / "file").write_bytes(b"".join([*(bytes(writer.update(p)) for p in pieces), writer.finish()]))
        data = b"".join(pieces)
        with at_rest.Reader(folder / "file") as file:
            for offset, length in places:
                assert file.pread(length, offset) == data[offset : offset + length]
            assert file.seek(0, os.SEEK_END) == len(data)


def test_without_the_option_nothing_changes(tmp_path: Path) -> None:
    data = MAGIC + b"a stranger's file may begin like this" * 9
    assert at_rest.seal(data) == data
    path = stored(tmp_path / "file", data)
    assert at_rest.read(path) == data and not at_rest.is_sealed(path)


def test_what_was_stored_before_stays_readable(tmp_path: Path) -> None:
    path = stored(tmp_path / "file", b"before")
    with sealing(tmp_path / "keys"):
        assert at_rest.read(path) == b"before" and not at_rest.is_sealed(path)


# tampering


def test_no_byte_can_be_changed_cut_off_moved_or_added_unseen(keys: Keys, tmp_path: Path) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 100)
    path = stored(tmp_path / "file", data)
    whole = path.read_bytes()
    chunk = CHUNK_BYTES + TAG_BYTES
    first, second, third = (whole[HEAD_BYTES + n * chunk : HEAD_BYTES + (n + 1) * chunk] for n in range(3))
    head = whole[:HEAD_BYTES]
    other = at_rest.seal(data)
    forged = {
        **{f"byte {at}": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
           for at in (8, 12, 24, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + chunk - 1, len(whole) - 1)},
        **{f"cut at {at}": whole[:at]
           for at in (HEAD_BYTES, HEAD_BYTES + 5, HEAD_BYTES + 16, HEAD_BYTES + chunk, HEAD_BYTES + chunk + 7,
                      HEAD_BYTES + chunk + 16, HEAD_BYTES + 2 * chunk, HEAD_BYTES + 2 * chunk + 16, len(whole) - 1)},
        "swapped": head + second + first + third,
        "dropped": head + first + third,
        "twice": head + first + first + second + third,
        "longer": whole + b"\0" * 20,
        "another file's chunk": head + first + other[HEAD_BYTES + chunk : HEAD_BYTES + 2 * chunk] + third,
        "another file's head": other[:HEAD_BYTES] + whole[HEAD_BYTES:],
    }  # fmt: skip
    for name, forgery in forged.items():
        path.write_bytes(forgery)
        assert _is_refused(path), name
    path.write_bytes(whole)
    assert at_rest.read(path) == data


def _is_refused(path: Path) -> bool:
    try:
        at_rest.read(path)
    except SealBroken:
        return True
    return False


def test_a_file_that_cannot_be_opened_gives_its_descriptor_back_once(keys: Keys, tmp_path: Path) -> None:
    """Its number is the next file's, a database's for one, before the last reference to the failure goes."""
    path = stored(tmp_path / "file", b"picture")
    path.write_bytes(path.read_bytes()[: HEAD_BYTES + 5])
    with pytest.raises(SealBroken) as broken:
        at_rest.Reader(path)
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        del broken
        gc.collect()
        os.fstat(other)
    finally:
        with contextlib.suppress(OSError):
            os.close(other)


# keys


def test_a_new_key_seals_at_once_and_the_old_one_opens(keys: Keys, tmp_path: Path) -> None:
    old = keys.ids[0]
    first = stored(tmp_path / "first", b"first")
    new = add_key(tmp_path / "keys")
    assert keys.ids == (new, old), "followed without a restart"
    second = stored(tmp_path / "second", b"second")
    assert second.read_bytes()[8:12].hex() == new
    assert at_rest.read(first) == b"first" and at_rest.read(second) == b"second"
    # the old key goes: what it sealed cannot be opened, and the text names the key that is missing
    lines = (tmp_path / "keys").read_text().splitlines()
    files.write_durably(tmp_path / "keys", f"{lines[0]}\n".encode())
    assert at_rest.read(second) == b"second"
    with pytest.raises(SealBroken, match=old):
        at_rest.read(first)


@pytest.mark.parametrize(
    ("text", "mode", "refused"),
    [
        (f"{'a' * 8} {'b' * 64}\n", 0o644, "0644"),
        ("", 0o600, "no key"),
        ("# nothing\n", 0o600, "no key"),
        (f"{'a' * 8} {'b' * 62}\n", 0o600, "line 1"),
        (f"{'a' * 8} {'b' * 64}\n{'a' * 8} {'c' * 64}\n", 0o600, "line 2"),
        (f"{'z' * 8} {'b' * 64}\n", 0o600, "line 1"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_refused_and_not_printed(
    tmp_path: Path, text: str, mode: int, refused: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(AtRestRefused, match=refused) as told:
        at_rest.use(path, seals=True)
    assert "bbbb" not in str(told.value)


def test_encryption_without_a_key_file_refuses_the_start() -> None:
    with pytest.raises(ValueError, match=r"data\.key_file"):
        Settings(data={"encrypt": True})


# the rooms that store


def test_artefacts_and_uploads_keep_their_names_and_lose_their_words(keys: Keys, tmp_path: Path) -> None:
    data = b"PHIMARKER" * 30_000
    sha256, relative = files.keep(tmp_path / "artefacts", data)
    assert sha256 == hashlib.sha256(data).hexdigest() and files.load(tmp_path / "artefacts", relative, sha256) == data
    spool = Spool(tmp_path / "spool")
    part = spool.part()
    for start in range(0, len(data), 10_000):
        part.write(data[start : start + 10_000])
    upload = spool.keep(part)
    assert upload.sha256 == sha256 and upload.size_bytes == len(data)
    assert at_rest.read(spool.path(upload.sha256)) == data
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"PHIMARKER" in p.read_bytes()]


def test_a_volume_is_mapped_from_memory(keys: Keys, tmp_path: Path) -> None:
    array = np.arange(60 * 61 * 62, dtype=np.float32).reshape(60, 61, 62)
    valid = array > 7
    save_volume(_volume(array, valid), tmp_path / "volume")
    assert at_rest.is_sealed(tmp_path / "volume") and array[30].tobytes() not in (tmp_path / "volume").read_bytes()
    found = load_volume(tmp_path / "volume")
    assert np.array_equal(found.array, array) and found.valid is not None and np.array_equal(found.valid, valid)
    assert not found.array.flags.writeable


def _volume(array: np.ndarray, valid: np.ndarray) -> Volume:
    return Volume(
        array=array,
        valid=valid,
        affine=Affine(np.eye(4)),
        slices=(),
        study_uid="1.2",
        series_uid="1.2.3",
        frame_of_reference_uid="1.2.4",
        modality="MR",
        attributes={"PatientName": "PHIMARKER"},
        notes=(),
    )


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_the_vault_names_files_by_what_was_received_and_finds_them_again(keys: Keys, tmp_path: Path, size: int) -> None:
    vault = Vault(tmp_path, Disk())
    vault.prepare()
    item = vault.receive("1.2", "1.2.3", "1.2.840.10008.1.2.1")
    data = b"PHIMARKER" + os.urandom(size)
    for start in range(0, len(data), 100_000):
        item.write(data[start : start + 100_000])
    placed = vault.place(item)
    on_disk = (tmp_path / placed.path).read_bytes()
    assert b"PHIMARKER" not in on_disk and b"DICM" not in on_disk
    received = b"".join(vault.storage.read(tmp_path / placed.path))
    assert received.endswith(data) and len(received) == placed.size_bytes
    assert hashlib.sha256(received).hexdigest() == placed.sha256 and placed.sha256 in placed.path
    adopted: list[str] = []
    recovery = Vault(tmp_path, Disk()).recover({}, lambda path, digest, size: adopted.append(digest) or True)
    assert adopted == [placed.sha256] and recovery.quarantined == 0


# bringing old files along


def test_everything_is_brought_to_what_the_settings_say(tmp_path: Path) -> None:
    data = tmp_path / "data"
    words = {
        name: (data / folder / name)
        for name, folder in (
            ("a.dcm", "vault/objects/aa"),
            ("b", "artefacts/bb"),
            ("c", "cache/volumes"),
            ("d", "spool"),
        )
    }
    for name, path in words.items():
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode() * 50_000)
        os.utime(path, (1_000_000, 1_000_000))
    (data / "records.sqlite").write_bytes(b"the database")
    (data / "vault" / "incoming").mkdir()
    (data / "vault" / "incoming" / "x.part").write_bytes(b"arriving")
    with sealing(tmp_path / "keys") as keys:
        first = keys.ids[0]
        assert reseal.apply(data, keys) == {"changed": 4}
        assert reseal.census(data) == {first: 4} and reseal.needed(data) == {first}
        second = add_key(tmp_path / "keys")
        assert reseal.apply(data, keys) == {"changed": 4}
        assert reseal.census(data) == {second: 4} and reseal.needed(data) == {second}
        assert reseal.apply(data, keys) == {"kept": 4}
        assert all(at_rest.read(path) == name.encode() * 50_000 for name, path in words.items())
        assert {path.stat().st_mtime for path in words.values()} == {1_000_000}
        assert {path.stat().st_mode & 0o777 for path in words.values()} == {0o600}
        # the first key may go now, and nothing needs it
        files.write_durably(tmp_path / "keys", (tmp_path / "keys").read_bytes().splitlines(keepends=True)[0])
        assert reseal.missing(data, Keys(tmp_path / "keys")) == set()
    assert reseal.missing(data, None) == {second}, "without its key the node does not start"
    with sealing(tmp_path / "keys", seals=False) as keys:
        assert reseal.apply(data, keys) == {"changed": 4}
    assert reseal.census(data) == {reseal.PLAIN: 4} and reseal.needed(data) == set()
    assert all(path.read_bytes() == name.encode() * 50_000 for name, path in words.items())
    assert (data / "records.sqlite").read_bytes() == b"the database"
    assert (data / "vault" / "incoming" / "x.part").read_bytes() == b"arriving"
    assert not list((data / "reseal").iterdir())


def test_what_is_deleted_meanwhile_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    (data / "artefacts").mkdir(parents=True)
    path = data / "artefacts" / "gone"
    path.write_bytes(b"deleted while it was brought along")
    copy = reseal._copy

    def copy_and_delete(source: Path, target: object) -> None:
        copy(source, target)  # type: ignore[arg-type]
        source.unlink()

    monkeypatch.setattr(reseal, "_copy", copy_and_delete)
    with sealing(tmp_path / "keys") as keys:
        assert reseal.apply(data, keys)["changed"] == 0
    assert not path.exists() and not list((data / "reseal").iterdir())


def test_what_a_killed_run_left_goes_and_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "artefacts").mkdir(parents=True)
    (data / "reseal").mkdir()
    (data / "reseal" / "left").write_bytes(b"PHIMARKER")
    with sealing(tmp_path / "other"):
        stored(data / "artefacts" / "lost", b"sealed by a key that is not here")
    with sealing(tmp_path / "keys") as keys, pytest.raises(SealBroken):
        reseal.apply(data, keys)
    assert not list((data / "reseal").iterdir())


# keys that lie in the data folder


def test_keys_of_the_data_folder_are_sealed_brought_and_rotated(tmp_path: Path) -> None:
    data, heads = tmp_path / "data", list[str]()
    (data / "tickets").mkdir(parents=True)

    def made() -> tuple[str, str, str]:
        """A viewer ticket, a kid and a kept secret, by the keys as they are; the audit log's sign too."""
        heads.append(AuditKeys(data / AUDIT_KEYS).sign(b"head")[0])
        office, keys, box = TicketOffice(data / "tickets"), KeyFile(data / LUNA_KEYS), Box(data / KEY_FILE)
        return office.issue("1.2.3"), keys.signing().kid, box.seal("secret", "eva")

    def still_good(ticket: str, kid: str, kept: str) -> bool:
        TicketOffice(data / "tickets").redeem(ticket, "1.2.3")
        assert [key.key_id for key in AuditKeys(data / AUDIT_KEYS).known()] == heads[:1]
        return KeyFile(data / LUNA_KEYS).signing().kid == kid and Box(data / KEY_FILE).open(kept, "eva") == "secret"

    before = made()
    plain = {name: (data / name).read_bytes() for name in reseal.KEY_FILES}
    private = json.loads(plain[LUNA_KEYS])["keys"][0]["private"].encode()
    with sealing(tmp_path / "keys") as keys:
        assert still_good(*before), "what lay there before the option was switched on is read as it is"
        assert reseal.apply(data, keys)["changed"] == 4
        on_disk = b"".join(p.read_bytes() for p in data.rglob("*") if p.is_file())
        assert not [
            one for one in (private, plain["tickets/ticket.key"], plain[KEY_FILE], plain[AUDIT_KEYS]) if one in on_disk
        ]
        between = made()
        add_key(tmp_path / "keys")
        assert reseal.apply(data, keys)["changed"] == 4 and still_good(*between)
        KeyFile(data / LUNA_KEYS).rotate(timedelta(hours=8))
        assert set(reseal.census(data)) == {keys.ids[0]}, "a new key is sealed like the old ones"
        assert all(stat.S_IMODE((data / name).stat().st_mode) == 0o600 for name in reseal.KEY_FILES)
        last = made()
    with sealing(tmp_path / "keys", seals=False) as keys:
        assert reseal.apply(data, keys)["changed"] == 4
    assert still_good(*last) and (data / KEY_FILE).read_bytes() == plain[KEY_FILE]


def test_new_keys_of_the_data_folder_are_sealed_from_the_first(tmp_path: Path) -> None:
    with sealing(tmp_path / "keys") as keys:
        TicketOffice(tmp_path / "data" / "tickets")
        KeyFile(tmp_path / "data" / LUNA_KEYS)
        Box(tmp_path / "data" / KEY_FILE).seal("secret", "eva")
        assert reseal.census(tmp_path / "data") == {keys.ids[0]: 3}
    # without the master key none of them is taken for another key
    with pytest.raises(SealBroken):
        TicketOffice(tmp_path / "data" / "tickets")
    with pytest.raises(SettingsRefused):
        KeyFile(tmp_path / "data" / LUNA_KEYS)
    with pytest.raises(SealBroken):
        Box(tmp_path / "data" / KEY_FILE).seal("secret", "eva")


def test_a_key_that_is_rotated_while_files_are_brought_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys_of_luna = KeyFile(tmp_path / "data" / LUNA_KEYS)
    real, rotated = reseal._exchange, []

    def late(one: Path, other: Path) -> None:
        if not rotated:
            rotated.append(keys_of_luna.rotate(timedelta(hours=8)).kid)
        real(one, other)

    monkeypatch.setattr(reseal, "_exchange", late)
    with sealing(tmp_path / "keys") as keys:
        reseal.apply(tmp_path / "data", keys)
        assert KeyFile(tmp_path / "data" / LUNA_KEYS).signing().kid == rotated[0]
        assert set(reseal.census(tmp_path / "data")) == {keys.ids[0]}


# nobody goes past it

PAST_IT = {
    # keys, settings, packages, and what lies outside the data folder
    "dicom_node/authority.py", "dicom_node/tls.py", "dicom_node/sealing/at_rest.py",
    "dicom_node/sealing/reseal.py", "dicom_node/files.py", "dicom_node/orthanc.py",
    "portal/viewer.py", "portal/pages/assets.py",
    # parts that are written through a sealer, and the children, which get a descriptor
    "dicom_node/spool.py", "dicom_node/volume/archive.py", "dicom_node/volume/cache.py",
    "dicom_node/photo/child.py", "dicom_node/photo/decode.py", "dicom_node/volume/child.py",
    "dicom_node/volume/nifti_child.py", "dicom_node/nursery.py",
    # files of the user's, from the command line
    "dicom_node/volume/nifti.py",
    # the one answer that is a stored file
    "portal/stored.py",
}  # fmt: skip
ROOMS = ("desks", "sealing", "door", "gather", "volume", "photo", "stages", "results", "record", "routing", "identity")


def test_stored_files_are_read_and_written_in_one_place() -> None:
    """A new way to a stored file that does not ask whether it is sealed fails here; see docs/decisions."""
    repository = Path(__file__).resolve().parents[2]
    sources = [
        *(repository / "dicom_node").glob("*.py"),
        *(p for room in ROOMS for p in (repository / "dicom_node" / room).rglob("*.py")),
        *(repository / "portal").rglob("*.py"),
    ]
    found = set()
    for path in sources:
        name = str(path.relative_to(repository))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _goes_past(node.func) and name not in PAST_IT:
                found.add(f"{name}:{node.lineno}")
    assert not found


def _goes_past(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        is_os = isinstance(function.value, ast.Name) and function.value.id == "os"
        return function.attr in {"read_bytes", "write_bytes", "write_text", "fromfile", "memmap"} or (
            function.attr == "fdopen" and is_os
        )
    return isinstance(function, ast.Name) and function.id in {"open", "FileResponse", "write_durably", "write_nifti"}
