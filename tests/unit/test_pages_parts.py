"""The pages' own parts: every word in both languages, nothing inline, colours that can be read, numbers as people say
them."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta, timezone
from pathlib import Path
from string import Formatter

import pytest

from dicom_node.body_sites import SITES
from dicom_node.permissions import MAY, Person, Role
from portal.pages import assets
from portal.pages.account import device_name
from portal.pages.analyse import grouped
from portal.pages.language import LANGUAGES, Translator, dictionary
from portal.pages.navigation import PLACES, home_of, places_of
from portal.pages.render import TEMPLATES
from portal.pages.shown import person_name, position

pytestmark = pytest.mark.unit

PAGES = Path(assets.__file__).parent
SANTIAGO = timezone(-timedelta(hours=3))
HTMX = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"


def say(language: str) -> Translator:
    return Translator(language, SANTIAGO)


def placeholders(text: object) -> set[str]:
    texts = [text] if isinstance(text, str) else list(text.values())  # type: ignore[attr-defined]
    return {name for one in texts for _, name, _, _ in Formatter().parse(one) if name}


# -- words


def test_both_languages_have_the_same_words_with_the_same_places_to_fill() -> None:
    english, spanish = dictionary("en"), dictionary("es")
    assert english.keys() == spanish.keys()
    assert len(english) > 300
    for key, text in english.items():
        assert placeholders(text) == placeholders(spanish[key]), key
        assert isinstance(text, str) == isinstance(spanish[key], str), key
        assert str(text).strip() and str(spanish[key]).strip(), key


def test_every_word_that_a_template_or_a_page_asks_for_exists() -> None:
    known = dictionary("en")
    asked = {}
    for file in [*TEMPLATES.rglob("*.html"), *PAGES.rglob("*.py")]:
        pattern = (
            r"\bt\(\s*\"([a-z]+\.[A-Za-z0-9_-]+)\"\s*[,)]" if file.suffix == ".html" else r"words\(\"([a-z.\w-]+)\""
        )
        asked.update({key: file.name for key in re.findall(pattern, file.read_text(encoding="utf-8"))})
    assert len(asked) > 150
    assert not {key: where for key, where in asked.items() if key not in known}


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_every_code_that_becomes_a_word_has_one(language: str) -> None:
    words = say(language)
    keys = [f"bodysites.{site.name}" for site in SITES]
    keys += [f"bodysites.group_{group}" for group, _ in grouped(SITES)]
    keys += [f"shell.role_{role.value}" for role in Role] + [place.word for place in PLACES]
    keys += [f"account.password_{code}" for code in ("too-short", "too-long", "too-common")]
    keys += [f"analyse.look_{one}" for one in ("not-found", "several", "away", "not-configured", "no-line")]
    assert not [key for key in keys if not words.has(key)]


def test_times_are_told_by_the_sites_clock_with_the_month_as_a_word() -> None:
    assert say("en").when("2026-11-22T02:05:09+00:00") == "21 Nov 2026, 23:05"
    assert say("es").when("2026-01-22T12:05:09+00:00", seconds=True) == "22 ene 2026, 09:05:09"
    assert say("en").when(None) == say("en").day("") == ""


@pytest.mark.parametrize(
    ("share", "digits", "english", "spanish"),
    [
        (0.234, 0, "23 %", "23 %"),
        (0.0439, 1, "4.4 %", "4,4 %"),
        (0.0001, 1, "< 0.1 %", "< 0,1 %"),
        (0.9999, 1, "> 99.9 %", "> 99,9 %"),
        (0.0, 0, "0 %", "0 %"),
        (1.0, 0, "100 %", "100 %"),
    ],
)
def test_a_small_chance_is_never_told_as_none_nor_a_great_one_as_certainty(
    share: float, digits: int, english: str, spanish: str
) -> None:
    assert say("en").percent(share, digits) == english
    assert say("es").percent(share, digits) == spanish


def test_one_is_told_as_one() -> None:
    assert "1 minute." in say("en")("account.too_soon", count=1)
    assert "2 minutos." in say("es")("account.too_soon", count=2)


def test_names_are_said_as_people_say_them() -> None:
    assert person_name("Soto Pérez^María") == "María Soto Pérez"
    assert person_name("Soto^María^José^Dra") == "María José Soto"
    assert person_name("山田^太郎=ヤマダ") == "太郎 山田"
    assert person_name("") == "" and person_name("Cher") == "Cher"
    assert device_name("Mozilla/5.0 (Linux; Android 14) AppleWebKit/537 Chrome/120 Mobile") == "Chrome · Android"
    assert device_name("curl/8") == ""


def test_a_scale_keeps_the_order_and_its_ends() -> None:
    places = [position(share) for share in (0.0, 0.001, 0.01, 0.04389, 0.05, 0.5, 0.99, 1.0)]
    assert places == sorted(places) and places[0] == 10.0 and places[-1] == 290.0


# -- who sees what


def person(*roles: Role) -> Person:
    return Person(1, "a" * 32, "A", "a@b.example", frozenset(roles), ("s",), "en", 1, "portal")


def test_everybody_sees_the_places_of_her_roles_and_of_no_other() -> None:
    known = frozenset(place.path for place in PLACES)
    seen = {role: {place.path for place in places_of(person(role).may, known)} for role in Role}
    assert seen[Role.CLINICIAN] == {"/analyse", "/analyses", "/study", "/account"}
    assert seen[Role.SPECIALIST] == {"/analyse", "/analyses", "/cases", "/study", "/account"}
    assert seen[Role.OPERATOR] == {"/operation", "/account"}
    assert seen[Role.ADMINISTRATOR] == {"/operation", "/administration", "/account"}
    assert seen[Role.SERVICE] == {"/cases", "/account"}
    assert {place.permission for place in PLACES} <= set(MAY)
    assert home_of(person(Role.OPERATOR).may, known) == "/operation"
    assert home_of(person(Role.CLINICIAN).may, frozenset({"/account"})) == "/account"


# -- nothing inline, nothing foreign


def test_no_template_has_script_style_or_handlers_inside() -> None:
    for file in TEMPLATES.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), file.name
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|hx-on|\|\s*safe\b|hx-vals=.js:", text), file.name
        assert not re.search(r"(src|href|action)=\"(https?:)?//", text), file.name


def test_every_form_that_changes_something_carries_the_sessions_token() -> None:
    for file in TEMPLATES.rglob("*.html"):
        for form in re.findall(r"<form[^>]*method=\"post\".*?</form>", file.read_text(encoding="utf-8"), re.DOTALL):
            # a file goes by a script, with the token in a header: the gate reads no field of such a body
            assert "guard(csrf)" in form or "multipart/form-data" in form, f"{file.name}: {form[:80]}"


def test_scripts_of_ours_ask_no_other_host_and_make_no_markup_of_text() -> None:
    for name, one in assets.assets().items():
        if name.endswith(".js") and not name.startswith("vendor/"):
            text = one.content.decode()
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
            ), name
            assert "://" not in text, name


CACHED = {
    "analyse.js": 'put("/analyse", answer)',
    "shell.js": "add(new Request(wanted, ",
    "worker.js": "addAll(FILES.map(",
}
"""Every place where a script of ours puts something into the browser's cache, and what."""


