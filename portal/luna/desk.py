"""The desk of the LUNA API: accounts by tokens, analyses by the desk of all analyses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dicom_node.desks.analyses import Analyses
from dicom_node.desks.people import LUNA, Asked, People
from dicom_node.permissions import OF_A_SITE, Person
from dicom_node.record import Database, sites
from portal.luna.tokens import Tokens


@dataclass(frozen=True)
class SignedIn:
    """Somebody with her token."""

    person: Person
    token: str
    expires_at: datetime


class LunaDesk:
    """What the routes need of the rest of the node."""

    def __init__(self, people: People, tokens: Tokens, analyses: Analyses, database: Database) -> None:
        self.people = people
        self.analyses = analyses
        self._tokens = tokens
        self._database = database

    def sign_in(self, account: str, password: str, code: str, address: str, agent: str) -> SignedIn:
        """Begin a session that a token stands for.

        Raises
        ------
        SignInRefused, SecondFactorNeeded
        """
        asked = Asked(account, password, address, agent, code=code)
        begun = self.people.sign_in(asked, LUNA, self._tokens.lifetime)
        issued = self._tokens.issue(begun.person.public_id, begun.secret)
        return SignedIn(begun.person, issued.token, issued.expires_at)

    def person_of(self, token: str) -> Person | None:
        """Whose token this is; None when it is not one of ours, or its session is over."""
        claims = self._tokens.check(token)
        if claims is None:
            return None
        person = self.people.identify(claims.jti, LUNA)
        return person if person is not None and person.public_id == claims.subject else None

    def sites_for(self, site: str, roles: list[str]) -> list[str]:
        """Where a new account belongs: to the site that is named, else to the only one there is."""
        if site:
            return [site]
        with self._database.read() as connection:
            only = sites.only_site(connection)
        return [only] if only is not None and OF_A_SITE & set(roles) else []
