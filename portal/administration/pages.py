"""The administration pages but for the audit log's: accounts, roles, sites, keys, retention.

A form that cannot be taken comes back with what was written in it and the reason.  What is shown once (a link that sets
a password, an API key) is in the answer to the form itself and in no address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from dicom_node.desks.administration import Administration
from dicom_node.permissions import MAY, Role
from dicom_node.record.keys import ACCOUNT_SCOPES, SCOPES, KeyRefused
from dicom_node.record.people import User
from dicom_node.record.sites import CHECKS, PeopleRefused
from portal.administration import audit, retention
from portal.gate import permission
from portal.pages import page
from portal.pages.render import settings_of
from portal.sessions import person_of

HOME = "/administration"
IDENTIFIERS = 3
"""Types of identifier that the form of a site has room for; `ai-node sites create` takes any number."""

_FIELDS = ("key", "title", "system", "issuer", "check")
_NONE_GIVEN = [dict.fromkeys(_FIELDS, "")] * IDENTIFIERS

_Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
_Said = Annotated[str, Form(max_length=500)]
_Many = Annotated[list[str] | None, Form()]


def router(desk: Administration) -> APIRouter:
    """Everything below ``/administration``."""
    made = APIRouter(include_in_schema=False)
    pages = _Pages(desk)
    user, site, key = "user:manage", "site:manage", "key:manage"
    for path, handler, method, needed in (
        ("", pages.users, "GET", user),
        ("/users", pages.add_user, "POST", user),
        ("/users/new", pages.new_user, "GET", user),
        ("/users/{public_id}", pages.user, "GET", user),
        ("/users/{public_id}/roles", pages.set_roles, "POST", user),
        ("/users/{public_id}/state", pages.set_state, "POST", user),
        ("/users/{public_id}/password", pages.password_link, "POST", user),
        ("/users/{public_id}/second-factor", pages.reset_second_factor, "POST", user),
        ("/roles", pages.roles, "GET", user),
        ("/sites", pages.sites, "GET", site),
        ("/sites", pages.add_site, "POST", site),
        ("/sites/close", pages.close_site, "POST", site),
        ("/keys", pages.keys, "GET", key),
        ("/keys", pages.add_key, "POST", key),
        ("/keys/revoke", pages.revoke_key, "POST", key),
    ):
        made.add_api_route(HOME + path, handler, methods=[method], openapi_extra=permission(needed))
    made.include_router(audit.router(desk))
    made.include_router(retention.router(desk))
    return made


class _Pages:
    def __init__(self, desk: Administration) -> None:
        self._desk = desk

    # -- accounts

    def users(self, request: Request) -> Response:
        """Every account."""
        return _page(request, "users", users=self._desk.users())

    def new_user(self, request: Request) -> Response:
        """The form of a new account."""
        return self._new_user(request)

    def _new_user(self, request: Request, *, status: int = 200, **told: Any) -> Response:
        values = {"wrong": "", "email": "", "name": "", "roles": [], "sites": [], **told}
        values["chosen"] = values.pop("language", "") or person_of(request).language
        known = self._desk.sites(only_open=True)
        return _page(request, "new_user", status=status, all_roles=list(Role), all_sites=known, **values)

    def add_user(
        self,
        request: Request,
        email: _Said = "",
        name: _Said = "",
        language: _Said = "",
        roles: _Many = None,
        sites: _Many = None,
    ) -> Response:
        """Make an account; the link for its password is shown this once."""
        given: dict[str, Any] = {"email": email, "name": name, "language": language}
        given |= {"roles": roles or [], "sites": sites or []}
        try:
            made, token = self._desk.add_user(_actor(request), **given)
        except PeopleRefused as refused:
            return self._new_user(request, status=422, wrong=refused.reason, **given)
        return self._user(request, made, link=_link(request, token))

    def user(self, request: Request, public_id: _Id) -> Response:
        """One account: roles, sites, and what may be done with it."""
        return self._user(request, self._found(public_id))

    def set_roles(self, request: Request, public_id: _Id, roles: _Many = None, sites: _Many = None) -> Response:
        """Give an account other roles and sites."""
        user = self._found(public_id)
        return self._done(request, user, lambda: self._desk.set_roles(_actor(request), user, roles or [], sites or []))

    def set_state(self, request: Request, public_id: _Id, state: _Said = "") -> Response:
        """Disable an account, or enable it."""
        if state not in ("active", "disabled"):
            raise HTTPException(400)
        user = self._found(public_id)
        return self._done(request, user, lambda: self._desk.set_active(_actor(request), user, state == "active"))

    def password_link(self, request: Request, public_id: _Id) -> Response:
        """A link with which a password is set once; shown this once."""
        user = self._found(public_id)
        try:
            token = self._desk.password_token(_actor(request), user)
        except PeopleRefused as refused:
            return self._user(request, user, status=422, wrong=refused.reason)
        return self._user(request, user, link=_link(request, token))

    def reset_second_factor(self, request: Request, public_id: _Id) -> Response:
        """Take a second factor away whose device is lost."""
        user = self._found(public_id)
        return self._done(request, user, lambda: self._desk.reset_second_factor(_actor(request), user))

    def _done(self, request: Request, user: User, act: Callable[[], None]) -> Response:
        try:
            act()
        except PeopleRefused as refused:
            return self._user(request, user, status=422, wrong=refused.reason)
        return RedirectResponse(f"{HOME}/users/{user.public_id}?said=saved", status_code=303)

    def _found(self, public_id: str) -> User:
        found = self._desk.user(public_id)
        if found is None:
            raise HTTPException(404)
        return found

    def _user(self, request: Request, user: User, *, status: int = 200, link: str = "", wrong: str = "") -> Response:
        known = [one for one in self._desk.sites() if one.closed_at is None or one.key in user.sites]
        told = {"user": user, "link": link, "wrong": wrong, "all_roles": list(Role), "all_sites": known}
        return _page(request, "user", status=status, **told)

    def roles(self, request: Request) -> Response:
        """Who may do what: the one table, as the gate reads it."""
        return _page(request, "roles", may=MAY, all_roles=list(Role))

    # -- sites

    def sites(self, request: Request) -> Response:
        """Sites and how patients are named there."""
        return self._sites(request)

    def _sites(self, request: Request, *, status: int = 200, **told: Any) -> Response:
        values = {"wrong": "", "key": "", "title": "", "given": _NONE_GIVEN, **told}
        return _page(request, "sites", status=status, sites=self._desk.sites(), checks=CHECKS, **values)

    async def add_site(self, request: Request) -> Response:
        """Make a site."""
        form = await request.form()
        key, title = (str(form.get(name) or "").strip() for name in ("key", "title"))
        given = [
            {name: str(form.get(f"{name}_{number}") or "").strip() for name in _FIELDS} for number in range(IDENTIFIERS)
        ]
        try:
            self._desk.add_site(_actor(request), key, title, [one for one in given if any(one.values())])
        except PeopleRefused as refused:
            return self._sites(request, status=422, wrong=refused.reason, key=key, title=title, given=given)
        return RedirectResponse(f"{HOME}/sites?said=saved", status_code=303)

    def close_site(self, request: Request, key: _Said = "") -> Response:
        """Close a site; what is there stays."""
        try:
            self._desk.close_site(_actor(request), key)
        except PeopleRefused as refused:
            return self._sites(request, status=422, wrong=refused.reason)
        return RedirectResponse(f"{HOME}/sites?said=saved", status_code=303)

    # -- keys

    def keys(self, request: Request) -> Response:
        """Keys of programs: never the key itself."""
        return self._keys(request)

    def _keys(self, request: Request, *, status: int = 200, **told: Any) -> Response:
        values = {"wrong": "", "token": "", "name": "", "chosen": [], "account": "", **told}
        accounts = [user for user in self._desk.users() if user.is_active]
        known = {"scopes": list(SCOPES), "account_scopes": list(ACCOUNT_SCOPES), "accounts": accounts}
        return _page(request, "keys", status=status, keys=self._desk.keys()[::-1], **known, **values)

    def add_key(self, request: Request, name: _Said = "", account: _Said = "", scopes: _Many = None) -> Response:
        """Make a key; it is shown this once."""
        try:
            token = self._desk.add_key(_actor(request), name, scopes or [], account)
        except KeyRefused as refused:
            told = {"name": name, "account": account, "chosen": scopes or []}
            return self._keys(request, status=422, wrong=refused.reason, **told)
        return self._keys(request, token=token)

    def revoke_key(self, request: Request, name: _Said = "") -> Response:
        """End a key at once."""
        try:
            self._desk.revoke_key(_actor(request), name)
        except KeyRefused as refused:
            return self._keys(request, status=422, wrong=refused.reason)
        return RedirectResponse(f"{HOME}/keys?said=saved", status_code=303)


def _page(request: Request, name: str, /, *, status: int = 200, **values: Any) -> Response:
    said = request.query_params.get("said") == "saved" and request.method == "GET"
    known = {"said": said, "wrong": "", **values}
    return page(request, f"administration/{name}.html", status=status, **known)


def _actor(request: Request) -> str:
    return person_of(request).actor


def _link(request: Request, token: str) -> str:
    """Where a password is set with a token, as somebody else's browser reaches this node."""
    base = settings_of(request).base_url or str(request.base_url)
    return f"{base.rstrip('/')}/new-password?token={token}"
