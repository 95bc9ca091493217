"""Where delivery may connect to: outbound addresses are checked once, and the checked address is the one used.

https anywhere; http and DIMSE without TLS only to loopback, unless the configuration gives a written reason.  A private
address is allowed, because naming the host in the configuration is how an administrator allows it and because that is
where a hospital's archive lives; link-local (cloud metadata), multicast, unspecified and reserved ranges never are.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from dicom_node.refusals import PeerTrouble, RefusalCode, Refused

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class CheckedUrl:
    """A root URL whose host has been resolved once.

    `root` has the numeric address in the place of the host: requests go there and no name is looked up again.  `host`
    is the name for TLS, `authority` the value of the Host header.
    """

    root: str
    host: str
    authority: str
    is_tls: bool


def resolve(host: str, port: int, *, plain_text_ok_because: str, is_tls: bool) -> str:
    """Resolve a configured host once and check every address it has.

    Returns
    -------
    str
        The numeric address to connect to.

    Raises
    ------
    PeerTrouble
        If the name does not resolve now.
    Refused
        `not-authorised`, if one of its addresses is of a forbidden kind, or plain text would leave the machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise PeerTrouble("the destination's host name does not resolve; check its `url` or `host`") from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        _check(address, is_tls=is_tls, plain_text_ok_because=plain_text_ok_because)
    return str(addresses[0])


def _check(address: IPAddress, *, is_tls: bool, plain_text_ok_because: str) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    plain = mapped or address
    if plain.is_loopback:
        return
    if plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain.is_reserved:
        raise Refused(RefusalCode.NOT_AUTHORISED, "a unicast address of the destination", "a special-purpose address")
    if not is_tls and not plain_text_ok_because.strip():
        raise Refused(
            RefusalCode.NOT_AUTHORISED,
            "TLS, or loopback, or insecure_ok_because with the written reason",
            "plain text to another machine",
        )


def check_url(url: str, *, insecure_ok_because: str) -> CheckedUrl:
    """Check the root URL of an HTTP service and resolve its host (see `resolve`).

    Raises
    ------
    Refused
        `validation`, if it is not an http or https URL of host, port and path only.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused(RefusalCode.VALIDATION, "a URL", "something else") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(RefusalCode.VALIDATION, "an http or https URL with a host", "another scheme or no host")
    if parts.username is not None or parts.query or parts.fragment:
        raise Refused(RefusalCode.VALIDATION, "a URL of host, port and path", "user information, query or fragment")
    is_tls = parts.scheme == "https"
    number = port if port is not None else (443 if is_tls else 80)
    address = resolve(parts.hostname, number, plain_text_ok_because=insecure_ok_because, is_tls=is_tls)
    literal = f"[{address}]" if ":" in address else address
    return CheckedUrl(
        root=f"{parts.scheme}://{literal}:{number}{parts.path.rstrip('/')}",
        host=parts.hostname,
        authority=parts.netloc,
        is_tls=is_tls,
    )
