"""The ways of a specialist, of who brings a study, of who is on duty, and of an administrator."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

from dicom_node.delivery.searching import FoundStudy
from dicom_node.record.reviews import STATES as CASE_STATES
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from portal.api.callers import Slower
from tests.support.walking import Walker, walk
from tests.support.walks_clinic import draft
from tests.support.whole import HOSTILE

IN_THE_ARCHIVE = FoundStudy(
    "2.25.7", "ROE^JANE", "ID-4711", "19480817", "20260301", "A-77", HOSTILE, "MR", "4", "640", "Base"
)


@walk("specialist", "/cases", "/cases/{public_id}", "/cases/outcomes")
def cases(who: Walker) -> Iterator[str]:
    for state in CASE_STATES:
        who.go(f"/cases?state={state}").wait_for_selector("a.entry")
        yield f"cases, {state}"
    for state in ("completed", "below", "waiting", "answered", "closed", "withdrawn", "removed"):
        who.go(f"/cases/{who.of(state)}")
        yield f"case, {state}"
    page = who.go(f"/cases/{who.of('completed')}")
    page.click("#picture button")
    page.wait_for_selector("#picture img")
    page.fill("#reply", HOSTILE)
    page.check("[name=action]", force=True)
    page.evaluate("document.querySelector('[name=seen]').value = '999999'")
    who.send("form[action$='/reply'] button")
    page.wait_for_selector(".notice.danger")
    yield "case, somebody else replied meanwhile"
    page = who.go(f"/cases/{who.of('completed')}")
    page.select_option("#diagnosis", index=1)
    page.fill("#on_date", "2999-01-01")
    who.send("form[action$='/outcome'] button")
    page.wait_for_selector(".notice.danger")
    yield "case, outcome refused"
    for said in ("answered", "closed", "open", "outcome"):
        who.go(f"/cases/{who.of('answered')}?said={said}").wait_for_selector(".notice.ok")
        yield f"case, said {said}"
    page = who.go("/cases/outcomes")
    who.unfold()
    yield "table"
    head = "analysis,diagnosis,on_date\n"
    tables = {
        "wrong": f"{head}{'a' * 32},naevus,2026-03-09\n",
        "taken": f"{head}{who.of('below')},naevus,2026-03-09\n",
        "none": "no table at all",
    }
    for name, content in tables.items():
        page = who.go("/cases/outcomes")
        page.set_input_files("#table", {"name": "t.csv", "mimeType": "text/csv", "buffer": content.encode()})
        page.click("form[hx-post] button")
        page.wait_for_selector("#answer .notice")
        yield f"table, {name}"


@walk("idle", "/cases")
def no_cases(who: Walker) -> Iterator[str]:
    for state in CASE_STATES:
        who.go(f"/cases?state={state}").wait_for_selector(".empty")
        yield f"no cases, {state}"


@walk("laboratory", "/cases/outcomes")
def the_laboratory(who: Walker) -> Iterator[str]:
    page = who.go("/")
    page.wait_for_url("**/cases/outcomes")
    assert page.locator(".places a[href='/cases'][aria-current]").count() == 1
    yield "where a laboratory begins"


@walk("operator", "/operation", *(f"/operation/{one}" for one in ("held", "queue", "destinations", "models", "routes")),
      "/operation/health", "/operation/studies/{public_id}")  # fmt: skip
def operation(who: Walker) -> Iterator[str]:
    page = who.go("/operation")
    links = page.locator("table a[href^='/operation/studies/']").evaluate_all("all => all.map(one => one.pathname)")
    yield "studies"
    for state in ("running", "held", "failed", "refused"):
        who.go(f"/operation?state={state}")
        yield f"studies, {state}"
    who.go("/operation?trouble=unknown-study")
    yield "studies, not found"
    for number, path in enumerate(dict.fromkeys(links)):
        who.go(path)
        yield f"study {number}"
        who.unfold()
        yield f"study {number}, everything open"
    for name in ("held", "queue", "destinations", "models", "routes", "health"):
        who.go(f"/operation/{name}")
        yield name
        who.unfold()
        yield f"{name}, everything open"
    for told in ("said=release", "trouble=reason", "trouble=too-late"):
        who.go(f"/operation/held?{told}").wait_for_selector("main .notice[role]")
        yield f"held, {told}"
    who.node.pause(True)
    who.go("/operation/destinations")
    yield "destinations, one paused"
    who.node.pause(False)


@walk("administrator", "/administration", "/administration/users", "/administration/users/new",
      "/administration/users/{public_id}", "/administration/roles", "/administration/sites", "/administration/keys",
      "/administration/audit", "/administration/retention")  # fmt: skip
def administration(who: Walker) -> Iterator[str]:
    who.go("/administration")
    yield "accounts"
    page = who.go("/administration/users/new")
    yield "a new account"
    page.fill("#email", who.node.email("clinician", "en"))
    page.fill("#name", HOSTILE)
    who.send("form[action='/administration/users'] button")
    page.wait_for_selector(".notice.danger")
    yield "a new account, refused"
    page.fill("#email", f"{uuid4().hex[:8]}@posta.example")
    page.fill("#name", "Nueva Persona")
    page.check("[name=roles][value=operator]")
    who.send("form[action='/administration/users'] button")
    page.wait_for_selector("#link")
    yield "an account, its link"
    page = who.go(f"/administration/users/{who.node.person('administrator', who.language).public_id}")
    yield "an account"
    for one in page.locator("[name=roles]").all():
        one.uncheck()
    who.send("form[action$='/roles'] button")
    page.wait_for_selector(".notice.danger")
    yield "an account, roles refused"
    for name in ("roles", "sites", "keys", "retention"):
        who.go(f"/administration/{name}")
        who.unfold()
        yield name
    one = who.node.study_of(who.of("completed"))
    for study, button, name in (("1.2.3", "primary", "refused"), (one, "danger", "not sure"), (one, "primary", "held")):
        page = who.go("/administration/retention")
        who.unfold()
        page.fill("#study", study)
        page.fill("#reason", "asked for by a court")
        who.send(f"form[action$='/retention/hold'] button.{button}")
        page.wait_for_selector("main .notice[role]")
        who.unfold()
        yield f"retention, {name}"
    page.fill("[id^='lift-']", "the court is done")
    who.send("form[action$='/retention/release'] button")
    page.wait_for_selector(".notice.ok")
    yield "retention, lifted"
    page = who.go("/administration/sites")
    who.unfold()
    page.fill("#title", "Twice")
    page.fill("#key", "post-1")
    who.send("form[action='/administration/sites'] button")
    page.wait_for_selector(".notice.danger")
    yield "sites, refused"
    page = who.go("/administration/keys")
    for name in ("ehr", f"k-{uuid4().hex[:8]}"):
        who.unfold()
        page.fill("#name", name)
        page.check("[name=scopes][value='fhir:read']")
        who.send("form[action='/administration/keys'] button.primary")
        page.wait_for_selector(".notice.danger" if name == "ehr" else "#token")
        yield "keys, refused" if name == "ehr" else "keys, made"
    for query in ("", "?check=yes", "?since=2999-01-01", "?since=nonsense", "?action=sign-in"):
        page = who.go(f"/administration/audit{query}")
        yield f"log {query}"
    page = who.go("/administration/audit")
    page.fill("#reason", " x ")
    page.evaluate("document.querySelector('form[data-download]').removeAttribute('data-download')")
    who.send("form[action$='/export'] button")
    page.wait_for_selector(".notice.danger")
    yield "log, no reason"


@walk("clinician", "/study", "/study/search", "/study/pick", "/study/drafts/{draft_id}", "/study/{public_id}")
def a_study(who: Walker) -> Iterator[str]:
    who.node.lend_requests(who.node.person("clinician", who.language))
    page = who.go("/study")
    yield "study"
    page.set_input_files("#files", {"name": "note.txt", "mimeType": "text/plain", "buffer": b"no image"})
    page.wait_for_selector("#said.error")
    yield "study, no image"
    troubles = ((PeerTrouble("down"), "the archive is away"), (Slower(5.0), "too many"))
    for trouble, name in troubles:
        with who.node.breaking("dicom_node.desks.studies.StudyDesk.search", trouble):
            search(who)
        page.wait_for_selector(".notice.danger")
        yield f"search, {name}"
    for found in ([], [IN_THE_ARCHIVE]):
        with who.node.answering("dicom_node.desks.studies.StudyDesk.search", found):
            search(who)
        yield f"search, {len(found)} found"
    refused = Refused(RefusalCode.INPUT_EMPTY, "a study that the search finds", "another")
    with who.node.breaking("dicom_node.desks.studies.StudyDesk.pick", refused):
        who.send("form[action='/study/pick'] button")
    page.wait_for_selector("[role=alert]")
    yield "search, cannot be taken"
    page = draft(who)
    who.unfold()
    yield "draft"
    page.select_option("#role-0", "t1")
    who.send("main form button.primary")
    page.wait_for_selector("[role=alert]")
    yield "draft, not what the model reads"
    for state in ("queued", "running", "failed", "refused", "cancelled"):
        who.go(f"/study/{who.node.seen[f'request-{state}']}")
        yield f"request, {state}"
    who.node.until_answered()
    page = who.go(f"/study/{who.node.seen['request-completed']}")
    page.wait_for_function("() => document.querySelector('img.planes').naturalWidth > 1000")
    who.unfold()
    yield "request, completed"


def search(who: Walker) -> None:
    """Look for a study in the archive."""
    who.page.fill("#value", "ID-4711")
    who.send("form[action='/study/search'] button")
