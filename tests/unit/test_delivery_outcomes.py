"""What answers mean, how long to wait, where we may connect, how parts are cut: the pure half of delivery."""

from __future__ import annotations

import random
import socket
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node import delivery
from dicom_node.delivery import Outcome, backoff, classify, classify_dimse, multipart, retry_after
from dicom_node.delivery.addresses import check_url
from dicom_node.delivery.outcomes import read_stow_answer
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused

pytestmark = pytest.mark.unit

NOW = datetime(2026, 2, 28, 23, 59, 30, tzinfo=UTC)


def test_the_room_exports_its_verbs_and_their_types():
    assert delivery.__all__ == [
        "CStoreTarget",
        "Confirmation",
        "DimseTls",
        "FileTarget",
        "FolderTarget",
        "FtpTarget",
        "HttpTarget",
        "Outcome",
        "OutgoingCall",
        "OutgoingFile",
        "OutgoingObject",
        "Seen",
        "SftpTarget",
        "StowTarget",
        "Target",
        "WebhookTarget",
        "backoff",
        "call",
        "classify",
        "classify_dimse",
        "reach",
        "retry_after",
        "send",
    ]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.CLAIMED),
        (202, Outcome.CLAIMED),
        (204, Outcome.CLAIMED),
        (301, Outcome.PERMANENT),
        (302, Outcome.PERMANENT),
        (400, Outcome.PERMANENT),
        (401, Outcome.DENIED),
        (403, Outcome.PERMANENT),
        (404, Outcome.PERMANENT),
        (406, Outcome.PERMANENT),
        (408, Outcome.UNKNOWN),
        (409, Outcome.UNKNOWN),
        (413, Outcome.PERMANENT),
        (415, Outcome.PERMANENT),
        (422, Outcome.PERMANENT),
        (429, Outcome.UNKNOWN),
        (500, Outcome.UNKNOWN),
        (502, Outcome.UNKNOWN),
        (503, Outcome.UNKNOWN),
        (507, Outcome.UNKNOWN),
        (httpx.ReadTimeout(""), Outcome.UNKNOWN),
        (httpx.ConnectError(""), Outcome.UNKNOWN),
    ],
)
def test_classes_of_http_answers(status, outcome):
    assert classify(status) is outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0000, Outcome.CLAIMED),
        (0xB000, Outcome.CLAIMED),
        (0xB006, Outcome.CLAIMED),
        (0xB007, Outcome.CLAIMED),
        (0xA700, Outcome.UNKNOWN),
        (0xA702, Outcome.UNKNOWN),
        (0x0110, Outcome.UNKNOWN),
        (0xA900, Outcome.PERMANENT),
        (43265, Outcome.PERMANENT),  # another study's instance, by a cloud vendor
        (45070, Outcome.UNKNOWN),  # *already there*, by the same vendor
        (0xC122, Outcome.PERMANENT),
        (0x0122, Outcome.PERMANENT),
        (0x0124, Outcome.PERMANENT),
        (0x1234, Outcome.UNKNOWN),
    ],
)
def test_classes_of_dimse_status(status, outcome):
    assert classify_dimse(status) is outcome


def _failed(reason, uid="1.2"):
    item = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
    return [{"00081198": {"vr": "SQ", "Value": [item]}}]


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, None, Outcome.CLAIMED),
        (200, _failed(0xA700), Outcome.UNKNOWN),
        (202, _failed(0xA900), Outcome.PERMANENT),
        (202, _failed(0xC122), Outcome.PERMANENT),
        (409, _failed(0x0110), Outcome.UNKNOWN),
        (409, _failed(0x0122), Outcome.PERMANENT),
        (200, _failed(0x0000), Outcome.UNKNOWN),  # success in the list of failures
        (200, _failed(0xA900, uid="9.9"), Outcome.CLAIMED),  # of somebody else
        (503, _failed(0xA900), Outcome.UNKNOWN),
        (400, _failed(0xA700), Outcome.PERMANENT),
        (200, "<html>", Outcome.CLAIMED),
        (200, [1, 2], Outcome.CLAIMED),
        (200, [{"00081198": {"Value": [{"00081197": {"Value": ["text"]}}]}}], Outcome.CLAIMED),
        (200, [{"00081198": []}], Outcome.CLAIMED),
    ],
)
def test_stow_answers_are_read_instance_by_instance(status, body, outcome):
    assert read_stow_answer(status, body, "1.2").outcome is outcome


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["00081198", "00081199", "00081197", "00081155", "Value"]), inner)
        ),
        max_leaves=12,
    )
)
def test_no_stow_body_breaks_the_reader(body):
    assert read_stow_answer(200, body, "1.2").status == 200


