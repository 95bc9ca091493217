"""Real servers of files on loopback: OpenSSH, FTP with and without TLS, HTTP and WebDAV; each can misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncssh
import trustme
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

USER, PASSWORD = "ainode", "pass-word-marker"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- TLS


@dataclass
class Certificates:
    """A certificate authority of the test's own, and certificates by it."""

    folder: Path

    def __post_init__(self) -> None:
        self._authority = trustme.CA()
        self.ca_file = self.folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca_file)

    def issue(self, *names: str) -> Path:
        """Key and certificate in one file."""
        made = self._authority.issue_cert(*names)
        path = self.folder / f"{names[0]}.pem"
        path.write_bytes(made.private_key_pem.bytes() + b"".join(blob.bytes() for blob in made.cert_chain_pems))
        return path


# -- OpenSSH


class Sshd:
    """OpenSSH's own server, as this user, for this user, with one key pair; SFTP only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.home = folder / "home"
        self.home.mkdir()
        self.port = free_port()
        self.host_key = self._key(folder / "host_ed25519", "ed25519")
        self.rsa_host_key = self._key(folder / "host_rsa", "rsa")
        self._key(folder / "user_ed25519", "ed25519")
        self.key_file = folder / "user_ed25519"
        (folder / "authorized").write_text((folder / "user_ed25519.pub").read_text())
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it separates privileges, made by the package's own service
        self._config = folder / "sshd_config"
        self._config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_ed25519\nHostKey {folder}/host_rsa\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "PermitRootLogin prohibit-password\nPidFile none\nSubsystem sftp internal-sftp\n"
            "ForceCommand internal-sftp\n"
        )

    @staticmethod
    def _key(path: Path, kind: str) -> str:
        command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return path.with_suffix(".pub").read_text().strip()

    def __enter__(self) -> Sshd:
        program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        assert program is not None, "no sshd: run `make setup-test`"
        self._process = subprocess.Popen(
            [program, "-D", "-E", str(self._config.with_name("log")), "-f", str(self._config)], stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            assert self._process.poll() is None, self._config.with_name("log").read_text()
            assert time.monotonic() < deadline, "sshd does not answer"
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


class LyingSftp:
    """An SFTP server (asyncssh) that spoils what it stores, or says another size than it has; takes a password."""

    def __init__(self, folder: Path, *, drops: int = 0, says_more: int = 0) -> None:
        self.home = folder
        self._drops, self._says_more = drops, says_more
        key = asyncssh.generate_private_key("ssh-ed25519")
        self._key = key
        self.host_key = key.export_public_key().decode().strip()

    def __enter__(self) -> LyingSftp:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    async def _start(self) -> None:
        drops, says_more, home = self._drops, self._says_more, self.home

        class Access(asyncssh.SSHServer):
            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                return (username, password) == (USER, PASSWORD)

        class Files(asyncssh.SFTPServer):
            def __init__(self, chan: Any) -> None:
                super().__init__(chan, chroot=str(home))

            def write(self, file_obj: Any, offset: int, data: bytes) -> int:
                kept = data[:-drops] + b"\0" * drops if drops else data
                super().write(file_obj, offset, kept)
                return len(data)

            def stat(self, path: bytes) -> Any:
                found = super().stat(path)
                return asyncssh.SFTPAttrs.from_local(found) if not says_more else _grown(found, says_more)

        self._server = await asyncssh.create_server(
            Access, "127.0.0.1", 0, server_host_keys=[self._key], sftp_factory=Files
        )
        self.port = int(self._server.sockets[0].getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def _grown(found: os.stat_result, more: int) -> Any:
    said = asyncssh.SFTPAttrs.from_local(found)
    said.size = (said.size or 0) + more
    return said


# -- FTP


@dataclass
class Ftp:
    """pyftpdlib, in clear or over TLS.

    Attributes
    ----------
    cut_after
        The first upload's connections end after so many bytes; None: never.
    room
        Bytes that the disk takes; None: any number.
    says_more
        The size it tells is so much larger than the file.
    """

    home: Path
    certificate: Path | None = None
    cut_after: int | None = None
    room: int | None = None
    says_more: int = 0
    no_restart: bool = False
    commands: list[str] = field(default_factory=list)

    def __enter__(self) -> Ftp:
        outer = self

        class Disk(AbstractedFS):  # type: ignore[misc]
            def open(self, filename: str, mode: str) -> Any:
                opened = super().open(filename, mode)
                return opened if mode == "rb" else _Written(opened, outer, self.cmd_channel)

            def getsize(self, path: str) -> int:
                return int(super().getsize(path)) + outer.says_more

        base: Any = FTPHandler if self.certificate is None else TLS_FTPHandler

        class Handler(base):  # type: ignore[misc]
            def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
                outer.commands.append(cmd)
                if cmd == "STOR" and outer.no_restart and self._restart_position:
                    self._restart_position = 0
                    self.respond("550 no restart here")
                    return
                super().pre_process_command(line, cmd, arg)

        users = DummyAuthorizer()
        users.add_user(USER, PASSWORD, str(self.home), perm="elradfmw")
        Handler.authorizer = users
        Handler.abstracted_fs = Disk
        Handler.banner = "here"
        Handler.auth_failed_timeout = 0.05
        if self.certificate is not None:
            Handler.certfile = str(self.certificate)
            Handler.tls_control_required = Handler.tls_data_required = True
        self._loop = IOLoop()
        self._server = FTPServer(("127.0.0.1", 0), Handler, ioloop=self._loop)
        self.port = int(self._server.address[1])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def _serve(self) -> None:
        while not self._stop.is_set():
            self._loop.loop(0.05, blocking=False)
        self._server.close_all()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


class _Written:
    """A file being written: the disk may fill up, the connections may end."""

    def __init__(self, opened: Any, server: Ftp, control: Any) -> None:
        self._opened, self._server, self._control = opened, server, control
        self._written = 0
        self.name = opened.name

    def write(self, data: bytes) -> int:
        server = self._server
        taken = data if server.room is None else data[: server.room]
        self._opened.write(taken)
        self._written += len(taken)
        if server.room is not None:
            server.room -= len(taken)
        if len(taken) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        if server.cut_after is not None and self._written >= server.cut_after:
            server.cut_after = None
            self._opened.flush()
            self._control.close()
        return len(taken)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)


# -- HTTP and WebDAV


@dataclass
class Web:
    """A server that keeps what it is PUT or POSTed, with the WebDAV verbs; `script` misbehaves, one entry a request.

    Entries: ``ok``; a status as text (answered, nothing kept); ``spoil`` (keeps other bytes, says 201); ``half`` (keeps
    half and hangs up); ``lost`` (keeps it and hangs up); ``redirect``.
    """

    certificate: Path | None = None
    script: list[str] = field(default_factory=list)
    token: str = ""
    shows: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def __enter__(self) -> Web:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                return

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                if len(body) < length:  # the wire was cut: a request that is not whole is none
                    self.close_connection = True
                    return
                path = urlsplit(self.path).path
                outer.requests.append((self.command, path, dict(self.headers)))
                if outer.token and self.headers.get("Authorization") != f"Bearer {outer.token}":
                    self.answer(401)
                    return
                if self.command in ("PUT", "POST"):
                    self.store(path, body)
                elif self.command == "GET":
                    found = outer.files.get(path) if outer.shows else None
                    self.answer(404 if outer.shows else 405) if found is None else self.answer(200, found)
                elif self.command == "MKCOL":
                    new = path not in outer.folders
                    outer.folders.add(path)
                    self.answer(201 if new else 405)
                elif self.command == "MOVE":
                    to = urlsplit(self.headers["Destination"]).path
                    if to in outer.files and self.headers.get("Overwrite") == "F":
                        self.answer(412)
                    else:
                        outer.files[to] = outer.files.pop(path)
                        self.answer(201)
                elif self.command == "DELETE":
                    self.answer(204 if outer.files.pop(path, None) is not None else 404)
                else:
                    self.answer(200, Allow="GET, PUT, POST")

            def store(self, path: str, body: bytes) -> None:
                do = outer.script.pop(0) if outer.script else "ok"
                if self.command == "POST":
                    name = self.headers["Content-Disposition"].split('"')[1]
                    path = f"{path.rstrip('/')}/{name}"
                if do.isdigit():
                    self.answer(int(do), Retry_After="7")
                elif do == "redirect":
                    self.answer(302, Location="http://127.0.0.1:1/elsewhere")
                elif path in outer.files and self.headers.get("If-None-Match") == "*":
                    self.answer(412)
                else:
                    kept = {"spoil": body[:-1] + b"\0", "half": body[: len(body) // 2]}.get(do, body)
                    outer.files[path] = kept
                    if do in ("half", "lost"):
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)
                    else:
                        self.answer(201)

            do_GET = do_PUT = do_POST = do_MKCOL = do_MOVE = do_DELETE = do_OPTIONS = handle_any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        scheme = "http" if self.certificate is None else "https"
        self.port = int(self._server.server_address[1])
        self.url = f"{scheme}://127.0.0.1:{self.port}/in"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
