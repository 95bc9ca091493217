"""Fixtures that every test may use: where the real data are, free ports."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: ``AI_NODE_TEST_DATA``, else ``../shared/data`` beside the repository.

    Its absence fails the test loudly, unless ``AI_NODE_TEST_DATA=none`` says that this is meant.
    """
    setting = os.environ.get("AI_NODE_TEST_DATA", "")
    if setting == "none":
        pytest.skip("AI_NODE_TEST_DATA=none: tests on real data are switched off")
    folder = Path(setting) if setting else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.fail(
            "real data not found: set AI_NODE_TEST_DATA to the data folder, or AI_NODE_TEST_DATA=none to run without"
        )
    return folder


@pytest.fixture
def free_port() -> int:
    """A TCP port that was free a moment ago on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
