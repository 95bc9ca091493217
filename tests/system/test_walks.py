"""Every page in every state in real Chromium over HTTPS: phone and desk, both languages, light and dark, by keyboard.

`make test` goes every way once, in looks that alternate; the long one goes every way in every look and keeps pictures
in ``run/pages``.  tests/component/test_walked_pages.py holds the ways against the route table.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from portal.gate import routes_of
from tests.support import walks_account, walks_clinic, walks_rooms
from tests.support.browsers import PHONE, chromium, pinned, window
from tests.support.walking import LOOKS, WALKS, Look, Walk, Walker, walker
from tests.support.whole import Whole, whole

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

assert walks_account and walks_clinic and walks_rooms  # entered into the table by being there
SHORT = [(one, LOOKS[number % len(LOOKS)]) for number, one in enumerate(WALKS)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with whole(tmp_path_factory.mktemp("whole")) as made:
        yield made


@pytest.fixture(scope="module")
def browser(node: Whole) -> Iterator[Browser]:
    with chromium(pinned(node.certificate)) as made:
        yield made


@pytest.mark.parametrize(("way", "look"), SHORT, ids=[f"{one.name}-{look}" for one, look in SHORT])
def test_every_way_is_sound(node: Whole, browser: Browser, way: Walk, look: Look) -> None:
    gone(node, browser, way, look, with_pictures=False)


@pytest.mark.long
@pytest.mark.parametrize("look", LOOKS, ids=str)
@pytest.mark.parametrize("way", WALKS, ids=[one.name for one in WALKS])
def test_every_way_is_sound_in_every_look(node: Whole, browser: Browser, way: Walk, look: Look) -> None:
    gone(node, browser, way, look, with_pictures=True)


def gone(node: Whole, browser: Browser, way: Walk, look: Look, *, with_pictures: bool) -> None:
    """Go one way; what is declared is what was shown."""
    templates = [route.path for route in routes_of(node.node.app)]
    with walker(browser, node, look, way.who) as who:
        for name in way.go(who):
            is_first = who.stop(name, templates)
            if with_pictures:
                who.keep_picture(way.name)
            if is_first:
                who.by_keyboard()
        assert set(way.pages) <= who.pages, "a page that it says it shows"


def test_axe_and_the_keyboard_see_what_is_wrong(node: Whole, browser: Browser) -> None:
    """The checks themselves: each of them fails on a page with that fault."""
    with window(browser, node.address, **PHONE) as seen:
        seen.go("/sign-in")
        seen.page.evaluate("document.querySelector('label[for=email]').remove()")
        assert [rule for _, rule, _ in seen.axe()] == ["label"]
    faults = {
        "document.querySelector('.skip').style.outline = 'none'": "nobody sees where the focus is",
        "document.querySelector('#email').onkeydown = key => key.preventDefault()": "the keyboard does not reach",
        "const button = document.querySelector('#sign-in button');"
        "button.onfocus = () => document.querySelector('#email').focus()": "the focus goes back",
        "document.querySelector('h1').outerHTML = '<h2>x</h2>'": "one heading",
        "document.querySelector('main').style.minWidth = '2000px'": "wider than the window",
        "document.querySelector('#email').id = 'password'": "",
    }
    for fault, words in faults.items():
        with walker(browser, node, LOOKS[1], "") as who:
            who.go("/sign-in").evaluate(f"() => {{ {fault} }}")
            with pytest.raises(AssertionError, match=words):
                _looked_at(who)


def _looked_at(who: Walker) -> None:
    who.stop("sign in", ["/sign-in"])
    who.by_keyboard()
