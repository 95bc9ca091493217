"""How schemathesis judges our refusals."""

from __future__ import annotations

from schemathesis.config import SchemathesisConfig

REFUSALS = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]
"""Its own list, and 413: a part of a form longer than it may be is refused as too large."""


def judged() -> SchemathesisConfig:
    """Its usual configuration, with the refusals that are ours."""
    return SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}})
