"""The broker's side of the bridge: AMQP 0-9-1 by pika, and nothing about analyses.

Names and kinds are the thesis's: fan-out exchanges `send_to_process` and `process_completed`, each with a durable
queue, `process_pending` and `process_completed`.  What is there already is taken as it is; what is not is made durable.
A message is acknowledged after its answer was confirmed by the broker, so a death in between asks again and loses
nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pika
from pika import exceptions

from dicom_node.luna_settings import BridgeSection
from dicom_node.settings import read_secret

ASKED, PENDING = "send_to_process", "process_pending"
ANSWERED, COMPLETED = "process_completed", "process_completed"
_HEARTBEAT_S = 60
_CONNECT_S = 10.0
_PERSISTENT = 2


class BrokerAway(Exception):
    """The broker cannot be reached, or ended the connection; what was not acknowledged comes again."""


@dataclass(frozen=True)
class Incoming:
    """One message that waits for its answer."""

    tag: int
    body: bytes
    message_id: str
    correlation_id: str


class Broker:
    """One connection.

    Parameters
    ----------
    settings
        With a host.
    """

    def __init__(self, settings: BridgeSection) -> None:
        self._settings = settings
        self._connection: Any = None
        self._channel: Any = None
        self._arrived: list[Incoming] = []

    def connect(self) -> None:
        """Connect, make what is missing, and begin to take messages.

        Raises
        ------
        BrokerAway
        """
        self._guard(self._connect)

    def reach(self) -> None:
        """Connect and go again: whether the broker is there and takes the account; nothing is made or taken.

        Raises
        ------
        BrokerAway
        """
        self._guard(lambda: pika.BlockingConnection(self._parameters()).close())

    def receive(self, wait_s: float) -> list[Incoming]:
        """Messages that have come, after at most `wait_s`; keeps the connection alive too.

        Raises
        ------
        BrokerAway
        """
        self._guard(lambda: self._connection.process_data_events(time_limit=wait_s))
        arrived, self._arrived = self._arrived, []
        return arrived

    def answer(self, incoming: Incoming, body: bytes, message_id: str) -> None:
        """Publish the answer, and acknowledge the message when the broker has taken the answer over.

        Raises
        ------
        BrokerAway
        """
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=_PERSISTENT,
            message_id=message_id,
            correlation_id=incoming.correlation_id or incoming.message_id or None,
        )

        def send() -> None:
            self._channel.basic_publish(ANSWERED, "", body, properties, mandatory=True)
            self._channel.basic_ack(incoming.tag)

        self._guard(send)

    def close(self) -> None:
        """Go; messages without an answer are given out again."""
        try:
            if self._connection is not None and self._connection.is_open:
                self._connection.close()
        except (exceptions.AMQPError, OSError):
            pass
        self._connection = self._channel = None

    def _guard(self, body: Callable[[], Any]) -> None:
        try:
            body()
        except (exceptions.AMQPError, OSError) as error:
            raise BrokerAway(type(error).__name__) from None

    def _connect(self) -> None:
        self._arrived = []
        self._connection = pika.BlockingConnection(self._parameters())
        for exchange, queue in ((ASKED, PENDING), (ANSWERED, COMPLETED)):
            self._have(lambda channel, name=exchange, passive=True: channel.exchange_declare(
                name, "fanout", passive=passive, durable=True))  # fmt: skip
            self._have(lambda channel, name=queue, passive=True: channel.queue_declare(
                name, passive=passive, durable=True))  # fmt: skip
            channel = self._connection.channel()
            channel.queue_bind(queue, exchange)
            channel.close()
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        self._channel.basic_qos(prefetch_count=self._settings.prefetch)
        self._channel.basic_consume(PENDING, self._take)

    def _have(self, declare: Callable[..., Any]) -> None:
        """Declare what is not there; asking for it costs the channel where it is not."""
        channel = self._connection.channel()
        try:
            declare(channel)
        except exceptions.ChannelClosedByBroker:
            channel = self._connection.channel()
            declare(channel, passive=False)
        channel.close()

    def _take(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        told = (str(properties.message_id or "")[:255], str(properties.correlation_id or "")[:255])
        self._arrived.append(Incoming(int(method.delivery_tag), body, *told))

    def _parameters(self) -> Any:
        settings = self._settings
        options = None
        if settings.tls:
            cafile = None if settings.ca_file is None else str(settings.ca_file)
            options = pika.SSLOptions(ssl.create_default_context(cafile=cafile), settings.host)
        assert settings.password_file is not None
        return pika.ConnectionParameters(
            settings.host,
            settings.port,
            settings.virtual_host,
            pika.PlainCredentials(settings.username, read_secret(settings.password_file)),
            ssl_options=options,
            heartbeat=_HEARTBEAT_S,
            socket_timeout=_CONNECT_S,
            stack_timeout=_CONNECT_S,
            blocked_connection_timeout=_HEARTBEAT_S,
        )
