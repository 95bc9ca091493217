"""What all handlers below ``/api/v1`` know about who calls: how often, and in which language."""

from __future__ import annotations

from fastapi import Request

from dicom_node.desks.backoff import network_of
from dicom_node.web_settings import ApiSection
from portal.api.limits import Buckets
from portal.languages import negotiated
from portal.services import PortalServices
from portal.sessions import address_of


class Slower(Exception):
    """Too many calls: come back in so many seconds."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        super().__init__("too many calls")


class Callers:
    """Counts the calls of each caller and, of those who do not say who they are, of each address.

    A clinic's doctors, or everybody behind a proxy, share one address: what a stranger does there, or one of them, uses
    up nobody else's calls.

    Parameters
    ----------
    language
        In which those are answered who say nothing.
    """

    def __init__(self, services: PortalServices, settings: ApiSection, language: str) -> None:
        self._services = services
        self._language = language
        self._calls = (Buckets(settings.requests_per_minute), Buckets(settings.requests_per_minute))
        self._images = (Buckets(settings.images_per_minute), Buckets(settings.images_per_minute))

    def language(self, request: Request) -> str:
        """The language in which this caller is answered where the words exist in it: as she says, else her own."""
        person = request.state.person
        return negotiated(request.headers.get("accept-language"), person.language if person else self._language)

    def pay_call(self, request: Request) -> None:
        """Count one call.

        Raises
        ------
        Slower
        """
        self._pay(request, self._calls, 1, "api")

    def pay_image(self, request: Request) -> None:
        """Count one image.

        Raises
        ------
        Slower
        """
        self._pay(request, self._images, 1, "predict")

    def _pay(self, request: Request, buckets: tuple[Buckets, Buckets], tokens: float, route: str) -> None:
        if not tokens:
            return
        identity = request.state.identity
        if identity is not None:
            wait_s = buckets[0].take(identity.prefix, tokens)
        else:
            wait_s = buckets[1].take(network_of(address_of(request)), tokens)
        if wait_s:
            self._services.metrics.count("rate_limited_total", route=route)
            raise Slower(wait_s)
