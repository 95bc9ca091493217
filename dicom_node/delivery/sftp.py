"""SFTP as a place for files (SSH file transfer protocol version 3): pinned host keys, nothing learnt, nothing asked.

The server must show one of the configured keys before a user name or a secret is sent.  Only key types that are pinned
are offered, so that a server with several keys shows the right one.  No agent, no known_hosts of the user, no
interactive answers.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hmac
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO

import paramiko

from dicom_node.delivery.addresses import resolve
from dicom_node.delivery.placing import IsFull, TurnedDown
from dicom_node.delivery.types import SftpTarget
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused

# it logs user names, and names of files with their errors (invariant I4); what went wrong is said here
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)

BLOCK_BYTES = 32768
_RSA = ("rsa-sha2-512", "rsa-sha2-256")
"""Signatures that go with a pinned RSA key; SHA-1 is not among them."""
_SECRET_KEYS: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


class SftpPlace:
    """One connection to an SFTP server.  Use as a context manager.

    Raises
    ------
    Refused
        `not-authorised` for an address that is not allowed, `validation` for a key that cannot be read.
    PeerTrouble
        If the server does not answer, shows another host key, or refuses our credentials.
    """

    def __init__(self, target: SftpTarget) -> None:
        self._target = target
        self._pinned = dict(_pinned(line) for line in target.host_keys)
        self._address = resolve(target.host, target.port, plain_text_ok_because="", is_tls=True)
        self._transport: paramiko.Transport | None = None
        self._sftp: paramiko.SFTPClient | None = None
        self._deadline = time.monotonic() + target.total_timeout_s

    def __enter__(self) -> SftpPlace:
        with _answers():
            try:
                self._connect()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._sftp, self._transport):
            if one is not None:
                # a farewell over a wire that is cut must not take the place of what went wrong
                with suppress(OSError, EOFError, paramiko.SSHException):
                    one.close()

    def _connect(self) -> None:
        target = self._target
        wire = socket.create_connection((self._address, target.port), timeout=target.timeout_s)
        try:
            self._transport = transport = paramiko.Transport(wire)
        except BaseException:
            wire.close()
            raise
        transport.banner_timeout = transport.auth_timeout = transport.handshake_timeout = target.timeout_s
        options = transport.get_security_options()
        wanted = [name for kind in self._pinned for name in (_RSA if kind == "ssh-rsa" else (kind,))]
        options.key_types = [name for name in options.key_types if name in wanted]
        transport.start_client(timeout=target.timeout_s)
        shown = transport.get_remote_server_key()
        if not hmac.compare_digest(self._pinned.get(shown.get_name(), b""), shown.asbytes()):
            raise PeerTrouble(OTHER_KEY)
        self._log_in(transport)
        channel = transport.open_session(timeout=target.timeout_s)
        channel.settimeout(target.timeout_s)
        channel.invoke_subsystem("sftp")
        self._sftp = paramiko.SFTPClient(channel)
        if target.folder:
            self._sftp.stat(target.folder)

    def _log_in(self, transport: paramiko.Transport) -> None:
        target = self._target
        try:
            if target.private_key is not None:
                key = _private_key(target.private_key(), target.passphrase() if target.passphrase else None)
                more = transport.auth_publickey(target.username, key)
                if not more:
                    return
            if target.secret is not None:
                transport.auth_password(target.username, target.secret(), fallback=False)
        except paramiko.AuthenticationException as no:
            raise PeerTrouble(f"the destination refuses our credentials ({type(no).__name__})") from None
        if not transport.is_authenticated():
            raise PeerTrouble("the destination wants more than the configured credentials")

    # -- what a place can do

    def size(self, name: str) -> int | None:
        """See `Place`."""
        with _answers():
            try:
                size: int | None = self._at.stat(self._path(name)).st_size
            except FileNotFoundError:
                return None
        return size

    def read(self, name: str, cap_bytes: int) -> bytes:
        """See `Place`."""
        pieces: list[bytes] = []
        left = cap_bytes
        with _answers(), self._at.open(self._path(name), "rb") as file:
            while left > 0:
                self._in_time()
                piece = file.read(min(BLOCK_BYTES, left))
                if not piece:
                    break
                pieces.append(piece)
                left -= len(piece)
        return b"".join(pieces)

    def append(self, name: str, data: bytes, offset: int) -> None:
        """See `Place`."""
        with _answers():
            if offset == 0:
                self._make_folders(name)
            with self._at.open(self._path(name), "r+b" if offset else "wb") as file:
                file.seek(offset)
                for start in range(0, len(data), BLOCK_BYTES):
                    self._in_time()
                    # the last write waits for the answers to all: the library forgets what is wrong when it closes
                    file.set_pipelined(start + BLOCK_BYTES < len(data))
                    file.write(data[start : start + BLOCK_BYTES])

    def rename(self, old: str, new: str) -> None:
        """See `Place`.  Version 3's rename fails when the new name is taken; the one that replaces is never used."""
        with _answers():
            try:
                self._at.rename(self._path(old), self._path(new))
            except OSError as error:
                if type(error) is not OSError or error.errno is not None:
                    raise
                # SSH_FX_FAILURE: taken, most likely; the caller looks, and compares

    def remove(self, name: str) -> None:
        """See `Place`."""
        with _answers():
            try:
                self._at.remove(self._path(name))
            except FileNotFoundError:
                return

    def look(self) -> str:
        """Connected, known by its key, logged in, and in the folder: in words."""
        return "host key, credentials and folder accepted"

    def _make_folders(self, name: str) -> None:
        folders = name.split("/")[:-1]
        for depth in range(len(folders)):
            path = self._path("/".join(folders[: depth + 1]))
            try:
                self._at.stat(path)
            except FileNotFoundError:
                self._at.mkdir(path)

    def _path(self, name: str) -> str:
        return f"{self._target.folder.rstrip('/')}/{name}" if self._target.folder else name

    @property
    def _at(self) -> paramiko.SFTPClient:
        if self._sftp is None:
            raise RuntimeError("a place is used as a context manager")
        return self._sftp

    def _in_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError("the whole transfer took too long")


