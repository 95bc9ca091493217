"""What is done on the operation and study pages, in real Chromium over HTTPS: by keyboard, by thumb and by mouse.

How the pages look, in every state: test_walks.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from dicom_node.permissions import Role
from portal import sessions
from tests.component.test_operation_pages import stuck
from tests.component.test_study_pages import FLAIR
from tests.fixtures_packages import make_tiny_package
from tests.support.api import ApiNode, dicom, zipped
from tests.support.browsers import DESK, PHONE, Window, chromium, window
from tests.support.browsing import served
from tests.support.certificates import new_site
from tests.support.visits import Visit, visit

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    folder = tmp_path_factory.mktemp("operation")
    make_tiny_package(folder / "models", role="flair")
    made = ApiNode(folder / "node", folder / "models")
    trouble = pytest.MonkeyPatch()
    stuck(made, folder, trouble)  # type: ignore[arg-type]
    yield made
    trouble.undo()
    made.close()


@pytest.fixture(scope="module")
def address(node: ApiNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    identity = new_site(tmp_path_factory.mktemp("authority")).issue("node")
    with served(node.app, identity.certificate_file, identity.private_key_file) as made:
        yield made


def somebody(node: ApiNode, address: str, *roles: Role, language: str = "en", sites: tuple[str, ...] = ()) -> Visit:
    return visit(node.app, node.settings, node.database, *roles, language=language, sites=sites)


def opened(browser: Browser, address: str, who: Visit, **options: Any) -> Any:
    made = window(browser, address, ignore_https_errors=True, **options)
    return _SignedIn(made, address, who)


class _SignedIn:
    """A window with somebody's session in its cookies."""

    def __init__(self, made: Any, address: str, who: Visit) -> None:
        self._made, self._address, self._who = made, address, who

    def __enter__(self) -> Window:
        seen: Window = self._made.__enter__()
        name = f"{sessions.HOST_PREFIX}{sessions.SESSION}"
        seen.context.add_cookies([{"name": name, "value": self._who.secret, "url": self._address, "secure": True}])
        return seen

    def __exit__(self, *told: Any) -> None:
        self._made.__exit__(*told)


def fits(seen: Window, name: str) -> None:
    """Nothing serious by axe-core, nothing wider than the screen, nothing that the policy stopped."""
    assert seen.axe() == [], name
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    assert seen.troubles == [], name


def test_a_held_study_is_decided_by_keyboard_alone(node: ApiNode, address: str, browser: Browser) -> None:
    who = somebody(node, address, Role.OPERATOR)
    with opened(browser, address, who, **DESK) as seen:
        page = seen.go("/operation/held")
        _walk_to(page, re.compile("^Release"))
        page.keyboard.press("Enter")
        _walk_to(page, re.compile("why-release"))
        page.keyboard.type("the same person, seen with radiology")
        page.keyboard.press("Enter")
        page.wait_for_selector(".notice.ok")
        assert "Nothing waits for a decision" in page.inner_text("main")
    with node.database.read() as connection:
        assert node_held(connection) == 0


def node_held(connection: Any) -> int:
    from dicom_node.record import views

    return len(views.held(connection))


def _walk_to(page: Page, wanted: re.Pattern[str]) -> None:
    """Press Tab until something of this name or id has the focus, and is seen to have it."""
    told = "e => [e.getAttribute('aria-label') || e.innerText || '', e.id].join('|')"
    for _ in range(80):
        page.keyboard.press("Tab")
        name = page.evaluate(f"({told})(document.activeElement)")
        if any(wanted.search(part.strip()) for part in str(name).split("|")):
            assert page.evaluate("document.activeElement.matches(':focus-visible')")
            return
    raise AssertionError(f"the keyboard does not reach {wanted.pattern}")


def test_a_study_is_dropped_looked_at_and_analysed(
    node: ApiNode, address: str, browser: Browser, tmp_path: Path
) -> None:
    patient = {"PatientName": "ROE^<b>JANE</b>", "PatientID": "ID-4711", "PatientBirthDate": "19480817"}
    study = zipped(dicom(tmp_path / "mr", **FLAIR, **patient), tmp_path / "study.zip")
    who = somebody(node, address, Role.CLINICIAN, language="es", sites=("base",))
    with opened(browser, address, who, **PHONE) as seen:
        page = seen.go("/study")
        page.set_input_files("#files", tmp_path / "mr" / "001.dcm")
        page.wait_for_url("**/study/drafts/*")
        seen.go("/study")
        page.set_input_files("#files", {"name": "note.txt", "mimeType": "text/plain", "buffer": b"no image"})
        page.wait_for_selector("#said.error")
        page.set_input_files("#files", study)
        page.wait_for_url("**/study/drafts/*")
        assert page.locator("#role-0").input_value() == "flair"
        assert "<b>JANE</b>" in page.inner_text("main"), "what somebody typed is text"
        fits(seen, "what would be read, with a patient")
        page.locator("#role-0").focus()
        _walk_to(page, re.compile("^Analizar$"))
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/study/[0-9a-f]{32}$"))
        page.wait_for_selector("img.planes", timeout=90_000)  # comes by itself: the page asks again
        page.wait_for_function("() => document.querySelector('img.planes').naturalWidth > 1000")
        assert page.locator("svg.swatch rect").get_attribute("fill").startswith("#")  # type: ignore[union-attr]
        fits(seen, "the result, with DICOM files")
        with page.expect_download() as kept:
            page.click("a[href$='/files/mask.nii.gz']")
        assert kept.value.suggested_filename.endswith("mask.nii.gz")


def test_a_drop_by_mouse_goes_up_too(node: ApiNode, address: str, browser: Browser) -> None:
    who = somebody(node, address, Role.CLINICIAN, sites=("base",))
    with opened(browser, address, who, **DESK) as seen:
        page = seen.go("/study")
        page.evaluate("""() => {
          const carried = new DataTransfer();
          carried.items.add(new File([new Uint8Array([1, 2, 3])], "note.bin"));
          const drop = document.getElementById("drop");
          drop.dispatchEvent(new DragEvent("dragover", { dataTransfer: carried, bubbles: true, cancelable: true }));
          drop.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
        }""")
        page.wait_for_selector("#said.error")
        assert seen.troubles == []
