"""Pages for whoever is on duty: why anything did or did not happen, what waits for a person, and what she may do."""

from __future__ import annotations

from portal.operation.pages import router

__all__ = ["router"]