_CLOSED = "Socket is closed"
"""The library's own text for a connection that has ended, which it raises as it raises a server's failure."""

OTHER_KEY = (
    "the destination shows none of the pinned host keys: compare them with its administrator before changing any"
)


@contextmanager
def _answers() -> Iterator[None]:
    """What a failure means; the library's texts are never repeated, because they hold names of users and files."""
    try:
        yield
    except (PeerTrouble, Refused, TurnedDown):
        raise
    except paramiko.ssh_exception.IncompatiblePeer:
        raise PeerTrouble(OTHER_KEY) from None
    except (FileNotFoundError, PermissionError) as no:
        raise TurnedDown(f"SFTP {type(no).__name__}; check `folder` and its permissions") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise IsFull("the destination has no room") from None
        if type(error) is OSError and error.errno is None and str(error) != _CLOSED:
            # SSH_FX_FAILURE: version 3 has no words for why
            raise IsFull("the destination answered SFTP failure (a full disk, often)") from None
        raise PeerTrouble(f"the destination did not answer as SFTP does ({type(error).__name__})") from None
    except (paramiko.SSHException, paramiko.SFTPError, EOFError) as error:
        raise PeerTrouble(f"the destination did not answer as SFTP does ({type(error).__name__})") from None


def _pinned(line: str) -> tuple[str, bytes]:
    """Type and bytes of a public key as it stands in the configuration."""
    kind, _, rest = line.partition(" ")
    try:
        key = base64.b64decode(rest.split(" ")[0], validate=True)
        length = int.from_bytes(key[:4], "big")
        if key[4 : 4 + length] != kind.encode():
            raise ValueError
    except (ValueError, binascii.Error):
        raise Refused(RefusalCode.VALIDATION, "host_keys: a public key as `type base64`", "something else") from None
    return kind, key


def _private_key(text: str, passphrase: str | None) -> paramiko.PKey:
    for kind in _SECRET_KEYS:
        try:
            return kind.from_private_key(StringIO(text + "\n"), password=passphrase)
        except paramiko.PasswordRequiredException:
            raise Refused(RefusalCode.VALIDATION, "key_passphrase_file for the private key", "none") from None
        except (paramiko.SSHException, ValueError):
            continue
    raise Refused(RefusalCode.VALIDATION, "an Ed25519, ECDSA or RSA private key, and its passphrase", "another file")