@given(st.integers(1, 10_000), st.floats(0.1, 60), st.floats(60, 3600), st.integers(0, 2**32))
def test_backoff_has_full_jitter_below_its_cap(attempt, first_s, cap_s, seed):
    wait = backoff(attempt, first_s, cap_s, random.Random(seed))
    assert 0 <= wait <= min(cap_s, first_s * 2.0 ** min(attempt - 1, 60))


def test_backoff_spreads_and_grows():
    waits = [backoff(8, 5, 1800, random.Random(seed)) for seed in range(200)]
    assert min(waits) < 60 and max(waits) > 500
    assert max(backoff(1, 5, 1800, random.Random(seed)) for seed in range(200)) <= 5


def test_backoff_obeys_retry_after_up_to_the_cap():
    assert backoff(1, 5, 1800, random.Random(1), retry_after_s=120) == 120
    assert backoff(1, 5, 1800, random.Random(1), retry_after_s=1e9) == 1800


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 01 Mar 2026 00:00:30 GMT", 60.0),
        ("Sat, 28 Feb 2026 23:00:00 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("1e3", None),
        ("٣", None),
        ("99999999999999999999", None),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(value, seconds):
    assert retry_after(value, NOW) == seconds


def test_retry_after_date_in_another_zone():
    ahead = NOW.astimezone(UTC) + timedelta(seconds=90)
    assert retry_after(ahead.strftime("%a, %d %b %Y %H:%M:%S +0000"), NOW) == 90


@given(st.binary(max_size=300))
def test_multipart_gives_back_the_bytes(data):
    content_type, body = multipart.build(data)
    assert multipart.split(content_type, body) == [data]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<html>"),
        ("multipart/related", b"--x\r\n\r\n\r\n--x--"),
        ("multipart/related; boundary=x", b""),
        ("multipart/related; boundary=x", b"--x\r\nA: b\r\n\r\ncut off"),
        ("multipart/related; boundary=x", b"--x\r\nno end of headers--x--"),
    ],
)
def test_broken_multipart_is_named(content_type, body):
    with pytest.raises(multipart.MultipartUnreadable):
        multipart.split(content_type, body)


def _addresses(monkeypatch, *addresses):
    def getaddrinfo(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("address", ["169.254.169.254", "224.0.0.1", "0.0.0.0", "fe80::1", "::ffff:169.254.169.254"])
def test_special_addresses_are_never_connected_to(monkeypatch, address):
    _addresses(monkeypatch, "10.1.2.3", address)
    with pytest.raises(Refused) as refused:
        check_url("https://pacs.example/dicom-web", insecure_ok_because="an isolated network")
    assert refused.value.refusal.code is RefusalCode.NOT_AUTHORISED


def test_plain_text_stays_on_loopback_unless_a_reason_is_written(monkeypatch):
    _addresses(monkeypatch, "10.1.2.3")
    with pytest.raises(Refused):
        check_url("http://pacs.example/dicom-web", insecure_ok_because="  ")
    checked = check_url("http://pacs.example:8042/dicom-web/", insecure_ok_because="isolated VLAN 12")
    assert checked.root == "http://10.1.2.3:8042/dicom-web"
    assert checked.authority == "pacs.example:8042"
    assert check_url("https://pacs.example/x", insecure_ok_because="").root == "https://10.1.2.3:443/x"


def test_a_name_that_looks_like_loopback_is_judged_by_its_address(monkeypatch):
    _addresses(monkeypatch, "10.1.2.3")
    with pytest.raises(Refused):
        check_url("http://localhost/dicom-web", insecure_ok_because="")


@pytest.mark.parametrize(
    "url",
    ["ftp://h/x", "file:///etc/passwd", "http://", "http://user:pw@127.0.0.1/", "http://127.0.0.1/?a=b", "http://h:x/"],
)
def test_urls_that_are_no_root_are_refused(url):
    with pytest.raises(Refused) as refused:
        check_url(url, insecure_ok_because="")
    assert refused.value.refusal.code is RefusalCode.VALIDATION
    assert "pw" not in str(refused.value.refusal.to_json())


def test_a_name_that_does_not_resolve_is_tried_again(monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(PeerTrouble):
        check_url("https://pacs.example/x", insecure_ok_because="")
