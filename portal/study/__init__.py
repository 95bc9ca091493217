"""Pages for somebody who brings a study of her own: drop it or pick it in the archive, see what is read, ask, look."""

from __future__ import annotations

from portal.study.pages import router

__all__ = ["router"]
