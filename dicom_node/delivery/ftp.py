"""FTP and FTPS as places for files (RFC 959; SIZE and REST of RFC 3659; TLS by RFC 4217, never without).

Passive mode only, to the address the control connection goes to: an address that the server names is not followed.
Over TLS both connections are protected (PROT P), the certificate is checked on both, and the data connection resumes
the control connection's session, which many servers demand.
"""

from __future__ import annotations

import ftplib
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any

from dicom_node.delivery.addresses import resolve
from dicom_node.delivery.placing import IsFull, TurnedDown
from dicom_node.delivery.types import FtpTarget
from dicom_node.delivery.web import tls
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused

BLOCK_BYTES = 65536
_FULL = (452, 552)
_CREDENTIALS = (430, 530, 532)


class _Tls(ftplib.FTP_TLS):
    """FTP over TLS under the server's own name, although the connection goes to a checked address."""

    name = ""

    def auth(self) -> str:
        address, self.host = self.host, self.name  # ftplib takes the name for the certificate from `host`
        try:
            return super().auth()
        finally:
            self.host = address

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        connection, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        session = self.sock.session if isinstance(self.sock, ssl.SSLSocket) else None
        return self.context.wrap_socket(connection, server_hostname=self.name, session=session), size


class FtpPlace:
    """One connection to an FTP server.  Use as a context manager.

    Raises
    ------
    Refused
        `not-authorised`: clear text without a written reason, or an address that is not allowed.
    PeerTrouble
        If the server does not answer, shows another certificate, or refuses our credentials.
    """

    def __init__(self, target: FtpTarget) -> None:
        self._target = target
        if not target.is_tls and not target.insecure_ok_because.strip():
            raise Refused(RefusalCode.NOT_AUTHORISED, "TLS, or insecure_ok_because with the reason", "clear text")
        self._address = resolve(
            target.host, target.port, plain_text_ok_because=target.insecure_ok_because, is_tls=target.is_tls
        )
        self._ftp: ftplib.FTP | None = None
        self._deadline = time.monotonic() + target.total_timeout_s

    def __enter__(self) -> FtpPlace:
        with _answers():
            try:
                self._ftp = self._connected()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._ftp is not None:
            with suppress(*ftplib.all_errors):
                self._ftp.close()

    def _connected(self) -> ftplib.FTP:
        target = self._target
        self._ftp = ftp = _Tls(context=tls(target.ca_file)) if target.is_tls else ftplib.FTP()  # clear: by name only
        ftp.encoding = "utf-8"
        ftp.connect(self._address, target.port, timeout=target.timeout_s)
        if isinstance(ftp, _Tls):
            ftp.name = target.host
            ftp.auth()
        ftp.login(target.username, target.secret() if target.secret is not None else "")
        if isinstance(ftp, _Tls):
            ftp.prot_p()
        if target.folder:
            ftp.cwd(target.folder)
        ftp.voidcmd("TYPE I")
        return ftp

    # -- what a place can do

    def size(self, name: str) -> int | None:
        """See `Place`."""
        with _answers():
            try:
                return self._at.size(name)
            except ftplib.error_perm as no:
                if _code(no) == 550:
                    return None
                raise

    def read(self, name: str, cap_bytes: int) -> bytes:
        """See `Place`."""
        pieces: list[bytes] = []

        def take(piece: bytes) -> None:
            pieces.append(piece)
            self._in_time()
            if sum(map(len, pieces)) > cap_bytes:
                raise _Enough

        with _answers():
            try:
                self._at.retrbinary(f"RETR {name}", take, BLOCK_BYTES)
            except _Enough:
                # the rest is not wanted; the connection is of no more use, and neither is this file
                self._at.close()
        return b"".join(pieces)[:cap_bytes]

    def append(self, name: str, data: bytes, offset: int) -> None:
        """See `Place`."""
        folders = name.split("/")[:-1]
        with _answers():
            for depth in range(len(folders) if offset == 0 else 0):
                with suppress(ftplib.error_perm):  # it is there already, or STOR says what is wrong
                    self._at.mkd("/".join(folders[: depth + 1]))
            begin: Any = offset or None
            self._at.storbinary(f"STOR {name}", BytesIO(data), BLOCK_BYTES, lambda _: self._in_time(), begin)

    def rename(self, old: str, new: str) -> None:
        """See `Place`.  FTP cannot say *not over another*: whether one is there is asked just before."""
        if self.size(new) is not None:
            return  # the caller looks, and compares
        with _answers():
            self._at.rename(old, new)

    def remove(self, name: str) -> None:
        """See `Place`."""
        with _answers(), suppress(ftplib.error_perm):
            self._at.delete(name)

    def look(self) -> str:
        """Connected, known, and in the folder: in words."""
        return "TLS, credentials and folder accepted" if self._target.is_tls else "credentials and folder accepted"

    @property
    def _at(self) -> ftplib.FTP:
        if self._ftp is None:
            raise RuntimeError("a place is used as a context manager")
        return self._ftp

    def _in_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError("the whole transfer took too long")


class _Enough(Exception):
    """More bytes came than were asked for."""


@contextmanager
def _answers() -> Iterator[None]:
    """What the server's answers mean; its texts are never repeated, because they repeat names and folders."""
    try:
        yield
    except (PeerTrouble, Refused, TurnedDown):
        raise
    except (ftplib.error_perm, ftplib.error_temp) as no:
        raise meaning(_code(no)) from None
    except ssl.SSLCertVerificationError:
        raise PeerTrouble("the destination shows a certificate that is not trusted; check `ca_file`") from None
    except (ftplib.error_proto, ftplib.error_reply, EOFError, OSError, UnicodeError, ValueError) as error:
        raise PeerTrouble(f"the destination did not answer as FTP does ({type(error).__name__})") from None


def meaning(code: int) -> Exception:
    """What a reply code of 400 or more means for a delivery (RFC 959 section 4.2)."""
    if code in _FULL:
        return IsFull(f"the destination has no room (FTP {code})")
    if code in _CREDENTIALS:
        return PeerTrouble(f"the destination refuses our credentials (FTP {code}); check its user name and secret file")
    if code < 500:
        return PeerTrouble(f"the destination answered FTP {code}")
    return TurnedDown(f"FTP {code}")


def _code(error: Exception) -> int:
    text = str(error)[:3]
    return int(text) if text.isdigit() else 500
