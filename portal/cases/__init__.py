"""Pages of specialists: open cases of their sites, replies, and what histology said."""

from __future__ import annotations

from portal.cases.pages import router

__all__ = ["router"]
