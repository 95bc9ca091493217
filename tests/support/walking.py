"""How the pages are walked through: in which looks, what is checked at every stop, and the table of all walks.

A walk is a generator of one person's way through some pages: it does what she does and yields the name of what is on
the screen.  It declares which pages of the route table it shows; a page that no walk shows fails a test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page

from portal import sessions
from tests.support.browsers import DESK, PHONE, Window, window
from tests.support.whole import Whole

PICTURES = Path(__file__).resolve().parents[2] / "run/pages"
"""Where pictures of the pages are kept; git keeps none of them."""


@dataclass(frozen=True)
class Look:
    """A device, a language, and light or dark."""

    device: str
    language: str
    scheme: str

    def __str__(self) -> str:
        return f"{self.device}-{self.language}-{self.scheme}"

    @property
    def options(self) -> dict[str, Any]:
        """What the browser is told."""
        locale = {"en": "en-GB", "es": "es-CL"}[self.language]
        return {**{"phone": PHONE, "desk": DESK}[self.device], "color_scheme": self.scheme, "locale": locale}


LOOKS = tuple(
    Look(device, language, scheme)
    for scheme in ("dark", "light")
    for device, language in (("phone", "es"), ("desk", "en"), ("phone", "en"), ("desk", "es"))
)


@dataclass(frozen=True)
class Walk:
    """One person's way through some pages.

    Attributes
    ----------
    who
        Role of the cast (`whole.PEOPLE`); empty: nobody has signed in.
    pages
        Paths of the route table that it shows, each.
    go
        Yields the name of everything there is to look at, as it is on the screen.
    """

    name: str
    who: str
    pages: tuple[str, ...]
    go: Callable[[Walker], Iterator[str]]


WALKS: list[Walk] = []


def walk(who: str, *pages: str) -> Callable[[Callable[[Walker], Iterator[str]]], Callable[[Walker], Iterator[str]]]:
    """Enter a walk into the table, under the name of its function."""

    def enter(go: Callable[[Walker], Iterator[str]]) -> Callable[[Walker], Iterator[str]]:
        WALKS.append(Walk(go.__name__, who, pages, go))
        return go

    return enter


def page_of(path: str, templates: Iterable[str]) -> str:
    """The path of the route table that an address is of: the one that is it, else the one it fits; else itself."""
    known = set(templates)
    if path in known:
        return path
    fitting = [one for one in known if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one.replace(":path}", "}.*")), path)]
    return max(fitting, key=len, default=path)


@dataclass
class Walker:
    """Somebody on her way, with what she has seen."""

    seen: Window
    node: Whole
    look: Look
    who: str
    stops: list[str] = field(default_factory=list)
    pages: set[str] = field(default_factory=set)

    @property
    def page(self) -> Page:
        return self.seen.page

    @property
    def language(self) -> str:
        return self.look.language

    def enter(self) -> None:
        """Be signed in, in the look's language."""
        name = f"{sessions.HOST_PREFIX}{sessions.SESSION}"
        secret = self.node.session(self.who, self.language)
        cookie = {"name": name, "value": secret, "url": self.node.address, "secure": True}
        self.seen.context.add_cookies([cookie])  # type: ignore[list-item]

    def go(self, path: str) -> Page:
        """Open a page of the node, whatever was being written on the one before."""
        self.page.evaluate("window.onbeforeunload = null")
        return self.seen.go(path)

    def of(self, state: str) -> str:
        """Public id of the analysis of hers, or in her language, that is in this state."""
        return self.node.seen[f"{state}-{self.language}"]

    def send(self, selector: str) -> None:
        """Press the button of a form and wait for what it leads to."""
        with self.page.expect_navigation():
            self.page.click(selector)

    def unfold(self) -> None:
        """Open everything that is folded."""
        self.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")

    def stop(self, name: str, templates: Iterable[str]) -> bool:
        """What holds of every page in every state; whether it is the first stop on this page."""
        page, where = self.page, f"{name} ({self.look})"
        path = page_of(urlsplit(page.url).path, templates)
        is_first = path not in self.pages
        self.stops.append(name)
        self.pages.add(path)
        assert self.seen.axe() == [], where
        facts = page.evaluate(_FACTS)
        assert facts["language"] == self.language, where
        assert facts["headings"] == 1 and facts["title"].strip(" ·"), f"{where}: one heading, and a title"
        assert facts["wide"] <= 0, f"{where} is {facts['wide']} px wider than the window"
        assert not facts["small"], f"{where}: too small for a thumb: {facts['small']}"
        assert not facts["twice"], f"{where}: the same id twice: {facts['twice']}"
        assert facts["fault"] == name.startswith("50"), f"{where}: a fault of the node"
        assert not facts["hurt"], f"{where}: what somebody wrote was run"
        assert self.seen.troubles == [], where
        return is_first

    def keep_picture(self, walk: str) -> None:
        """A picture of the whole page as it is, in `PICTURES`."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("window.scrollTo(0, 0)")
        name = re.sub(r"[^a-z0-9]+", "-", f"{walk}-{len(self.stops):02}-{self.stops[-1]}".lower()).strip("-")
        self.page.screenshot(path=PICTURES / f"{self.look}-{name}.png", full_page=True, timeout=90_000)

    def by_keyboard(self) -> None:
        """Tab alone reaches everything that can be acted on, in the order in which it stands, always to be seen."""
        page, where = self.page, f"{self.stops[-1]} ({self.look})"
        wanted, steps = page.evaluate(_BEGIN)
        last = -1
        for _ in range(steps):
            page.keyboard.press("Tab")
            at = page.evaluate(_STEP)
            if at["place"] == "end":
                break
            assert at["ring"], f"{where}: nobody sees where the focus is: {at['html']}"
            assert not at["hidden"], f"{where}: the focus is behind the row of places: {at['html']}"
            if at["place"] >= 0:
                assert at["place"] >= last, f"{where}: the focus goes back: {at['html']}"
                last = at["place"]
        missed = page.evaluate(
            "window.walked.wanted.filter(e => !window.walked.met.has(e)).map(e => e.outerHTML.slice(0, 120))"
        )
        assert not missed, f"{where}: the keyboard does not reach {len(missed)} of {wanted}: {missed}"


def walker(browser: Browser, node: Whole, look: Look, who: str) -> _Entered:
    """Somebody with a window of her own, signed in where she is somebody."""
    return _Entered(browser, node, look, who)


class _Entered:
    def __init__(self, browser: Browser, node: Whole, look: Look, who: str) -> None:
        # The worker stays out: what goes over the line is caught and changed on some of the ways.
        self._made = window(browser, node.address, **look.options, service_workers="block")
        self._node, self._look, self._who = node, look, who

    def __enter__(self) -> Walker:
        made = Walker(self._made.__enter__(), self._node, self._look, self._who)
        if self._who:
            made.enter()
        return made

    def __exit__(self, *told: Any) -> None:
        self._made.__exit__(*told)


_FACTS = """() => {
  const shown = [...document.querySelectorAll("button, a.button, select, input:not([type=hidden]), .places a, summary")]
    .filter(one => one.checkVisibility() && !one.closest(".only-heard, .skip") && !one.classList.contains("only-heard")
      && !["radio", "checkbox", "file"].includes(one.type))
    .map(one => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()]);
  const ids = [...document.querySelectorAll("[id]")].map(one => one.id);
  return {
    language: document.documentElement.lang,
    title: document.title.split("·")[0],
    headings: [...document.querySelectorAll("h1")].filter(one => one.checkVisibility()).length,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    small: shown.filter(([, box]) => box.width && (box.height < 43.5 || box.width < 43.5)).map(([html]) => html),
    twice: ids.filter((id, at) => ids.indexOf(id) !== at),
    hurt: window.hurt,
    fault: Boolean(document.querySelector("section.empty code")),
  }; }"""

_BEGIN = """() => {
  const dialog = document.querySelector("dialog[open]");
  const all = [...(dialog || document).querySelectorAll(
      "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]")]
    .filter(one => one.tabIndex >= 0 && !one.disabled && one.checkVisibility({visibilityProperty: true}));
  const groups = new Map();
  for (const one of all.filter(one => one.type === "radio")) {
    const key = [one.form && one.form.id, one.name].join("|");
    if (!groups.has(key) || one.checked) groups.set(key, one);
  }
  const wanted = all.filter(one => one.type !== "radio" || [...groups.values()].includes(one));
  window.walked = {wanted, met: new Set()};
  const dates = wanted.filter(one => one.type === "date").length;
  window.scrollTo(0, 0);
  document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute("tabindex");
  return [wanted.length, wanted.length + 4 * dates + 12]; }"""

_STEP = """() => {
  const one = document.activeElement, {wanted, met} = window.walked;
  if (one === document.body || !one || (one === wanted[0] && met.size === wanted.length)) return {place: "end"};
  met.add(one);
  const beside = one.classList.contains("only-heard") && one.nextElementSibling;
  const shown = [one, one.closest("label"), beside].filter(Boolean);
  const ring = shown.map(it => getComputedStyle(it))
    .some(style => style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2);
  const bar = document.querySelector(".places");
  const box = shown[shown.length - 1].getBoundingClientRect();
  const hidden = Boolean(bar) && getComputedStyle(bar).position === "fixed" && !bar.contains(one) && box.height > 0
    && box.top >= bar.getBoundingClientRect().top && box.bottom <= innerHeight + 1;
  return {place: wanted.indexOf(one), ring, hidden, html: one.outerHTML.slice(0, 140)}; }"""
