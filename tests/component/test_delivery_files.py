"""Files to real servers: SFTP, FTP, FTPS, HTTP, WebDAV, a folder.  Whatever happens on the way, afterwards the file is
there once, whole, under its own name; nothing half was ever visible; nothing was overwritten."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from peers.faulty_wire import FaultyWire
from peers.file_servers import PASSWORD, USER, Certificates, Ftp, LyingSftp, Sshd, Web

from dicom_node.delivery import (
    FolderTarget,
    FtpTarget,
    HttpTarget,
    OutgoingFile,
    Seen,
    SftpTarget,
    reach,
    send,
)
from dicom_node.delivery.types import FileTarget
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused

pytestmark = pytest.mark.component

DATA = hashlib.shake_256(b"result").digest(300_000)
NAME = "9f3c21/77aa-seg.dcm"
FILE = OutgoingFile.named(NAME, DATA)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@dataclass
class At:
    """A destination, and what really lies there, by name, seen from behind."""

    target: FileTarget
    look: Callable[[], dict[str, bytes]]
    put: Callable[[str, bytes], None]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def in_folder(target: FileTarget, folder: Path) -> At:
    def put(name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return At(target, lambda: tree(folder), put)


def ssh_user() -> str:
    import getpass

    return getpass.getuser()


def sftp_target(sshd: Sshd, folder: Path, **changes: object) -> SftpTarget:
    made = SftpTarget(
        "127.0.0.1",
        sshd.port,
        ssh_user(),
        (sshd.host_key,),
        private_key=sshd.key_file.read_text,
        folder=str(folder),
        timeout_s=20.0,  # a busy machine may take its time to fork a session
    )
    return replace(made, **changes)


def ftp_target(server: Ftp, **changes: object) -> FtpTarget:
    made = FtpTarget(
        "127.0.0.1",
        server.port,
        USER,
        lambda: PASSWORD,
        is_tls=server.certificate is not None,
        insecure_ok_because="" if server.certificate is not None else "loopback, in a test",
        timeout_s=10.0,
    )
    return replace(made, **changes)


KINDS = ("sftp", "ftp", "ftps", "http", "https-post", "webdav", "folder")


@pytest.fixture
def at(request: pytest.FixtureRequest, tmp_path: Path, sshd: Sshd, certificates: Certificates) -> Iterator[At]:
    home = tmp_path / "home"
    home.mkdir()
    good = certificates.issue("127.0.0.1")
    match request.param:
        case "sftp":
            yield in_folder(sftp_target(sshd, home), home)
        case "ftp" | "ftps":
            with Ftp(home, good if request.param == "ftps" else None) as ftp:
                yield in_folder(ftp_target(ftp, ca_file=certificates.ca_file), home)
        case "folder":
            yield in_folder(FolderTarget(home), home)
        case kind:
            with Web(good if kind == "https-post" else None, token="token-marker") as web:

                def put(name: str, data: bytes) -> None:
                    web.files[f"/in/{name}"] = data

                target = HttpTarget(
                    web.url,
                    method="POST" if kind == "https-post" else "PUT",
                    webdav=kind == "webdav",
                    secret=lambda: "token-marker",
                    is_bearer=True,
                    ca_file=certificates.ca_file,
                    timeout_s=10.0,
                )
                yield At(target, lambda: {k.removeprefix("/in/"): v for k, v in web.files.items()}, put)


def flat(kind: str) -> OutgoingFile:
    return OutgoingFile.named("77aa-seg.dcm", DATA) if kind == "https-post" else FILE


@pytest.fixture
def file(request: pytest.FixtureRequest) -> OutgoingFile:
    """POST goes to one URL: a receiver that makes names into folders is its own business."""
    return flat(request.node.callspec.params["at"])


@pytest.mark.parametrize("at", KINDS, indirect=True)
def test_a_file_arrives_once_whole_and_is_seen(at: At, file: OutgoingFile) -> None:
    first = send(file, at.target)
    assert first.seen is Seen.CONTENT and not first.was_already_there and first.sha256 == file.sha256
    assert at.look() == {file.name: DATA}
    again = send(file, at.target, attempt=2)
    assert again.was_already_there and again.seen is Seen.CONTENT
    assert at.look() == {file.name: DATA}


@pytest.mark.parametrize("at", KINDS, indirect=True)
@pytest.mark.parametrize(
    "other", [DATA[:-1] + b"\0", DATA[:1000], b"", DATA + b"\0"], ids=["same-size", "short", "empty", "long"]
)
def test_other_content_under_the_name_is_held_and_stays(at: At, file: OutgoingFile, other: bytes) -> None:
    at.put(file.name, other)
    with pytest.raises(Refused) as refused:
        send(file, at.target)
    assert refused.value.refusal.code is RefusalCode.DELIVERY_CONFLICT
    assert at.look() == {file.name: other}


@pytest.mark.parametrize("at", ["sftp", "ftp", "ftps", "folder"], indirect=True)
def test_an_empty_file_is_a_file(at: At, file: OutgoingFile) -> None:
    empty = OutgoingFile.named("empty-result.json", b"")
    assert send(empty, at.target).seen is Seen.CONTENT
    assert at.look() == {"empty-result.json": b""}


@pytest.mark.parametrize("at", ["sftp", "ftp", "ftps"], indirect=True)
def test_what_an_interrupted_try_left_is_gone_on_with(at: At, file: OutgoingFile) -> None:
    at.put(file.part, DATA[:200_000])
    send(file, at.target)
    assert at.look() == {file.name: DATA}


@pytest.mark.parametrize("at", ["sftp", "ftp", "ftps"], indirect=True)
@pytest.mark.parametrize(
    "left", [b"x" * 200_000, DATA + b"x", b"y" * len(DATA)], ids=["wrong", "longer", "whole-wrong"]
)
def test_a_remainder_of_other_bytes_never_gets_the_name(at: At, file: OutgoingFile, left: bytes) -> None:
    at.put(file.part, left)
    for attempt in (1, 2):
        try:
            send(file, at.target, attempt=attempt)
            break
        except PeerTrouble as trouble:
            assert (trouble.is_down, at.look()) == (False, {})  # noqa: PT017  which of the two tries it is, is open
    assert at.look() == {file.name: DATA}


@pytest.mark.parametrize("at", KINDS, indirect=True)
def test_a_destination_can_be_reached_without_sending(at: At) -> None:
    assert reach(at.target)
    assert at.look() == {}


# -- cut wires


@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("cut_up", [10, 1500, 3000, 100_000, 250_000, 301_500, 303_000])
def test_sftp_cut_anywhere_goes_on(sshd: Sshd, tmp_path: Path, cut_up: int, is_reset: bool) -> None:
    with FaultyWire(sshd.port, cut_up=cut_up, is_reset=is_reset) as wire:
        target = sftp_target(sshd, tmp_path, port=wire.port)
        with pytest.raises(PeerTrouble):
            send(FILE, target)
        assert set(tree(tmp_path)) <= {FILE.part}, "nothing half under the file's own name"
        send(FILE, target, attempt=2)
    assert tree(tmp_path) == {NAME: DATA}


def test_sftp_goes_on_where_it_was_cut_and_does_not_begin_anew(sshd: Sshd, tmp_path: Path) -> None:
    with FaultyWire(sshd.port, cut_up=250_000) as wire, pytest.raises(PeerTrouble):
        send(FILE, sftp_target(sshd, tmp_path, port=wire.port))
    deadline = time.monotonic() + 5
    while not (tmp_path / FILE.part).stat().st_size and time.monotonic() < deadline:
        time.sleep(0.05)  # the server still writes what it got
    time.sleep(0.2)
    kept = (tmp_path / FILE.part).stat()
    assert 0 < kept.st_size < len(DATA)
    with FaultyWire(sshd.port, cut_up=len(DATA) - 20_000) as wire:  # too little for the whole file
        send(FILE, sftp_target(sshd, tmp_path, port=wire.port), attempt=2)
    assert (tmp_path / NAME).stat().st_ino == kept.st_ino


@pytest.mark.parametrize("is_tls", [False, True], ids=["ftp", "ftps"])
@pytest.mark.parametrize("cut_after", [1, 70_000, 299_999])
def test_ftp_cut_in_the_middle_goes_on(
    tmp_path: Path, certificates: Certificates, is_tls: bool, cut_after: int
) -> None:
    certificate = certificates.issue("127.0.0.1") if is_tls else None
    with Ftp(tmp_path, certificate, cut_after=cut_after) as server:
        target = ftp_target(server, ca_file=certificates.ca_file)
        with pytest.raises(PeerTrouble):
            send(FILE, target)
        assert set(tree(tmp_path)) <= {FILE.part}
        begun = (tmp_path / FILE.part).stat().st_size
        server.commands.clear()
        send(FILE, target, attempt=2)
        assert ("REST" in server.commands) is (0 < begun < len(DATA))
    assert tree(tmp_path) == {NAME: DATA}


def test_ftp_without_restart_begins_anew(tmp_path: Path) -> None:
    (tmp_path / FILE.part).parent.mkdir(parents=True)
    (tmp_path / FILE.part).write_bytes(DATA[:1000])
    with Ftp(tmp_path, no_restart=True) as server:
        with pytest.raises(PeerTrouble):
            send(FILE, ftp_target(server))
        send(FILE, ftp_target(server), attempt=2)
    assert tree(tmp_path) == {NAME: DATA}


@pytest.mark.parametrize("webdav", [False, True], ids=["put", "webdav"])
def test_http_cut_before_the_request_is_whole(webdav: bool) -> None:
    with Web() as web, FaultyWire(web.port, cut_up=100_000) as wire:
        target = HttpTarget(f"http://127.0.0.1:{wire.port}/in", webdav=webdav, timeout_s=2.0)
        with pytest.raises(PeerTrouble):
            send(FILE, target)
        send(FILE, target, attempt=2)
        assert web.files == {f"/in/{NAME}": DATA}


@pytest.mark.parametrize("webdav", [False, True], ids=["put", "webdav"])
def test_http_whose_answer_is_lost_is_not_sent_twice(webdav: bool) -> None:
    with Web(script=["lost"]) as web:
        target = HttpTarget(web.url, webdav=webdav, timeout_s=2.0)
        with pytest.raises(PeerTrouble):
            send(FILE, target)
        confirmed = send(FILE, target, attempt=2)
        assert confirmed.was_already_there is not webdav
        assert web.files == {f"/in/{NAME}": DATA}


def test_half_a_file_of_a_web_server_is_no_delivery_and_webdav_never_shows_one() -> None:
    with Web(script=["half"]) as web:
        with pytest.raises(PeerTrouble):
            send(FILE, HttpTarget(web.url, webdav=True, timeout_s=2.0))
        assert set(web.files) == {f"/in/{FILE.part}"}
        send(FILE, HttpTarget(web.url, webdav=True, timeout_s=2.0), attempt=2)
        assert web.files == {f"/in/{NAME}": DATA}
    with Web(script=["half"]) as web:
        with pytest.raises(PeerTrouble):
            send(FILE, HttpTarget(web.url, timeout_s=2.0))
        with pytest.raises(Refused) as refused:
            send(FILE, HttpTarget(web.url, timeout_s=2.0), attempt=2)
        assert refused.value.refusal.code is RefusalCode.DELIVERY_CONFLICT


# -- lies, full disks, refusals


@pytest.mark.parametrize("says_more", [0, 3])
def test_an_sftp_server_that_spoils_or_lies_about_sizes(tmp_path: Path, says_more: int) -> None:
    with LyingSftp(tmp_path, drops=0 if says_more else 2, says_more=says_more) as server:
        target = SftpTarget("127.0.0.1", server.port, USER, (server.host_key,), secret=lambda: PASSWORD, timeout_s=20.0)
        for attempt in (1, 2):
            with pytest.raises(PeerTrouble) as trouble:
                send(FILE, target, attempt=attempt)
            assert not trouble.value.is_down
        with pytest.raises(Refused) as refused:
            send(FILE, target, attempt=3)
        assert refused.value.refusal.code is RefusalCode.DELIVERY_INCOMPLETE
    assert tree(tmp_path) == {}, "what is not as it was sent never gets the name, and is taken away"


def test_an_ftp_server_that_lies_about_sizes(tmp_path: Path) -> None:
    with Ftp(tmp_path, says_more=3) as server:
        with pytest.raises(PeerTrouble):
            send(FILE, ftp_target(server))
        with pytest.raises(Refused):
            send(FILE, ftp_target(server), attempt=3)
    assert tree(tmp_path) == {}


def test_a_web_server_that_spoils_is_found_out() -> None:
    with Web(script=["spoil"]) as web, pytest.raises(Refused) as refused:
        send(FILE, HttpTarget(web.url))
    assert refused.value.refusal.code is RefusalCode.DELIVERY_CONFLICT
    with Web(script=["spoil"]) as web:
        with pytest.raises(PeerTrouble):
            send(FILE, HttpTarget(web.url, webdav=True))
        assert web.files == {}


def test_a_full_disk_is_trouble_and_nothing_is_left_on_it(
    tmp_path: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ftp(tmp_path, room=100_000) as server:
        with pytest.raises(PeerTrouble):
            send(FILE, ftp_target(server))
        server.room = None
        assert set(tree(tmp_path)) <= {FILE.part}
        send(FILE, ftp_target(server), attempt=2)
        assert tree(tmp_path) == {NAME: DATA}
    full = tmp_path / "full"
    (full / FILE.part).parent.mkdir(parents=True)
    (full / FILE.part).symlink_to("/dev/full")
    with pytest.raises(PeerTrouble, match=r"room|full disk"):
        send(FILE, sftp_target(sshd, full))
    assert not (full / FILE.part).is_symlink(), "taken away"
    with Web(script=["507"]) as web, pytest.raises(PeerTrouble, match="507"):
        send(FILE, HttpTarget(web.url))

    def no_room(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(PeerTrouble):
        send(FILE, FolderTarget(tmp_path / "folder"))
    assert tree(tmp_path / "folder") == {}


def test_the_table_of_http_answers() -> None:
    for status in ("408", "429", "500", "503"):
        with Web(script=[status]) as web:
            with pytest.raises(PeerTrouble) as trouble:
                send(FILE, HttpTarget(web.url))
            assert trouble.value.retry_after_s == 7.0 and trouble.value.is_down
            send(FILE, HttpTarget(web.url), attempt=2)
    for status in ("400", "403", "413", "415", "redirect"):
        with Web(script=[status] * 2) as web:
            with pytest.raises(PeerTrouble) as trouble:
                send(FILE, HttpTarget(web.url), attempt=1)
            assert not trouble.value.is_down
            with pytest.raises(Refused) as refused:
                send(FILE, HttpTarget(web.url), attempt=3)
            assert refused.value.refusal.code is RefusalCode.DELIVERY_INCOMPLETE


def test_a_server_that_shows_nothing_is_believed_only_where_the_configuration_says_so() -> None:
    with Web(shows=False) as web:
        with pytest.raises(PeerTrouble):
            send(FILE, HttpTarget(web.url))
        told = send(FILE, HttpTarget(web.url, reads_back=False))
        assert told.seen is Seen.TOLD and not told.was_already_there
    with Web(shows=False, script=["409"]) as web, pytest.raises(PeerTrouble):
        send(FILE, HttpTarget(web.url, reads_back=False))


def test_every_upload_names_its_digest_and_its_resend(certificates: Certificates) -> None:
    with Web(script=["503", "ok"]) as web:
        with contextlib.suppress(PeerTrouble):
            send(FILE, HttpTarget(web.url))
        send(FILE, HttpTarget(web.url), attempt=2)
        puts = [headers for verb, _, headers in web.requests if verb == "PUT"]
        assert len(puts) == 2 and puts[0]["Idempotency-Key"] == puts[1]["Idempotency-Key"]
        assert puts[0]["Content-Digest"].startswith("sha-256=:") and puts[0]["If-None-Match"] == "*"


# -- who is at the other end


def test_another_host_key_ends_it_before_anything_is_said(sshd: Sshd, tmp_path: Path) -> None:
    other = LyingSftp(tmp_path).host_key
    asked: list[str] = []

    def secret() -> str:
        asked.append("secret")
        return sshd.key_file.read_text()

    for pinned in ((other,), (other.replace("ed25519", "ed25519"), other)):
        target = sftp_target(sshd, tmp_path, host_keys=pinned, private_key=secret)
        with pytest.raises(PeerTrouble, match="pinned host keys"):
            send(FILE, target)
        with pytest.raises(PeerTrouble, match="pinned host keys"):
            reach(target)
    assert asked == [] and tree(tmp_path) == {}


def test_each_of_the_servers_keys_can_be_the_pinned_one(sshd: Sshd, tmp_path: Path) -> None:
    for key in (sshd.host_key, sshd.rsa_host_key):
        assert "host key" in reach(sftp_target(sshd, tmp_path, host_keys=(key,)))


def test_a_pinned_key_that_is_none_is_refused_by_name(sshd: Sshd, tmp_path: Path) -> None:
    for line in ("ssh-ed25519 AAAA", "ssh-ed25519 ****", f"ssh-rsa {sshd.host_key.split()[1]}"):
        with pytest.raises(Refused) as refused:
            reach(sftp_target(sshd, tmp_path, host_keys=(line,)))
        assert refused.value.refusal.code is RefusalCode.VALIDATION


def test_wrong_credentials_are_trouble_and_are_read_again(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    stranger = LyingSftp(tmp_path)._key.export_private_key("openssh").decode()
    with pytest.raises(PeerTrouble, match="credentials"):
        send(FILE, sftp_target(sshd, tmp_path, private_key=lambda: stranger))
    with pytest.raises(Refused):
        send(FILE, sftp_target(sshd, tmp_path, private_key=lambda: "no key"))
    with LyingSftp(tmp_path) as server:
        target = SftpTarget("127.0.0.1", server.port, USER, (server.host_key,), secret=lambda: "wrong", timeout_s=20.0)
        with pytest.raises(PeerTrouble, match="credentials"):
            reach(target)
        assert reach(replace(target, secret=lambda: PASSWORD))
    with Ftp(tmp_path) as server, pytest.raises(PeerTrouble, match="credentials"):
        reach(ftp_target(server, secret=lambda: "wrong"))
    with Web(token="right") as web:
        words = iter(["old", "right"])
        target = HttpTarget(web.url, secret=lambda: next(words), is_bearer=True)
        assert send(FILE, target).seen is Seen.CONTENT


@pytest.mark.parametrize("kind", ["ftps", "https"])
def test_a_certificate_that_is_not_trusted_or_of_another_name(
    kind: str, tmp_path: Path, certificates: Certificates
) -> None:
    good, other_name = certificates.issue("127.0.0.1"), certificates.issue("other.example")
    (tmp_path / "stranger").mkdir()
    stranger = Certificates(tmp_path / "stranger")
    home = tmp_path / "home"
    home.mkdir()
    for certificate, ca_file in ((good, None), (good, stranger.ca_file), (other_name, certificates.ca_file)):
        if kind == "ftps":
            with Ftp(home, certificate) as server, pytest.raises(PeerTrouble, match="certificate"):
                send(FILE, ftp_target(server, ca_file=ca_file))
            assert "USER" not in server.commands, "no name was said"
        else:
            with Web(certificate) as web, pytest.raises(PeerTrouble, match="ConnectError"):
                send(FILE, HttpTarget(web.url, ca_file=ca_file))
            assert web.requests == []
    assert tree(home) == {}


def test_ftps_never_falls_back_to_clear_text(tmp_path: Path, certificates: Certificates) -> None:
    with Ftp(tmp_path) as server:  # it knows no TLS
        with pytest.raises((PeerTrouble, Refused)):
            send(FILE, ftp_target(server, is_tls=True, ca_file=certificates.ca_file))
        assert "USER" not in server.commands
    assert tree(tmp_path) == {}


def test_clear_text_needs_its_reason_even_on_loopback(tmp_path: Path) -> None:
    with Ftp(tmp_path) as server:
        with pytest.raises(Refused) as refused:
            send(FILE, ftp_target(server, insecure_ok_because=" "))
        assert refused.value.refusal.code is RefusalCode.NOT_AUTHORISED
        assert server.commands == []


def test_a_folder_that_is_not_there(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(PeerTrouble) as trouble:
        send(FILE, sftp_target(sshd, tmp_path / "absent"))
    assert not trouble.value.is_down
    with pytest.raises(Refused):
        send(FILE, sftp_target(sshd, tmp_path / "absent"), attempt=3)
    with Ftp(tmp_path) as server, pytest.raises(PeerTrouble):
        reach(ftp_target(server, folder="absent"))


def test_nobody_listens_or_nobody_answers(sshd: Sshd, tmp_path: Path, certificates: Certificates) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        port = silent.getsockname()[1]
        for target in (
            sftp_target(sshd, tmp_path, port=port, timeout_s=0.5),
            FtpTarget("127.0.0.1", port, USER, lambda: PASSWORD, timeout_s=0.5),
            HttpTarget(f"http://127.0.0.1:{port}", timeout_s=0.5),
        ):
            begin = time.monotonic()
            with pytest.raises(PeerTrouble) as trouble:
                send(FILE, target)
            assert trouble.value.is_down and time.monotonic() - begin < 10
    for target in (
        sftp_target(sshd, tmp_path, port=port, timeout_s=0.5),
        FtpTarget("127.0.0.1", port, USER, lambda: PASSWORD, timeout_s=0.5),
        HttpTarget(f"http://127.0.0.1:{port}", timeout_s=0.5),
        FolderTarget(Path("/proc/nowhere")),
    ):
        with pytest.raises(PeerTrouble):
            send(FILE, target)


# -- names, words, leftovers


@pytest.mark.parametrize("name", ["", "/etc/x", "a/../b", "../x", ".hidden", "a/.x", "a//b", "a b", "ä", "a\nb", "a/"])
def test_a_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        OutgoingFile.named(name, b"")


def test_no_words_of_a_server_are_repeated(tmp_path: Path, caplog: pytest.LogCaptureFixture, sshd: Sshd) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with Ftp(tmp_path) as server:
        for target in (
            ftp_target(server, username="MARKER-user"),
            ftp_target(server, folder="MARKER-folder"),
            sftp_target(sshd, tmp_path, username="MARKER-user"),
            sftp_target(sshd, tmp_path / "MARKER-folder"),
            sftp_target(sshd, tmp_path, port=1),
        ):
            with pytest.raises((PeerTrouble, Refused)) as no:
                send(FILE, target, attempt=3)
            said.append(f"{no.value!r} {no.value}")
    logged = [r.getMessage() for r in caplog.records if r.name.split(".")[0] in ("paramiko", "dicom_node")]
    assert "MARKER" not in " ".join(said + logged)
    assert PASSWORD not in " ".join(said + [r.getMessage() for r in caplog.records if r.name != "pyftpdlib"])


def test_nothing_stays_open(sshd: Sshd, tmp_path: Path) -> None:
    def threads() -> int:
        return len([t for t in threading.enumerate() if t.__class__.__module__.startswith("paramiko")])

    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        send(OutgoingFile.named(f"{number}.dcm", DATA), sftp_target(sshd, tmp_path))
        with contextlib.suppress(PeerTrouble):
            send(FILE, sftp_target(sshd, tmp_path, host_keys=(LyingSftp(tmp_path).host_key,)))
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threads() == 0
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_farewell_that_fails_hides_nothing(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_client: object) -> None:
        raise EOFError

    monkeypatch.setattr("paramiko.SFTPClient.close", fail)
    assert send(FILE, sftp_target(sshd, tmp_path)).seen is Seen.CONTENT
    with pytest.raises(Refused):
        send(OutgoingFile.named(NAME, b"other"), sftp_target(sshd, tmp_path))
