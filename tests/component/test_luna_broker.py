"""The broker's side of the bridge against Debian's RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pydantic import ValidationError

from dicom_node.cli.doctor import CHECKS
from dicom_node.luna_settings import BridgeSection
from dicom_node.settings import Settings
from portal.luna.broker import Broker, BrokerAway
from tests.support.rabbit import Rabbit

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    with Rabbit(tmp_path_factory.mktemp("rabbit")) as made:
        yield made


def published(rabbit: Rabbit, *bodies: bytes) -> None:
    with rabbit.connect() as connection:
        channel = connection.channel()
        for body in bodies:
            channel.basic_publish("send_to_process", "", body, pika.BasicProperties(message_id=body.decode()))


def taken(broker: Broker, count: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(100):
        found += broker.receive(0.1)
        if len(found) >= count:
            break
    return found


def test_what_is_missing_is_made_and_what_is_there_is_taken_as_it_is(rabbit: Rabbit) -> None:
    with rabbit.connect() as connection:  # an older system has made one of the exchanges its own way
        connection.channel().exchange_declare("send_to_process", "fanout", durable=False)
    broker = Broker(rabbit.settings)
    for _ in range(2):
        broker.connect()
        broker.close()
    with rabbit.connect() as connection:
        channel = connection.channel()
        for queue in ("process_pending", "process_completed"):
            channel.queue_declare(queue, durable=True)  # refused by the broker were it there and not durable
        channel.exchange_declare("process_completed", "fanout", durable=True)


def test_a_message_without_its_answer_is_given_out_again(rabbit: Rabbit) -> None:
    published(rabbit, b"one", b"two", b"three")
    broker = Broker(rabbit.settings)
    broker.connect()
    first = taken(broker, 2)
    assert [one.message_id for one in first] == ["one", "two"], "no more than bridge.prefetch at once"
    broker.answer(first[0], b'{"n": 1}', "analysis-1")
    broker.close()
    broker.connect()
    again = taken(broker, 2)
    assert sorted(one.message_id for one in again) == ["three", "two"]
    for one in again:
        broker.answer(one, b"{}", "x")
    broker.close()
    with rabbit.connect() as connection:
        channel = connection.channel()
        told = [channel.basic_get("process_completed", auto_ack=True) for _ in range(4)]
    assert [body for _, _, body in told] == [b'{"n": 1}', b"{}", b"{}", None]
    properties = told[0][1]
    assert (properties.correlation_id, properties.message_id, properties.delivery_mode) == ("one", "analysis-1", 2)


def test_an_answer_that_nobody_would_get_is_no_answer(rabbit: Rabbit) -> None:
    """The queue behind the exchange is gone: the message must not be acknowledged into the void."""
    published(rabbit, b"four")
    broker = Broker(rabbit.settings)
    broker.connect()
    (one,) = taken(broker, 1)
    with rabbit.connect() as connection:
        connection.channel().queue_delete("process_completed")
    with pytest.raises(BrokerAway, match="Unroutable"):
        broker.answer(one, b"{}", "x")
    broker.close()
    broker.connect()
    (again,) = taken(broker, 1)
    assert again.message_id == "four"
    broker.answer(again, b"{}", "x")
    broker.close()


def changed(rabbit: Rabbit, **values: Any) -> BridgeSection:
    return BridgeSection(**{**rabbit.settings.model_dump(), **values})


def test_tls_is_checked(rabbit: Rabbit, tmp_path: Path) -> None:
    over_tls = {"port": rabbit.tls_port, "tls": True}
    Broker(changed(rabbit, **over_tls, ca_file=rabbit.authority_file)).reach()
    with pytest.raises(BrokerAway):  # an authority that nobody named
        Broker(changed(rabbit, **over_tls)).reach()
    with pytest.raises(BrokerAway):  # a certificate for another name
        Broker(changed(rabbit, **over_tls, host="localhost", ca_file=rabbit.authority_file)).reach()
    wrong = tmp_path / "password"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    with pytest.raises(BrokerAway):
        Broker(changed(rabbit, password_file=wrong)).reach()


def test_doctor_says_whether_the_broker_is_there(rabbit: Rabbit) -> None:
    (check,) = [one for one in CHECKS if one.__name__ == "_broker"]
    assert [one.level for one in check(Settings(bridge=rabbit.settings))] == ["ok"]
    (bad,) = check(Settings(bridge=changed(rabbit, port=1)))
    assert bad.level == "bad" and "bridge" in bad.advice
    assert list(check(Settings())) == []


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"username": ""}, "username"),
        ({"password_file": None}, "password_file"),
        ({"host": "broker.example"}, "tls"),
        ({"host": "broker.example", "insecure_ok_because": ""}, "tls"),
    ],
)
def test_a_broker_that_is_half_configured_refuses_the_start(rabbit: Rabbit, values: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        changed(rabbit, **values)
    changed(rabbit, host="broker.example", tls=True)
    changed(rabbit, host="broker.example", insecure_ok_because="an isolated network of two machines")
