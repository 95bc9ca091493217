"""ai-node tls: a site authority, the node's certificate, certificates of modalities, and when each ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from dicom_node import authority, files
from dicom_node.cli.common import JSON_OPTION, Exit, emit, out, settings, stop
from dicom_node.settings import Settings
from dicom_node.tls import WARN_DAYS, Identity, TlsRefused, check, is_address, read_certificate

app = typer.Typer(no_args_is_help=True, help="Certificates: make, renew, look at them.")

NAMES = typer.Option([], "--name", help="Host name or IP address under which it is called; may be given several times.")


@app.command("init")
def init(
    names: list[str] = NAMES,
    days: int = typer.Option(authority.NODE_DAYS, min=1, max=825, help="How long the node's certificate is valid."),
) -> None:
    """Make a site authority, and with it the node's certificate, where the settings say.

    Files that are there are left alone. After it: `web.tls: true`, `door.tls_port: 2762`, and devices that trust the
    authority.

    Example: ai-node tls init --name ainode.hospital.example --name 10.1.2.3
    """
    chosen = settings()
    told = _names(names)
    if not told:
        stop(Exit.USAGE, "--name: the host name or address under which phones and modalities call this node")
    identity = chosen.tls.identity
    with _refusing():
        for path in (identity.certificate_file, identity.private_key_file):
            if path.exists():
                raise TlsRefused(f"{path} is there already; `ai-node tls renew` replaces it")
        if identity.authority_file.exists():
            out.print(f"{identity.authority_file} is there already and signs", markup=False)
        else:
            authority.make_authority(identity.authority_file, chosen.node.organisation, datetime.now(UTC))
        _write(chosen, identity, told, days)
    _tell_files(identity)


@app.command("renew")
def renew(
    names: list[str] = NAMES,
    days: int = typer.Option(authority.NODE_DAYS, min=1, max=825, help="How long the new certificate is valid."),
    if_days: int | None = typer.Option(
        None, "--if-days", min=0, help="Only when the present one ends in fewer days: for a daily timer."
    ),
) -> None:
    """Make the node's certificate anew, with a new key; the running node takes it up by itself.

    Without --name it keeps the names that it has.

    Example: ai-node tls renew --if-days 30
    """
    chosen = settings()
    identity = chosen.tls.identity
    with _refusing():
        present = read_certificate(identity.certificate_file)
        if if_days is not None and present.days_left() >= if_days:
            out.print(f"nothing to do: {present.days_left()} days left")
            return
        _write(chosen, identity, _names(names) or present.names, days)
    _tell_files(identity)


@app.command("issue")
def issue(
    ae_title: str = typer.Argument(..., help="AE title of the modality or archive; becomes the common name."),
    names: list[str] = NAMES,
    out_folder: Path = typer.Option(Path("."), "--out", help="Folder for the files."),
    days: int = typer.Option(authority.NODE_DAYS, min=1, max=3650, help="How long the certificate is valid."),
) -> None:
    """Make key and certificate for a modality, an archive or a program that the node shall believe.

    Example: ai-node tls issue MR1 --name mr1.hospital.example --out /media/stick
    """
    chosen = settings()
    stem = "".join(c if c.isalnum() else "-" for c in ae_title.lower())
    made = Identity(out_folder / f"{stem}.pem", out_folder / f"{stem}.key", out_folder / "authority.pem")
    with _refusing():
        for path in (made.certificate_file, made.private_key_file):
            if path.exists():
                raise TlsRefused(f"{path} is there already")
        certificate, key = authority.issue(
            chosen.tls.authority_file, ae_title, _names(names), chosen.node.organisation, datetime.now(UTC), days
        )
        files.write_durably(made.private_key_file, key)
        authority.write_public(made.certificate_file, certificate)
        authority.write_public(made.authority_file, chosen.tls.authority_file.read_bytes())
    _tell_files(made)


@app.command("status")
def status(as_json: bool = JSON_OPTION) -> None:
    """The node's certificate and its authority: names, fingerprints, days left. Exit code 1 when something is wrong.

    Example: ai-node tls status
    """
    chosen = settings()
    identity = chosen.tls.identity
    rows: list[dict[str, Any]] = []
    with _refusing():
        for label, path in (("node", identity.certificate_file), ("authority", identity.authority_file)):
            facts = read_certificate(path)
            rows.append(
                {
                    "certificate": label,
                    "file": str(path),
                    "common_name": facts.common_name,
                    "names": list(facts.names),
                    "ends_at": facts.ends_at.isoformat(),
                    "days_left": facts.days_left(),
                    "sha256": facts.fingerprint,
                }
            )
        check(identity)
    if as_json:
        emit(rows)
    else:
        for row in rows:
            out.print(f"{row['certificate']}: {row['common_name']}  ({row['file']})", markup=False, soft_wrap=True)
            if row["names"]:
                out.print(f"  valid for   {', '.join(row['names'])}", markup=False, soft_wrap=True)
            out.print(f"  ends        {row['ends_at'][:10]}, in {row['days_left']} days", markup=False)
            out.print(f"  SHA-256     {row['sha256']}", markup=False, soft_wrap=True)
    if any(row["days_left"] < WARN_DAYS for row in rows):
        stop(Exit.FAULT, "a certificate has ended or ends soon: `ai-node tls renew`, then look again")


def _write(chosen: Settings, identity: Identity, names: Sequence[str], days: int) -> None:
    """Key and certificate of the node; the key first, so that the certificate never waits for it."""
    moment, organisation = datetime.now(UTC), chosen.node.organisation
    every = tuple(dict.fromkeys((*names, *authority.LOCAL_NAMES)))
    certificate, key = authority.issue(identity.authority_file, every[0], every, organisation, moment, days)
    files.write_durably(identity.private_key_file, key)
    authority.write_public(identity.certificate_file, certificate)


def _names(given: Sequence[str]) -> tuple[str, ...]:
    for name in given:
        is_name = len(name) <= 64 and all(
            part and part.isascii() and part.replace("-", "").isalnum() for part in name.split(".")
        )
        if not is_name and not is_address(name):
            stop(Exit.USAGE, f"--name: expected a host name such as ainode.example or an IP address, found {name!r}")
    return tuple(given)


def _tell_files(identity: Identity) -> None:
    facts = read_certificate(identity.authority_file)
    out.print(f"certificate  {identity.certificate_file}", markup=False, soft_wrap=True)
    out.print(f"key          {identity.private_key_file}  (nobody else may read it)", markup=False, soft_wrap=True)
    out.print(f"authority    {identity.authority_file}", markup=False, soft_wrap=True)
    out.print(f"  SHA-256    {facts.fingerprint}", markup=False, soft_wrap=True)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except TlsRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))
    except OSError as error:
        stop(Exit.CONFIGURATION, f"{error.filename}: {error.strerror}")
