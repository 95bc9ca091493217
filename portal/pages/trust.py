"""How a phone or a modality comes to trust the node: its authority's certificate, and how to know the right one.

Open to everybody: whoever needs it cannot sign in safely yet.  What it hands out is public.  The page itself proves
nothing, because it comes by the very connection that is not trusted yet: it says with what its fingerprint has to be
compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from dicom_node.tls import CertificateFacts
from portal.gate import OPEN, permission
from portal.pages.render import page

DEVICES = ("iphone", "android", "windows", "mac", "linux", "firefox", "modality")


@dataclass(frozen=True)
class Trust:
    """What a device has to know of the node."""

    authority: CertificateFacts
    node: CertificateFacts
    certificate: bytes
    """Of the authority, in PEM form."""


def router(told: Callable[[], Trust]) -> APIRouter:
    """``/trust`` and the authority's certificate below it.

    Parameters
    ----------
    told
        Reads the certificates as they are now.
    """
    made = APIRouter(include_in_schema=False)

    def trust(request: Request) -> Response:
        """The page."""
        found = told()
        return page(request, "trust.html", trust=found, devices=DEVICES)

    def certificate() -> Response:
        """The certificate, as phones and computers install it."""
        return _file(told().certificate, "application/x-x509-ca-cert", "ai-node-authority.crt")

    def pem() -> Response:
        """The same for modalities and programs."""
        return _file(told().certificate, "application/x-pem-file", "ai-node-authority.pem")

    for path, handler in (
        ("/trust", trust),
        ("/trust/authority.crt", certificate),
        ("/trust/authority.pem", pem),
    ):
        made.add_api_route(path, handler, methods=["GET"], openapi_extra=permission(OPEN))
    return made


def _file(data: bytes, kind: str, name: str) -> Response:
    return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