def test_nothing_of_a_patient_is_put_into_the_browsers_cache() -> None:
    """The files of the shell and the page without a line, fetched as nobody, and the page to photograph."""
    found = {}
    for name, one in assets.assets().items():
        text = one.content.decode() if name.endswith(".js") else ""
        if writes := re.findall(r"(?:\bcache|\)\))\.((?:put|add|addAll)\(.*)", text):
            (found[name],) = writes  # one in a script
    assert found.keys() == CACHED.keys()
    for name, write in found.items():
        assert write.startswith(CACHED[name]), name
        assert name == "analyse.js" or 'credentials: "omit"' in write, f"{name}: a page of a person would be kept"


def test_htmx_is_the_one_that_was_looked_at_with_its_licence_beside_it() -> None:
    found = assets.assets()["vendor/htmx-2.0.11.min.js"]
    assert hashlib.sha256(found.content).hexdigest() == HTMX
    assert "Permission to use" in (assets.FOLDER / "vendor/LICENSE.htmx").read_text()


def test_an_asset_changes_its_address_with_its_content() -> None:
    one = assets.assets()["portal.css"]
    assert one.url == f"/static/portal.css?v={one.version}" and len(one.version) == 12
    assert assets.Asset("portal.css", b"other", "x").url != one.url


# -- colours


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def palettes() -> list[dict[str, str]]:
    text = assets.assets()["portal.css"].content.decode()
    found = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S)
    ]
    return [palette for palette in found if "ground" in palette]


@pytest.mark.parametrize("index", [0, 1], ids=["light", "dark"])
def test_every_text_can_be_read_on_its_ground(index: int) -> None:
    colours = palettes()[index]
    for text in ("ink", "muted", "accent-text"):
        for ground in ("ground", "surface", "raised"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for kind in ("ok", "info", "warning", "danger"):
        for ground in (f"{kind}-soft", "surface"):
            assert contrast(colours[kind], colours[ground]) >= 4.5, kind
        assert contrast(colours["ink"], colours[f"{kind}-soft"]) >= 4.5, kind
    assert contrast(colours["accent-ink"], colours["accent"]) >= 4.5
    assert contrast(colours["accent-text"], colours["accent-soft"]) >= 4.5
    for ground in ("surface", "ground"):  # of what is not text (1.4.11): borders of fields, marks of focus
        assert contrast(colours["edge"], colours[ground]) >= 3 and contrast(colours["accent"], colours[ground]) >= 3


def test_both_palettes_name_the_same_colours() -> None:
    light, dark = palettes()
    assert light.keys() == dark.keys()


def test_body_sites_are_all_offered_once() -> None:
    offered = [site.name for _, members in grouped(SITES) for site in members]
    assert offered == [site.name for site in SITES]
