"""The site's own authority: one key that vouches for the node and for the modalities that talk to it.

RSA, because that is what DICOM equipment of the last twenty years understands; 397 days, because phones refuse a
server's certificate that is valid for much longer.  A certificate is for both sides of TLS: the node and a modality
call and are called.

What the authority's key can sign is believed by every phone on which its certificate was installed, so the key is the
one file that may be kept elsewhere: the node runs without it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dicom_node import files
from dicom_node.tls import TlsRefused, is_address

KEY_BITS = 3072
AUTHORITY_DAYS = 3652
NODE_DAYS = 397
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_EARLIER = datetime.timedelta(hours=1)
"""Clocks of modalities run behind."""


def key_beside(authority_file: Path) -> Path:
    """Where the authority's own key lies: beside its certificate."""
    return authority_file.with_suffix(".key")


def make_authority(authority_file: Path, organisation: str, moment: datetime.datetime) -> None:
    """Make the authority: its certificate, and its key beside it (mode 0600).

    Raises
    ------
    TlsRefused
        If there is one already: whoever trusts it would have to be visited again.
    """
    key_file = key_beside(authority_file)
    for path in (authority_file, key_file):
        if path.exists():
            raise TlsRefused(f"{path} is there already; a new authority must be trusted anew by every device")
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    name = _name(f"AI node authority {organisation}".strip()[:64], organisation)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _EARLIER)
        .not_valid_after(moment + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    files.write_durably(key_file, _pem(key))
    write_public(authority_file, certificate.public_bytes(serialization.Encoding.PEM))


def issue(
    authority_file: Path,
    common_name: str,
    names: Sequence[str],
    organisation: str,
    moment: datetime.datetime,
    days: int,
) -> tuple[bytes, bytes]:
    """A certificate of the authority, and its new private key, both in PEM form.

    Parameters
    ----------
    common_name
        Of the node its first name; of a modality its AE title.
    names
        DNS names and IP addresses under which it is called.

    Raises
    ------
    TlsRefused
        If the authority's key is not here.
    """
    signer, issuer = _authority(authority_file)
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    alternative: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name) for name in names
    ]
    ends = min(moment + datetime.timedelta(days=days), issuer.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name, organisation))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _EARLIER)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def write_public(path: Path, data: bytes) -> None:
    """Write what everybody may read."""
    files.write_durably(path, data)
    os.chmod(path, 0o644)


def _authority(authority_file: Path) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key_file = key_beside(authority_file)
    try:
        certificate = x509.load_pem_x509_certificate(authority_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise TlsRefused(
            f"{error.filename}: {error.strerror}. The authority's key is needed to make a certificate: bring it back "
            "beside its certificate, or begin with `ai-node tls init`."
        ) from None
    except (ValueError, TypeError):
        raise TlsRefused(f"{key_file}: expected the authority's private key in PEM form, without passphrase") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != certificate.public_key():
        raise TlsRefused(f"{key_file}: expected the private key of the first certificate in {authority_file}")
    return key, certificate


def _name(common_name: str, organisation: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organisation:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(parts)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
