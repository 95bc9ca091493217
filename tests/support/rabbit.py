"""Debian's RabbitMQ as a child of the tests: free ports on loopback, folders of its own, ended by its process id.

It speaks plain AMQP on one port and TLS on another, with a certificate of an authority made for it.

Its port mapper (epmd) is a child too: left to itself, the broker starts one that outlives it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pika
import pytest
import trustme
from pika import exceptions

from dicom_node.demo.site import free_ports
from dicom_node.luna_settings import BridgeSection

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
STARTING_S = 90.0


class Rabbit:
    """One broker.  Use as a context manager."""

    username = "ainode"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password_file = folder / "password"
        self.authority_file = folder / "authority.pem"
        self.port, self.tls_port, self._distribution_port, self._epmd_port = free_ports(4)
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Rabbit:
        if not SERVER.is_file():
            pytest.fail("rabbitmq-server is missing: `make setup-test` installs it")
        self.folder.mkdir(parents=True, exist_ok=True)
        password = secrets.token_hex(16)
        self.password_file.write_text(password)
        self.password_file.chmod(0o600)
        self._make_certificate()
        (self.folder / "rabbitmq.conf").write_text(
            f"default_user = {self.username}\n"
            f"default_pass = {password}\n"
            f"loopback_users.{self.username} = true\n"
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {self.authority_file}\n"
            f"ssl_options.certfile = {self.folder}/broker.pem\n"
            f"ssl_options.keyfile = {self.folder}/broker.key\n"
            "ssl_options.verify = verify_none\n"
        )
        (self.folder / "enabled_plugins").write_text("[].\n")
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            self._end(child)
        self._children.clear()

    @property
    def settings(self) -> BridgeSection:
        """How a bridge finds this broker."""
        return BridgeSection(
            host="127.0.0.1", port=self.port, username=self.username, password_file=self.password_file, prefetch=2
        )

    def _make_certificate(self) -> None:
        authority = trustme.CA()
        made = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(self.authority_file)
        made.cert_chain_pems[0].write_to_path(self.folder / "broker.pem")
        made.private_key_pem.write_to_path(self.folder / "broker.key")

    def start(self) -> None:
        """Start the broker, and wait until somebody can connect."""
        epmd = shutil.which("epmd")
        assert epmd is not None
        self._child([epmd, "-address", "127.0.0.1", "-port", str(self._epmd_port)])
        server = self._child([str(SERVER)])
        deadline = time.monotonic() + STARTING_S
        while time.monotonic() < deadline:
            assert server.poll() is None, f"the broker ended at its start:\n{self._tail()}"
            try:
                self.connect().close()
                return
            except (exceptions.AMQPError, OSError):
                time.sleep(0.2)
        raise AssertionError(f"no broker within {STARTING_S:g} s:\n{self._tail()}")

    def stop(self) -> None:
        """End the broker; its queues stay in its folder."""
        self.__exit__()

    def connect(self) -> pika.BlockingConnection:
        """A connection as any client makes one."""
        credentials = pika.PlainCredentials(self.username, self.password_file.read_text())
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port, credentials=credentials))

    def _child(self, command: list[str]) -> subprocess.Popen[bytes]:
        names = {
            "NODENAME": f"test{os.getpid()}@localhost",
            "NODE_IP_ADDRESS": "127.0.0.1",
            "NODE_PORT": str(self.port),
            "DIST_PORT": str(self._distribution_port),
            "MNESIA_BASE": str(self.folder / "mnesia"),
            "LOG_BASE": str(self.folder / "log"),
            "ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "PID_FILE": str(self.folder / "pid"),
            "CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "SERVER_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
        }
        environment = {
            **os.environ,
            **{f"RABBITMQ_{name}": value for name, value in names.items()},
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "HOME": str(self.folder),
        }
        with (self.folder / "output").open("ab") as output:
            child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self._children.append(child)
        return child

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        """End a child and what it started: it leads a session of its own."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
                child.wait(15)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        child.wait(15)

    def _tail(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-3000:]
