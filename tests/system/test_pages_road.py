"""From a phone's camera to the answer, over HTTPS, through the real processes and a real Orthanc; the line drops in the
middle, and the processes are started anew while the photograph is on its way."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page

from dicom_node.demo.site import free_ports
from dicom_node.desks.people import People
from dicom_node.record.tables import analyses
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.support.browsers import PHONE, chromium, pinned, window
from tests.support.certificates import new_site
from tests.support.clinic_site import ClinicSite
from tests.support.clinics import PASSWORD
from tests.support.lines import line

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

EMAIL = "doctor@post.example"


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    """DICOMweb of an Orthanc of its own."""
    http, dicom = free_ports(2)
    configuration = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": http,
        "DicomPort": dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    program = shutil.which("Orthanc") or "Orthanc"
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{http}/dicom-web"
    finally:
        process.terminate()
        process.wait(20)


def photograph(page: Page, picture: bytes) -> None:
    """Everything up to the button."""
    page.fill("#patient_id", "12.345.678-5")
    page.click("#look-up")
    page.wait_for_selector("#who [data-state=not-configured]")
    page.fill("#patient_family", "Soto Pérez")
    page.fill("#patient_given", "María")
    page.fill("#patient_birth_date", "1961-02-03")
    page.check("[name=patient_confirmed]")
    page.click("[data-go=photo]")
    page.set_input_files("#camera", {"name": "camera.jpg", "mimeType": "image/jpeg", "buffer": picture})
    page.wait_for_selector("#preview:not([hidden])")
    page.check("[name=kind][value=dermoscopic]", force=True)
    page.click("#photo-go")
    page.check("[name=impression][value=unsure]", force=True)


def test_from_the_camera_to_the_answer_while_line_and_processes_break(tmp_path: Path, orthanc: str) -> None:
    certificates = new_site(tmp_path / "tls")
    mine = certificates.issue("127.0.0.1", stem="node")
    (port,) = free_ports(1)
    tls = {
        "certificate_file": mine.certificate_file,
        "private_key_file": mine.private_key_file,
        "authority_file": certificates.authority,
    }
    archive = {"archive": {"kind": "stow", "url": orthanc}}
    site = ClinicSite(tmp_path, tls=tls, web={"port": port, "tls": True}, destinations=archive)
    site.url = f"https://127.0.0.1:{port}/api/v1"
    try:
        People(site.clinic.settings.people, site.clinic.database).create(
            "test", email=EMAIL, name="Doctor", roles=["clinician"], sites=["post"], password=PASSWORD
        )
        site.start("listen")
        site.start("work")
        web = site.start("web")
        site.wait_for(lambda: _answers(site.url, certificates.authority))
        with (
            line(port) as wire,
            chromium(pinned(mine.certificate_file)) as browser,
            window(browser, f"https://127.0.0.1:{wire.port}", **PHONE) as seen,
        ):
            page = seen.page
            page.set_default_timeout(60_000)
            seen.sign_in(EMAIL, PASSWORD, "/analyse")
            names = {cookie["name"] for cookie in seen.context.cookies() if cookie["secure"] and cookie["httpOnly"]}
            assert "__Host-session" in names
            assert page.evaluate("async () => Boolean((await navigator.serviceWorker.ready).active)"), "installable"
            picture = jpeg(drawn_lesion(), 95)
            photograph(page, picture)
            wire.mend()
            wire.bytes_per_s = len(picture) // 3
            page.click("#analyse button[type=submit]")
            while wire.passed < len(picture) // 3:
                page.wait_for_timeout(20)
            wire.cut()
            page.wait_for_selector("#kept-said:not([hidden])")
            web.terminate()
            web.wait(40)
            site.start("web")
            site.wait_for(lambda: _answers(site.url, certificates.authority))
            wire.bytes_per_s = 0
            wire.mend()
            page.evaluate("luna.send()")
            page.wait_for_url("**/analyses/*")
            page.wait_for_selector("#state:not(.waiting)", timeout=120_000)
            assert page.locator("#state.completed").count() == 1, page.inner_text("#state")
            assert (
                page.locator(".output .share").count() >= 1 and "not a diagnosis" in page.inner_text("#state").lower()
            )
            page.click(".hidden-picture button")
            page.wait_for_selector(".pictures figure:nth-of-type(2) img")
            assert page.evaluate("[...document.images].every(one => one.complete || one.decode())")
            with page.expect_download() as loaded:
                page.click("a[href$='/pdf']")
            assert Path(str(loaded.value.path())).read_bytes()[:5] == b"%PDF-"
            assert seen.troubles == []
        (row,) = site.clinic.rows(analyses)
        assert row["patient"]["id"] == "12345678-5" and row["revealed_at"] and row["result_seen_at"]
        site.wait_for(lambda: _modalities(orthanc, row["study_uid"]) >= {"SR"})
    finally:
        site.stop()


def _answers(url: str, authority: Path) -> bool:
    try:
        address = f"{url.removesuffix('/api/v1')}/livez"
        context = ssl.create_default_context(cafile=str(authority))
        return httpx.get(address, trust_env=False, verify=context).status_code == 200
    except httpx.TransportError:
        return False


def _modalities(dicomweb: str, study_uid: str) -> set[str]:
    """What the archive holds of a study."""
    answer = httpx.get(f"{dicomweb}/studies/{study_uid}/series", trust_env=False)
    if answer.status_code != 200 or not answer.content:
        return set()
    return {one["00080060"]["Value"][0] for one in answer.json()}
