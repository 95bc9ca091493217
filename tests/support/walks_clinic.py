"""The ways of somebody at a post: signing in, whose lesion it is, the photograph, sending it, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import ImageFilter
from playwright.sync_api import Page

from dicom_node.desks.analysis_results import STATES
from dicom_node.desks.people import SignInRefused
from dicom_node.refusals import RefusalCode
from dicom_node.refusals_es import told
from portal.api.callers import Slower
from portal.pages.language import dictionary
from tests.support.photos import as_file, lesion
from tests.support.walking import Walker, walk
from tests.support.whole import FOUND, HOSTILE, SEVERAL, UNKNOWN

SEND_TO = "**/api/v1/analyses"
HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 40
CAMERA = """class BarcodeDetector {
    static async getSupportedFormats() { return ["qr_code"]; }
    async detect() { return []; }
  }
  window.BarcodeDetector = BarcodeDetector;
  navigator.mediaDevices.getUserMedia = async () => {
    if (window.noCamera) throw new Error("no camera");
    const canvas = document.createElement("canvas"); canvas.getContext("2d").fillRect(0, 0, 9, 9);
    return canvas.captureStream(5); };"""


@walk("", "/sign-in", "/new-password", "/offline", "/trust")
def the_door(who: Walker) -> Iterator[str]:
    page = who.go(f"/sign-in?language={who.language}")
    yield "sign in"
    page.click("#sign-in button[type=submit]")
    said = page.evaluate("document.getElementById('email').validationMessage")
    assert said == dictionary(who.language)["shell.field_missing"], "what is wrong is said in the page's language"
    page.fill("#email", f"nobody-{who.look}@posta.example")
    page.fill("#password", "wrong")
    who.send("#sign-in button[type=submit]")
    page.wait_for_selector(".notice.danger")
    yield "sign in, refused"
    with who.node.breaking("portal.pages.account.sessions.sign_in", SignInRefused(600)):
        page.fill("#password", "wrong")
        who.send("#sign-in button[type=submit]")
    yield "sign in, too often"
    for said in ("out", "password"):
        who.go(f"/sign-in?said={said}").wait_for_selector(".notice.ok")
        yield f"sign in, said {said}"
    page = who.go("/new-password?token=spent")
    yield "a password by a link"
    for again, name in (("something else", "differs"), ("a long new password", "link is spent")):
        page.fill("#new", "a long new password")
        page.fill("#again", again)
        who.send("main form button[type=submit]")
        page.wait_for_selector(".notice.danger")
        yield f"a password by a link, {name}"
    who.go("/new-password").wait_for_selector(".notice.danger")
    yield "a password without a link"
    who.go("/trust")
    yield "trust"
    who.unfold()
    yield "trust, every device"
    who.go(f"/offline?language={who.language}")
    yield "no line"


@walk("clinician", "/account", "/account/password")
def ones_account(who: Walker) -> Iterator[str]:
    page = who.go("/account")
    yield "account"
    page.evaluate("document.getElementById('install').hidden = false")
    page.fill("#name", " ")
    who.send("form[action='/account'] button")
    page.wait_for_selector(".notice.danger")
    yield "account, name refused"
    for said in ("saved", "ended", "password"):
        who.go(f"/account?said={said}").wait_for_selector(".notice.ok")
        yield f"account, said {said}"
    page = who.go("/account/password")
    yield "password"
    for again, name in (("another", "differs"), ("short", "refused")):
        page.fill("#old", "wrong")
        page.fill("#new", "short")
        page.fill("#again", again)
        who.send("main form button[type=submit]")
        page.wait_for_selector(".notice.danger")
        yield f"password, {name}"


@walk("clinician", "/analyse")
def whose_lesion(who: Walker) -> Iterator[str]:
    who.seen.context.add_init_script(CAMERA)
    page = who.go("/analyse")
    page.wait_for_selector("[data-recent]")
    yield "who"
    page.click("[data-go=photo]")
    page.wait_for_selector("#patient_id-error:not([hidden])")
    yield "who, no identifier"
    page.fill("#patient_id", "12.345.678-9")
    page.click("#look-up")
    page.wait_for_selector("#patient_id-error:not([hidden])")
    yield "who, wrong check digit"
    for identifier, state in ((FOUND, "found"), (SEVERAL, "several"), (UNKNOWN, "not-found")):
        looked_up(page, identifier, state)
        yield f"who, {state}"
    who.node.hospital.cut()
    looked_up(page, FOUND, "away")
    who.node.hospital.mend()
    yield "who, the server is away"
    page.select_option("#patient_type", "chart")
    looked_up(page, "A-1", "not-configured")
    yield "who, nobody to ask"
    page.click("[data-go=photo]")
    page.wait_for_selector("#lack")
    yield "who, a name is missing"
    page.select_option("#patient_type", "rut")
    who.seen.context.set_offline(True)
    looked_up(page, FOUND, "no-line")
    page.wait_for_selector("#line:not([hidden])")
    yield "who, no line"
    who.seen.context.set_offline(False)
    page.check("[name=identity][value=no]", force=True)
    yield "who, without identity"
    page.check("[name=identity][value=yes]", force=True)
    page.click("#scan")
    page.wait_for_selector("#scanner[open] video")
    yield "who, scanning"
    page.keyboard.press("Escape")
    page.evaluate("window.noCamera = true")
    page.click("#scan")
    page.wait_for_selector("#scan-error:not([hidden])")
    yield "who, no camera"


def looked_up(page: Page, identifier: str, state: str) -> None:
    page.fill("#patient_id", identifier)
    page.click("#look-up")
    page.wait_for_selector(f"#who [data-state={state}]")


@walk("clinician", "/analyse")
def the_photograph(who: Walker) -> Iterator[str]:
    page = who.go("/analyse")
    page.check("[name=identity][value=no]", force=True)
    page.click("[data-go=photo]")
    yield "photograph"
    page.set_input_files("#gallery", {"name": "x.heic", "mimeType": "image/jpeg", "buffer": HEIC})
    page.wait_for_selector("#photo-error:not([hidden])")
    yield "photograph, not readable"
    page.set_input_files("#gallery", as_file(lesion().filter(ImageFilter.GaussianBlur(9))))
    page.wait_for_selector("#hints .warning")
    page.check("[name=kind][value=plain]", force=True)
    yield "photograph, blurred and plain"
    page.set_input_files("#gallery", as_file(lesion()))
    page.wait_for_selector("#hints .ok")
    page.check("[name=kind][value=dermoscopic]", force=True)
    yield "photograph, good"
    page.click("#photo-go")
    yield "lesion"
    page.click("#analyse button[type=submit]")
    page.wait_for_selector("#impression-missing:not([hidden])")
    page.select_option("#bodySite", "heel")
    page.wait_for_selector("#sides:not([hidden])")
    yield "lesion, impression is missing"


def ready_to_send(who: Walker) -> Page:
    page = who.go("/analyse")
    looked_up(page, FOUND, "found")
    page.check("[name=patient_confirmed]")
    page.click("[data-go=photo]")
    page.set_input_files("#gallery", as_file(lesion()))
    page.wait_for_selector("#hints p")
    page.click("#photo-go")
    page.check("[name=impression][value=unsure]", force=True)
    page.fill("#description", HOSTILE)
    return page


@walk("clinician", "/analyse", "/analyses", "/sign-in")
def sending(who: Walker) -> Iterator[str]:
    page = ready_to_send(who)
    title, advice = told(RefusalCode.IMAGE_DECODE_FAILED, who.language)
    problem = {"type": "urn:ainode:problem:image-decode-failed", "title": title, "detail": advice}
    held: list[Any] = []
    page.route(SEND_TO, lambda route: held.append(route))
    page.click("#analyse button[type=submit]")
    page.wait_for_function(
        "() => document.getElementById('bar').value >= 0 && !document.getElementById('sending').hidden"
    )
    yield "sending"
    while not held:
        page.wait_for_timeout(20)
    assert held[0].request.headers["accept-language"] == who.language, "a refusal is said in the page's language"
    held[0].fulfill(status=422, json=problem)
    page.wait_for_selector("#refused-said:not([hidden])")
    yield "sending, refused"
    page.unroute(SEND_TO)
    page.click("#correct")
    page.click("[data-go=photo]")
    page.click("#photo-go")
    who.seen.context.set_offline(True)
    page.click("#analyse button[type=submit]")
    page.wait_for_selector("#kept-said:not([hidden])")
    yield "sending, kept on the phone"
    who.seen.context.set_offline(False)
    page.route("**/account/token", lambda route: route.abort())
    page.route(SEND_TO, lambda route: route.abort())
    who.go("/analyses").wait_for_selector("#waiting:not([hidden])")
    yield "analyses, one waits on the phone"
    cookies = who.seen.context.cookies()
    who.seen.context.clear_cookies()
    who.go(f"/sign-in?language={who.language}").wait_for_selector("#kept:not([hidden])")
    yield "sign in, one waits on the phone"
    who.seen.context.add_cookies(cookies)  # type: ignore[arg-type]
    page.once("dialog", lambda dialog: dialog.accept())
    who.go("/analyses").click("#waiting [data-delete]")
    page.wait_for_selector("#waiting", state="hidden")
    page.unroute("**/account/token")
    page.unroute(SEND_TO)
    page = ready_to_send(who)
    page.route("**/account/token", lambda route: route.fulfill(status=401))
    page.click("#analyse button[type=submit]")
    page.wait_for_selector("#sign-in-said:not([hidden])")
    yield "sending, sign in first"
    page.evaluate("async () => { for (const one of await luna.queue.all()) await luna.queue.remove(one.id); }")


_STANDS = {"unconfirmed": "waiting"}


@walk("clinician", "/analyses", "/analyses/{id}", "/analyses/{id}/redo")
def what_came_of_it(who: Walker) -> Iterator[str]:
    page = who.go("/analyses")
    yield "analyses"
    who.go("/analyses?since=2999-01-01")
    yield "analyses, none on these days"
    for state in (*STATES, "below", "answered", "unconfirmed", "removed"):
        page = who.go(f"/analyses/{who.of(state)}")
        page.wait_for_selector(f"#state.{state if state in STATES else _STANDS.get(state, 'completed')}")
        yield f"analysis, {state}"
    page.click("#picture-switch")
    page.wait_for_selector(".pictures p")
    yield "analysis, picture removed"
    who.go(f"/analyses/{who.of('unconfirmed')}/redo")
    yield "over again, to confirm"
    here = f"/analyses/{who.of('completed')}"
    page = who.go(here)
    who.unfold()
    page.click(".hidden-picture button")
    page.wait_for_selector(".pictures img")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.pictures img')].every(i => i.complete && i.naturalWidth)"
    )
    yield "analysis, everything shown"
    page.check("[name=reason][value=other]", force=True)
    with page.expect_navigation():
        page.click("#withdraw button")
    page.wait_for_selector(".notice.danger")
    yield "analysis, withdrawing without words"
    who.go(f"/analyses/{who.of('withdrawn')}?said=withdrawn").wait_for_selector(".notice.ok")
    yield "analysis, said withdrawn"
    page = who.go(f"{here}/redo")
    yield "over again"
    page.fill("#patient_id", SEVERAL)
    page.click("#identifier button")
    page.wait_for_selector("#who [data-state=several]")
    yield "over again, several"
    page.fill("#patient_id", FOUND)
    page.click("#identifier button")
    page.wait_for_selector("#who [data-state=found]")
    yield "over again, found"
    who.send("form.card button[type=submit]")
    page.wait_for_selector(".notice.danger")
    yield "over again, not confirmed"


@walk("newcomer", "/analyse", "/analyses", "/study")
def the_first_day(who: Walker) -> Iterator[str]:
    for path in ("/analyse", "/analyses", "/study"):
        who.go(path).wait_for_load_state("networkidle")
        yield f"nothing yet, {path}"


@walk("homeless", "/analyse")
def without_a_site(who: Walker) -> Iterator[str]:
    who.go("/analyse").wait_for_selector("main .notice.warning")
    yield "no site"


@walk(
    "clinician", "/operation/held", "/analyses", "/analyses/{id}", "/study/drafts/{draft_id}", "/dicom-web/{path:path}"
)
def what_goes_wrong(who: Walker) -> Iterator[str]:
    who.go("/nothing-here")
    yield "404"
    who.go(f"/analyses/{'0' * 32}")
    yield "404, an analysis"
    who.go("/operation/held")
    yield "403"
    who.go("/analyses/no-number")
    yield "400"
    who.go(f"/analyses/{who.of('removed')}/photo")
    yield "410"
    with who.node.breaking("portal.pages.analyses.patient_of", RuntimeError("a fault of ours")):
        who.go("/analyses").wait_for_selector(".empty code")
        yield "500"
    page = draft(who)
    with who.node.breaking("portal.api.callers.Callers.pay_image", Slower(5.0)):
        who.send("main form button.primary")
    page.wait_for_selector(".empty h1")
    yield "429"
    who.go(f"/dicom-web/studies/{who.node.study_of(who.of('completed'))}/series")
    yield "502"


def draft(who: Walker) -> Page:
    """A page of what would be read, of a file that was dropped."""
    page = who.go("/study")
    page.set_input_files(
        "#files", {"name": "scan-flair.nii.gz", "mimeType": "application/gzip", "buffer": who.node.scan}
    )
    page.wait_for_url("**/study/drafts/*")
    return page
