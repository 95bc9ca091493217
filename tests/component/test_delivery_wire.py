"""Delivery over a wire that is cut at any byte: afterwards the archive has the object once, with the bytes built."""

from __future__ import annotations

import time

import pytest
from peers.faulty_wire import FaultyWire
from peers.stub_pacs import StubPacs
from test_delivery_stow import holds_once, make_object

from dicom_node.delivery import StowTarget, send
from dicom_node.refusals import PeerTrouble

pytestmark = pytest.mark.component


def deliver(wire: FaultyWire, pacs: StubPacs, outgoing) -> int:
    """Try until it is confirmed; how many attempts it took."""
    target = StowTarget(f"http://127.0.0.1:{wire.port}/dicom-web", timeout_s=1.0, settle_s=(0.02,))
    for attempt in range(1, 5):
        try:
            send(outgoing, target, attempt=attempt)
        except PeerTrouble:
            continue
        holds_once(pacs, outgoing)
        return attempt
    raise AssertionError("not confirmed after four attempts")


@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("cut_up", [0, 1, 150, 500, 900, 1000, 1100, 1300, 1500, 1700, 2000])
def test_the_request_is_cut(cut_up, is_reset):
    outgoing = make_object()
    with StubPacs() as pacs, FaultyWire(pacs.port, cut_up=cut_up, is_reset=is_reset) as wire:
        assert deliver(wire, pacs, outgoing) <= 2


@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("cut_down", [0, 1, 17, 150, 300, 400, 500, 600, 700, 800, 1000, 1300])
def test_the_answer_is_cut(cut_down, is_reset):
    outgoing = make_object()
    with StubPacs() as pacs, FaultyWire(pacs.port, cut_down=cut_down, is_reset=is_reset) as wire:
        assert deliver(wire, pacs, outgoing) <= 2
        assert pacs.count("received") == 1 or cut_down < 400


def test_a_trickle_ends_at_the_deadline():
    outgoing = make_object()
    with StubPacs() as pacs, FaultyWire(pacs.port, trickle_s=0.05) as wire:
        target = StowTarget(
            f"http://127.0.0.1:{wire.port}/dicom-web", timeout_s=1.0, total_timeout_s=1.0, settle_s=(0.02,)
        )
        begin = time.monotonic()
        with pytest.raises(PeerTrouble):
            send(outgoing, target)
        assert time.monotonic() - begin < 20
        send(outgoing, target, attempt=2)
        holds_once(pacs, outgoing)
