"""Commands for accounts and sites: users, sites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import typer

from dicom_node.cli.common import JSON_OPTION, Exit, emit, out, stop
from dicom_node.cli.operate import actor, print_rows, record
from dicom_node.desks.people import People
from dicom_node.passwords import PasswordRefused
from dicom_node.record import Database, people, second_factors, sites
from dicom_node.record.people import User
from dicom_node.record.sites import PeopleRefused
from dicom_node.settings import LOOPBACK, Settings, SettingsRefused, read_secret

users_app = typer.Typer(no_args_is_help=True, help="Accounts of people and services.")
sites_app = typer.Typer(no_args_is_help=True, help="Posts and hospitals whose studies are kept apart.")

EMAIL = typer.Argument(..., help="The account's e-mail address.")
ROLE = typer.Option(..., "--role", help="administrator, operator, clinician, specialist or service; may be repeated.")
SITE = typer.Option([], "--site", help="Key of a site it works for; may be repeated.")


@users_app.command("create")
def users_create(
    email: str = EMAIL,
    name: str = typer.Option(..., "--name", help="How the person is called."),
    role: list[str] = ROLE,
    site: list[str] = SITE,
    language: str = typer.Option("", "--language", help="en or es; default: the node's."),
    password_file: Path | None = typer.Option(
        None, "--password-file", help="Read the password from this file (0600), which only its owner may read."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Make an account. Without a password file, a link is printed that sets the first password once.

    Example: ai-node users create ana@hospital.example --name "Ana Soto" --role administrator
    """
    with desk() as (chosen, _, people_desk):
        made = people_desk.create(
            actor(),
            email=email,
            name=name,
            roles=role,
            sites=site,
            language=language or chosen.node.language,
            password=read_secret(password_file) if password_file else None,
        )
        link = "" if password_file else _link(chosen, people_desk.password_token(actor(), made.email))
    if as_json:
        emit({**_told(made), "link": link} if link else _told(made))
    elif link:
        _say_link(chosen, link)
    else:
        out.print(f"{made.email}: made", markup=False)


@users_app.command("list")
def users_list(as_json: bool = JSON_OPTION) -> None:
    """Every account: roles, sites, state, when it was last used.

    Example: ai-node users list
    """
    with desk() as (_, database, _), database.read() as connection:
        found = people.all_users(connection)
    if as_json:
        emit([_told(user) for user in found])
        return
    told = [
        {
            "e-mail": user.email,
            "name": user.name,
            "roles": ", ".join(sorted(user.roles)),
            "sites": ", ".join(user.sites),
            "state": user.state,
            "second factor": "yes" if user.second_factor_at else "",
            "last used (UTC)": (user.signed_in_at or "")[:16],
        }
        for user in found
    ]
    print_rows(told, as_json)


@users_app.command("roles")
def users_roles(email: str = EMAIL, role: list[str] = ROLE, site: list[str] = SITE) -> None:
    """Give an account these roles, and these sites if any are named; whoever uses it has to sign in again.

    Example: ai-node users roles eva@hospital.example --role specialist --site osorno
    """
    with desk() as (_, database, _), database.write() as connection:
        people.set_roles(connection, actor(), people.account(connection, email), role, site or None)


@users_app.command("disable")
def users_disable(email: str = EMAIL) -> None:
    """End every session and key of an account; nobody signs in with it any more. What it did stays in the record.

    Example: ai-node users disable eva@hospital.example
    """
    with desk() as (_, database, _), database.write() as connection:
        people.set_state(connection, actor(), people.account(connection, email), people.DISABLED)


@users_app.command("enable")
def users_enable(email: str = EMAIL) -> None:
    """Let a disabled account sign in again, with the password it had.

    Example: ai-node users enable eva@hospital.example
    """
    with desk() as (_, database, _), database.write() as connection:
        people.set_state(connection, actor(), people.account(connection, email), people.ACTIVE)


