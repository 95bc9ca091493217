"""The way of somebody who adds a second factor to her account, and signs in with it."""

from __future__ import annotations

from collections.abc import Iterator

import pyotp

from tests.support.people import PASSWORD
from tests.support.walking import Walker, walk


@walk("guarded", "/account/second-factor", "/account/second-factor/confirm", "/sign-in", "/sign-in/code")
def second_factor(who: Walker) -> Iterator[str]:
    who.node.lose_device(who.who, who.language)
    who.seen.context.clear_cookies()
    who.enter()
    page = who.go("/account/second-factor")
    yield "none yet"
    for password, selector in (("wrong", ".notice.danger"), (PASSWORD, "#secret")):
        page.fill("#password", password)
        who.send("main form button.primary")
        page.wait_for_selector(selector)
        yield "a new device" if password == PASSWORD else "password refused"
    device = pyotp.TOTP(page.inner_text("#secret").replace(" ", ""))
    page.fill("#code", "000000")
    who.send("main form button.primary")
    page.wait_for_selector(".notice.danger")
    yield "a new device, code refused"
    page.fill("#code", device.now())
    who.send("main form button.primary")
    recovery = page.inner_text(".codes code >> nth=0")
    yield "recovery codes"
    who.go("/account/second-factor")
    yield "there is one"
    who.seen.context.clear_cookies()
    page = who.go("/sign-in")
    page.fill("#email", who.node.email(who.who, who.language))
    page.fill("#password", PASSWORD)
    who.send("#sign-in button[type=submit]")
    page.wait_for_selector("#code")
    yield "the second step"
    page.fill("#code", "000000")
    who.send("main form button.primary")
    page.wait_for_selector(".notice.danger")
    who.unfold()
    yield "the second step, code refused"
    page.fill("#code", "")
    page.fill("#recovery", recovery)
    who.send("main form button.primary")
    page.wait_for_selector("main h1")
    assert "/sign-in" not in page.url
    yield "signed in"
    who.node.lose_device(who.who, who.language)
