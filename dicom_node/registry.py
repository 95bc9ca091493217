"""The registry: which version a model reference stands for, and whether another version may take its place.

A reference is ``name``, ``name@1.2.3`` or ``name@alias``.  A bare name means the alias ``stable`` once that was set,
and the newest version in the models folder before.  Aliases live in the records, so a switch is seen by the next
decision of every process, without a restart; a run keeps the exact version that it was decided for, so a switch drops
nothing.

An alias may stand for several versions by percent (A/B).  Which one a study gets follows from its UID alone, so the
same study gets the same version again whenever it is decided anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from ai_engine.packages import AnyDescription, Classification, find_package, list_packages, load_package
from ai_engine.packages.schema import VERSION
from dicom_node.record import registry
from dicom_node.record.registry import STABLE, Choice
from dicom_node.refusals import RefusalCode, Refused

ALIAS = r"^[a-z][a-z0-9-]{0,31}$"


@dataclass(frozen=True)
class Resolved:
    """What a reference stands for, for one study: the exact version, and why."""

    reference: str
    reason: str = ""
    """For the timeline; empty where there was nothing to choose."""


def resolve(connection: Connection, reference: str, subject: str) -> Resolved:
    """The exact version behind a reference.

    Parameters
    ----------
    connection
        A reading connection to the records.
    reference
        ``name``, ``name@version`` or ``name@alias``.
    subject
        What the choice must stay the same for: a Study Instance UID, or the digest of an upload.

    Returns
    -------
    Resolved
        A bare name whose ``stable`` was never set comes back as it is: the newest version of the folder.

    Raises
    ------
    Refused
        ``validation`` when the alias was never set.
    """
    name, _, wanted = reference.partition("@")
    if wanted and re.match(VERSION, wanted):
        return Resolved(reference)
    choices = registry.alias(connection, name, wanted or STABLE)
    if not choices:
        if not wanted:
            return Resolved(reference)
        raise _never_set(connection, name, wanted)
    chosen = choose(choices, f"{name}/{subject}")
    share = f" ({chosen.percent} % of studies)" if len(choices) > 1 else ""
    return Resolved(f"{name}@{chosen.version}", f"{wanted or STABLE} is {chosen.version}{share}")


def in_force(connection: Connection, reference: str) -> dict[str, str | None]:
    """Every exact version that a reference may stand for, with the digest that was put in force.

    Returns
    -------
    dict
        The reference itself, without a digest, where no alias covers it.

    Raises
    ------
    Refused
        ``validation`` when the alias was never set.
    """
    name, _, wanted = reference.partition("@")
    if wanted and re.match(VERSION, wanted):
        return {reference: None}
    choices = registry.alias(connection, name, wanted or STABLE)
    if wanted and not choices:
        raise _never_set(connection, name, wanted)
    return {f"{name}@{choice.version}": choice.digest for choice in choices} or {reference: None}


def _never_set(connection: Connection, name: str, alias: str) -> Refused:
    known = sorted(row["alias"] for row in registry.aliases(connection) if row["model"] == name)
    told = f"a version, or an alias of {name} among: {', '.join(known) or 'none is set'}"
    return Refused(RefusalCode.VALIDATION, expected=told, found=alias)


def choose(choices: Sequence[Choice], subject: str) -> Choice:
    """One of several versions by percent; the same subject always gets the same one of the same choices."""
    place = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big") % 100
    for choice in choices:
        if place < choice.percent:
            return choice
        place -= choice.percent
    raise ValueError("the percents of an alias add up to 100")


def implied(models: Path, name: str, version: str) -> str | None:
    """What a bare name stood for before this version came, where `stable` was never set: the newest other version.

    Returns
    -------
    str or None
        None when there is no other version.
    """
    others = [entry[1] for entry in list_packages(models) if entry[0] == name and entry[1] != version]
    return others[-1] if others else None


def check_switch(
    models: Path,
    name: str,
    version: str,
    *,
    predecessor: str | None,
    role_sets: Collection[tuple[str, ...]],
    accept_other_labels: bool = False,
) -> Choice:
    """Whether a version can take another's place: whole, for the same roles, saying the same things.

    Parameters
    ----------
    predecessor
        The version that is in force now; None when none is.
    role_sets
        The role sets of every enabled route that names this model.
    accept_other_labels
        Let regions differ from the predecessor's.

    Raises
    ------
    Refused
        ``model-untrusted`` or ``model-hash-mismatch`` for the package itself, ``validation`` when a route gives it
        roles that it does not read or when its regions are other ones.
    """
    package = load_package(find_package(models, f"{name}@{version}"), weights=False)
    reads = roles_of(package.description)
    for wanted in sorted(role_sets):
        if frozenset(wanted) not in reads:
            raise Refused(
                RefusalCode.VALIDATION,
                expected=f"a version that reads {', '.join(wanted)}, as a route gives it",
                found=f"{name}@{version} reads " + " or ".join(", ".join(sorted(roles)) for roles in reads),
            )
    if predecessor is not None and not accept_other_labels:
        before = load_package(find_package(models, f"{name}@{predecessor}"), weights=False).description
        had, has = meanings(before), meanings(package.description)
        if had != has:
            changed = sorted(key for key in {*had, *has} if had.get(key) != has.get(key))
            raise Refused(
                RefusalCode.VALIDATION,
                expected=f"the regions of {name}@{predecessor}, with their codes",
                found=f"other ones for: {', '.join(changed)}",
            )
    return Choice(version, package.digest_sha256)


def roles_of(description: AnyDescription) -> tuple[frozenset[str], ...]:
    """The sets of roles that a package reads."""
    return tuple(frozenset(roles) for roles in description.accepted_roles)


def meanings(description: AnyDescription) -> Mapping[str, tuple[str, str]]:
    """Key of a region or of an output to its code: what must not change under a reader's eyes when a version does."""
    if isinstance(description, Classification):
        return {entry.key: (entry.code.scheme, entry.code.value) for entry in description.outputs}
    entries = (*description.labels, *description.composites)
    return {entry.key: (entry.type.scheme, entry.type.value) for entry in entries}
