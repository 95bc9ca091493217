"""Fail-points cannot be reached by accident, and end the process at once when a test asks for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node import failpoints

pytestmark = pytest.mark.unit
REPOSITORY = Path(__file__).resolve().parents[2]


def test_nothing_set_is_nothing_armed() -> None:
    assert failpoints.armed({}) is None
    failpoints.reach("K1")


@pytest.mark.parametrize(
    "environment",
    [
        {failpoints.PLACE: "K4"},
        {failpoints.PLACE: "K4", failpoints.MARKER: "1"},
        {failpoints.MARKER: "yes"},
    ],
)
def test_half_of_the_variables_refuses_the_start(environment: dict[str, str]) -> None:
    with pytest.raises(failpoints.UnsafeEnvironment):
        failpoints.armed(environment)


def test_the_marker_alone_arms_nothing() -> None:
    assert failpoints.armed({failpoints.MARKER: failpoints.MARKER_VALUE}) is None


def test_a_place_and_its_occurrence() -> None:
    both = {failpoints.PLACE: "K4:3", failpoints.MARKER: failpoints.MARKER_VALUE}
    assert failpoints.armed(both) == ("K4", 3)
    assert failpoints.armed({**both, failpoints.PLACE: "K7"}) == ("K7", 1)


def test_the_process_is_killed_at_the_named_occurrence_only() -> None:
    program = (
        "from dicom_node.failpoints import reach\n"
        "reach('K2'); reach('K4'); print('once', flush=True); reach('K4'); print('twice', flush=True)"
    )
    environment = {
        **os.environ,
        failpoints.PLACE: "K4:2",
        failpoints.MARKER: failpoints.MARKER_VALUE,
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "once\n"
