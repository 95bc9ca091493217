"""Pages for people: server-rendered HTML, one layout, two languages, nothing from any other host.

`render.page` makes a page of a template; `navigation.PLACES` is what a person can reach; `dictionaries/<language>/`
holds every word.  Pages work without a script; scripts (own files and htmx, under ``/static``) make them livelier.
Content-Security-Policy without inline script or style (S11); every page is ``no-store`` (S23).
"""

from __future__ import annotations

from portal.pages.render import page, translator

__all__ = ["page", "translator"]