@users_app.command("reset-password")
def users_reset_password(email: str = EMAIL, as_json: bool = JSON_OPTION) -> None:
    """Print a link with which a new password can be set once; links made before are worth nothing any more.

    Example: ai-node users reset-password eva@hospital.example
    """
    with desk() as (chosen, _, people_desk):
        link = _link(chosen, people_desk.password_token(actor(), email))
    if as_json:
        emit({"email": email, "link": link})
    else:
        _say_link(chosen, link)


@users_app.command("reset-second-factor")
def users_reset_second_factor(email: str = EMAIL) -> None:
    """Ask an account for no code any more, whose device and recovery codes are lost; its sessions end.

    Be sure who asks: then the password alone opens the account, and whoever has it can set up a device of her own.

    Example: ai-node users reset-second-factor ana@hospital.example
    """
    with desk() as (_, database, _), database.write() as connection:
        second_factors.reset(connection, actor(), people.account(connection, email))


@sites_app.command("create")
def sites_create(
    key: str = typer.Argument(..., help="Short name: a-z, 0-9 and dash."),
    title: str = typer.Option(..., "--title", help="How people call it."),
    identifier: list[str] = typer.Option(
        [],
        "--identifier",
        help="How patients are named there, as key=…,title=…,system=URI,issuer=…,check=rut|cedula-ec; only key "
        "and issuer are needed; may be repeated.",
    ),
) -> None:
    """Make a site. Clinicians and specialists belong to one or more.

    Example: ai-node sites create osorno --title "Base Osorno" --identifier key=rut,title=RUT,issuer=RUT-CL,check=rut
    """
    types = [_fields(one) for one in identifier]
    with desk() as (_, database, _), database.write() as connection:
        sites.add_site(connection, actor(), key=key, title=title, identifier_types=types)


@sites_app.command("list")
def sites_list(as_json: bool = JSON_OPTION) -> None:
    """Every site, with the types of identifier its patients have.

    Example: ai-node sites list
    """
    with desk() as (_, database, _), database.read() as connection:
        found = sites.all_sites(connection)
    if as_json:
        emit([{**asdict(site), "identifier_types": [dict(kind) for kind in site.identifier_types]} for site in found])
        return
    told = [
        {
            "key": site.key,
            "title": site.title,
            "patients by": ", ".join(kind["key"] for kind in site.identifier_types),
            "closed (UTC)": (site.closed_at or "")[:16],
        }
        for site in found
    ]
    print_rows(told, as_json)


@sites_app.command("close")
def sites_close(key: str = typer.Argument(..., help="Key of the site.")) -> None:
    """Close a site: nothing new is its; what is there stays.

    Example: ai-node sites close osorno
    """
    with desk() as (_, database, _), database.write() as connection:
        sites.close_site(connection, actor(), key)


@contextmanager
def desk() -> Iterator[tuple[Settings, Database, People]]:
    """Settings, record and the desk for people; what they refuse ends the command."""
    with record() as (chosen, database):
        try:
            yield chosen, database, People(chosen.people, database)
        except (PeopleRefused, PasswordRefused) as refused:
            stop(Exit.REFUSED, str(refused))
        except SettingsRefused as refused_file:
            stop(Exit.CONFIGURATION, str(refused_file))


def _told(user: User) -> dict[str, Any]:
    return {
        "id": user.public_id,
        "email": user.email,
        "name": user.name,
        "roles": sorted(role.value for role in user.roles),
        "sites": list(user.sites),
        "language": user.language,
        "state": user.state,
        "second_factor_at": user.second_factor_at,
        "created_at": user.created_at,
        "signed_in_at": user.signed_in_at,
    }


def _link(chosen: Settings, token: str) -> str:
    """Where the portal sets a password, as this machine reaches it or by the first name that the settings give it."""
    web = chosen.web
    names = [name for name in web.allowed_hosts if name not in LOOPBACK]
    host = names[0] if names else web.host if web.host in LOOPBACK else "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if web.tls else 'http'}://{host}:{web.port}/new-password?{urlencode({'token': token})}"


def _say_link(chosen: Settings, link: str) -> None:
    out.print(link, markup=False, soft_wrap=True)
    out.print(f"good once, for {chosen.people.password_token_h:g} hours; hand it to its owner and to nobody else")


def _fields(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    return {key.strip(): value.strip() for key, _, value in pairs}
