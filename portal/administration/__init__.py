"""Pages of administrators: accounts, roles, sites, keys of programs, the audit log, and how long things are kept."""

from __future__ import annotations

from portal.administration.pages import router

__all__ = ["router"]
