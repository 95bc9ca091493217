"""Silence for libraries whose warnings quote values: a patient's name in a warning is patient data in a log."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.config import disable_value_validation


@contextmanager
def quietly() -> Iterator[None]:
    """Within it, pydicom and highdicom neither warn about values nor log them; our own checks decide what is valid."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield
