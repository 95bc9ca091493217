"""The clinic's pages in real Chromium: from signing in to the answer by keyboard, and what the phone works out is what
the node works out.  How every page looks, in every state: test_walks.py."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from playwright.sync_api import Browser, Page

from ai_engine.quality.measures import measure_picture
from dicom_node.identity import normalised
from dicom_node.refusals import Refused
from tests.support.browsers import DESK, PHONE, chromium, window
from tests.support.clinics import PASSWORD, Clinic, clinic
from tests.support.photos import as_file, lesion, saved, scene

pytestmark = pytest.mark.system

EMAIL = "ana@posta.example"
MARIA = {"id": "12345678-5", "type": "rut", "system": "urn:oid:2.16.152", "issuer": "CL", "name": "Soto Pérez^María",
         "birth_date": "19610203", "sex": "F", "confirmed": "user"}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with clinic(tmp_path_factory.mktemp("clinic")) as made:
        made.account(EMAIL)
        common = {"is_identified": True, "patient": MARIA, "pseudonym": None}
        made.answer(made.ask(EMAIL, **common, impression="benign"), 0.231, 0.12)
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


def test_whoever_uses_a_keyboard_alone_gets_from_signing_in_to_the_answer(site: Clinic, browser: Browser) -> None:
    with window(browser, site.url, **DESK) as seen:
        page = seen.go("/sign-in")
        keys = Keys(page)
        keys.to("#email").types(EMAIL)
        keys.to("#password").types(PASSWORD).presses("Enter")
        page.wait_for_url("**/analyse")
        page.wait_for_selector("[data-recent]")
        keys.to(".skip", first=True).presses("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        keys.to("#patient_id").types("9876543-3").presses("Enter")
        page.wait_for_selector("#patient_family")
        assert page.get_attribute("#who .patient", "data-state") == "not-configured", "the node was asked"
        keys.to("#patient_family").types("Riquelme")
        keys.to("#patient_given").types("Juan")
        keys.to("#patient_birth_date").types("01021950")
        keys.to("[name=patient_confirmed]").presses("Space")
        keys.to("[data-go=photo]").presses("Enter")
        assert page.evaluate("document.activeElement.id") == "photo-title"
        with page.expect_file_chooser() as chooser:
            keys.to("#gallery").presses("Enter")
        chooser.value.set_files(as_file(lesion()))
        page.wait_for_selector("#hints p")
        keys.to("#canvas").presses("+").presses("+").presses("ArrowRight")
        keys.to("#zoom")
        assert int(page.input_value("#zoom")) > 0
        keys.to("[name=kind]").presses("Space")
        keys.to("#photo-go").presses("Enter")
        assert "Juan Riquelme" in page.inner_text(".step:not([hidden]) [data-who]")
        keys.to("[name=impression]").presses("ArrowDown")
        keys.to("#description").types("by keyboard")
        before = len(site.rows())
        keys.to("#analyse button[type=submit]").presses("Enter")
        page.wait_for_url("**/analyses/*")
        row = site.rows()[-1]
        assert len(site.rows()) == before + 1
        assert (row["impression"], row["description"], row["declared"]["kind"]) == (
            "unsure",
            "by keyboard",
            "dermoscopic",
        )
        assert row["patient"]["name"] == "Riquelme^Juan" and row["patient"]["confirmed"] == "user"
        page.wait_for_selector("#state[hx-trigger]")
        site.answer(dict(row), 0.5, 0.2, saved(scene()))
        page.wait_for_selector(".verdict.above")  # live, without loading the page again
        keys.to(".hidden-picture button").presses("Enter")
        page.wait_for_selector(".pictures img")
        assert seen.troubles == []


class Keys:
    """A person with a keyboard and nothing else: she goes on with Tab until she is where she wants to be."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def to(self, selector: str, *, first: bool = False) -> Keys:
        if first:
            self._page.evaluate("document.activeElement.blur()")
        for _ in range(60):
            if self._page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return self
            self._page.keyboard.press("Tab")
            shown = self._page.evaluate(_RING)
            assert shown, f"nobody sees where the focus is on the way to {selector}: {self._where()}"
        raise AssertionError(f"the keyboard does not reach {selector}")

    def types(self, text: str) -> Keys:
        self._page.keyboard.type(text)
        return self

    def presses(self, key: str) -> Keys:
        self._page.keyboard.press(key)
        return self

    def _where(self) -> str:
        return str(self._page.evaluate("document.activeElement.outerHTML.slice(0, 120)"))


_RING = """() => {
  const one = document.activeElement;
  if (one === document.body) return true;
  return [one, one.closest("label")].some(it => it && getComputedStyle(it).outlineStyle !== "none"
    && parseFloat(getComputedStyle(it).outlineWidth) >= 2);
}"""


def test_a_framed_photograph_is_cut_and_an_unframed_one_goes_byte_by_byte(site: Clinic, browser: Browser) -> None:
    given = as_file(lesion(800))
    with window(browser, site.url, **PHONE) as seen:
        seen.sign_in(EMAIL, PASSWORD)
        for framed in (False, True):
            before = len(site.rows())
            page = seen.go("/analyse")
            page.check("[name=identity][value=no]", force=True)
            page.click("[data-go=photo]")
            page.set_input_files("#gallery", given)
            page.wait_for_selector("#hints p")
            if framed:
                page.fill("#zoom", "40")
            page.click("#photo-go")
            page.check("[name=impression][value=benign]", force=True)
            page.click("#analyse button[type=submit]")
            page.wait_for_url("**/analyses/*")
            row = site.rows()[-1]
            assert len(site.rows()) == before + 1 and row["pseudonym"].startswith("ANON-") and row["patient"] is None
            kept = (site.folder / row["photo_path"]).read_bytes()
            if framed:
                side = Image.open(BytesIO(kept)).size
                assert side[0] == side[1] and 160 < side[0] < 800
            else:
                assert kept == given["buffer"]


def test_what_cannot_be_a_photograph_is_said_before_anything_is_sent(site: Clinic, browser: Browser) -> None:
    heic = b"\0\0\0\x18ftypheic" + b"\0" * 40
    with window(browser, site.url, **PHONE) as seen:
        seen.sign_in(EMAIL, PASSWORD)
        page = seen.go("/analyse")
        page.check("[name=identity][value=no]", force=True)
        page.click("[data-go=photo]")
        for content, words in ((heic, "HEIC"), (b"%PDF-1.4 nothing", "cannot be shown"), (b"", "cannot be shown")):
            page.set_input_files("#gallery", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": content})
            page.wait_for_function("(w) => document.getElementById('photo-error').innerText.includes(w)", arg=words)
            assert page.is_disabled("#photo-go")
        for picture, words in (
            (lesion().point(lambda level: level // 5), "looks dark"),
            (lesion().filter(ImageFilter.GaussianBlur(9)), "looks blurred"),
            (lesion().resize((150, 150)), "few pixels"),
        ):
            page.set_input_files("#gallery", as_file(picture))
            page.wait_for_function("(w) => document.getElementById('hints').innerText.includes(w)", arg=words)
            assert page.is_enabled("#photo-go"), "a hint forbids nothing"


def test_the_phone_measures_as_the_node_does(site: Clinic, browser: Browser) -> None:
    pictures = [
        lesion(256),
        lesion(256).filter(ImageFilter.GaussianBlur(2)),
        lesion(256).point(lambda level: level // 3),
    ]
    framed = np.asarray(lesion(256)).copy()
    row, column = np.mgrid[:256, :256]
    framed[(row - 128) ** 2 + (column - 128) ** 2 > 110**2] = 0
    pictures.append(Image.fromarray(framed))
    with window(browser, site.url, **PHONE) as seen:
        seen.sign_in(EMAIL, PASSWORD)
        page = seen.go("/analyse")
        for picture in pictures:
            pixels = np.asarray(picture.convert("RGBA")).reshape(-1).tolist()
            there = page.evaluate("(p) => luna.measure(new ImageData(new Uint8ClampedArray(p), 256, 256))", pixels)
            here = measure_picture(np.asarray(picture.convert("RGB")))
            assert there["brightness"] == pytest.approx(here.brightness, abs=1.5)
            assert there["view"] == pytest.approx(here.view, abs=0.02)
            assert there["glare"] == pytest.approx(here.glare, abs=0.01)
            assert there["sharpness"] == pytest.approx(here.sharpness, abs=0.1)


def test_the_phone_checks_digits_as_the_node_does(site: Clinic, browser: Browser) -> None:
    chance = random.Random(11)
    given = {
        "rut": [f"{chance.randrange(1, 30_000_000)}-{chance.choice('0123456789K')}" for _ in range(300)],
        "cedula-ec": [f"{chance.randrange(0, 10**10):010d}" for _ in range(300)],
    }
    given["rut"] += ["12.345.678-5", "12345678-5", "", "abc", "1-9", "12.345.678-9"]
    given["cedula-ec"] += ["1710034065", "171003406-5", "2510034065", "1790034065", "17100340651"]
    with window(browser, site.url, **PHONE) as seen:
        seen.sign_in(EMAIL, PASSWORD)
        page = seen.go("/analyse")
        for check, texts in given.items():
            there = page.evaluate("([c, all]) => all.map(one => luna.identifierFits(c, one))", [check, texts])
            assert any(there) and not all(there)
            differing = [text for text, fits in zip(texts, there, strict=True) if fits != _fits(text, check)]
            assert not differing, differing[:5]
        scanned = "https://portal.sidiv.registrocivil.cl/docstatus?RUN=12345678-5&type=CEDULA&serial=1"
        assert page.evaluate("(text) => luna.identifierIn('rut', text)", scanned) == "12345678-5"
        assert page.evaluate("luna.identifierIn('rut', 'something else entirely')") == ""


def _fits(text: str, check: str) -> bool:
    try:
        normalised(text, check)
    except Refused:
        return False
    return True


def test_a_code_before_the_camera_fills_the_identifier(site: Clinic, browser: Browser) -> None:
    stub = """class BarcodeDetector {
      static async getSupportedFormats() { return ["qr_code"]; }
      async detect() { return [{rawValue: "https://x.example/?RUN=12345678-5&type=CEDULA"}]; }
    }
    window.BarcodeDetector = BarcodeDetector;
    navigator.mediaDevices.getUserMedia = async () => {
      const canvas = document.createElement("canvas"); canvas.getContext("2d").fillRect(0, 0, 9, 9);
      window.lent = canvas.captureStream(5); return window.lent; };"""
    with window(browser, site.url, **PHONE) as seen:
        seen.context.add_init_script(stub)
        seen.sign_in(EMAIL, PASSWORD)
        page = seen.go("/analyse")
        page.click("#scan")
        page.wait_for_selector("#who .patient")
        assert page.input_value("#patient_id") == "12345678-5"
        assert page.evaluate("window.lent.getTracks().every(track => track.readyState === 'ended')"), (
            "camera is off again"
        )
        assert not page.evaluate("document.getElementById('scanner').open")


def test_without_a_script_the_pages_say_so_and_still_show_results(site: Clinic, browser: Browser) -> None:
    with window(browser, site.url, **PHONE, java_script_enabled=False) as seen:
        seen.sign_in(EMAIL, PASSWORD)
        page = seen.go("/analyse")
        assert "needs JavaScript" in page.inner_text("main")
        page = seen.go(f"/analyses/{site.rows()[0]['public_id']}")
        assert "23 %" in page.inner_text("main")
        page.click("#withdraw summary")
        page.click("#withdraw button")
        assert site.rows()[0]["withdrawn_at"] is None, "the browser asks for a reason first"


def test_the_portal_can_be_installed(site: Clinic, browser: Browser, tmp_path: Path) -> None:
    # In its own folder: a browser installs nothing from a private window.
    context = browser.browser_type.launch_persistent_context(
        str(tmp_path), executable_path=shutil.which("chromium"), headless=True, args=["--no-sandbox"], **PHONE
    )
    try:
        page = context.new_page()
        page.goto(site.url + "/sign-in")
        page.evaluate("navigator.serviceWorker.ready")
        page.reload()
        asked = context.new_cdp_session(page)
        assert asked.send("Page.getInstallabilityErrors")["installabilityErrors"] == []
        told = asked.send("Page.getAppManifest")
        assert told["errors"] == [] and "LUNA" in told["data"]
    finally:
        context.close()
