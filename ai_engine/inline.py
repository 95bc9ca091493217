"""Pictures inside a page, so that one HTML file is whole."""

from __future__ import annotations

import base64


def png_uri(data: bytes) -> str:
    """A PNG file as a ``data:`` URI (RFC 2397) for the ``src`` of an image."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
