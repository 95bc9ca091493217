"""Every page that somebody reaches by links, from every place, speaks her language and no other.

Pages as the node sends them: every state that the site of the walks (tests/support/whole.py) has, without a browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from portal import sessions
from portal.gate import routes_of
from tests.support.tongues import strangers
from tests.support.visits import ORIGIN
from tests.support.walking import page_of
from tests.support.whole import HOSTILE, PEOPLE, Whole, whole

pytestmark = pytest.mark.component

WRITTEN = (HOSTILE, *(name for _, _, name in PEOPLE.values()), "Closed", "Ficha", "Bleeds since May", "other: x",
           "Look again in three months, same light.", "migration", "destination-archive", "archive",
           "closed", "another", "a fault", "down",
           "Bright voxels (test)", "Tests of this program only.", "It marks what is bright and knows no anatomy.",
           "tiny-bright 1.0.0", "test", "note.txt",
           "Test Hospital", "AI node authority Test")  # fmt: skip
"""What people, settings and devices wrote, in whatever language."""
MOST = 8
"""Pages of one kind that are opened: the tenth entry of a list says the same as the ninth, but states differ."""
STARTS = {
    "": ["/sign-in", "/sign-in?said=out", "/sign-in?said=password", "/new-password", "/trust", "/offline"],
    "clinician": ["/", "/study", "/analyses?since=2026-01-01", "/nothing-here"],
    "specialist": ["/", "/cases?state=answered", "/cases?state=closed"],
    "operator": ["/", "/operation?said=retry", "/operation/held?trouble=reason"],
    "administrator": ["/", "/administration/audit?check=yes", "/administration/audit?since=nonsense"],
}
_LINK = re.compile(r"<a [^>]*href=\"(/[^\"#]*)")
_PARTS = re.compile(r"hx-get=\"(/[^\"]*)\"")
_ELSEWHERE = re.compile(r"/(static|ohif|view|trust/|study/[0-9a-f]+/files|analyses/[0-9a-f]+/(pdf|photo|heat))")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with whole(tmp_path_factory.mktemp("whole")) as made:
        made.until_answered()
        made.pause(True)
        yield made


@pytest.mark.parametrize(
    ("who", "language"), [*((who, "es") for who in ("", *PEOPLE)), *((who, "en") for who in STARTS)]
)
def test_every_page_speaks_its_readers_language(node: Whole, who: str, language: str) -> None:
    client = TestClient(node.node.app, base_url=ORIGIN, cookies={"language": language})
    if who:
        client.cookies.set(sessions.SESSION, node.session(who, language))
        node.lend_requests(node.person(who, language))
    templates = [route.path for route in routes_of(node.node.app)]
    found: dict[str, list[str]] = {}
    opened: dict[str, int] = {}
    todo = list(STARTS.get(who, ["/"]))
    if who == "clinician":
        todo += [f"/study/{node.seen[name]}" for name in node.seen if name.startswith("request-")]
    seen = set(todo)
    while todo:
        path = todo.pop(0)
        kind = page_of(urlsplit(path).path, templates)
        opened[kind] = opened.get(kind, 0) + 1
        answer = client.get(path, headers={"Accept": "text/html"})
        if "text/html" not in answer.headers.get("content-type", ""):
            continue
        told = strangers(answer.text, language, WRITTEN)
        found |= {path: told} if told else {}
        for link in _LINK.findall(answer.text) + _PARTS.findall(answer.text):
            link = link.replace("&amp;", "&")
            is_new = link not in seen and not _ELSEWHERE.match(link) and "language=" not in link
            if is_new and opened.get(page_of(urlsplit(link).path, templates), 0) < MOST:
                seen.add(link)
                todo.append(link)
    assert sum(opened.values()) >= len(STARTS.get(who, [""])), opened
    assert not found, "\n".join(f"{path}\n  " + "\n  ".join(told) for path, told in found.items())
