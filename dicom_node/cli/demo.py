"""ai-node demo."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, out, stop

if TYPE_CHECKING:
    from rich.console import Console

    from dicom_node.demo.site import Site

MARK = ".ai-node-demo"
"""A file by which a folder is known as one that this command made and may make again."""
KEEP_TICKET_S = 8 * 3600.0


def demo(
    keep: bool = typer.Option(False, "--keep", help="Keep everything running, with the viewer, until Ctrl-C."),
    folder: Path = typer.Option(Path("demo-out"), "--out", help="Everything is kept here; made anew each time."),
    models: Path = typer.Option(Path("models"), "--models", help="Folder of model packages."),
    routes: Path = typer.Option(Path("config/routes.yaml"), "--routes", help="Routes; they are switched on."),
    viewer: Path = typer.Option(Path(".tools/ohif"), "--viewer", help="OHIF's static files, for --keep."),
    seed: int = typer.Option(1, "--seed", min=1, help="Decides which synthetic heads are drawn."),
    only_send: str = typer.Option(
        "", "--only-send", help="AE@host:port: send the three studies there, from DEMO; start and await nothing."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Three synthetic studies go in by C-STORE; SEG, SR, PDF and a FHIR report come back, or a refusal.

    An Orthanc and a node are started on free ports, and stopped again. Exit code 1 when a study does not meet its
    fate, or the segmentation's Dice coefficient is below 0.7.

    Example: ai-node demo
    """
    if only_send:
        _send_elsewhere(only_send, seed=seed, as_json=as_json)
        return
    from dicom_node.demo.run import run_demo
    from dicom_node.demo.show import show
    from dicom_node.demo.site import Site, SiteOptions

    _need_tools()
    _prepare(folder)
    has_viewer = (viewer / "index.html").is_file()
    if keep and not has_viewer:
        err.print(f"no viewer in {viewer}: `make up` fetches it; going on without")
    options = SiteOptions(folder=folder, models=models, routes=routes, viewer=viewer if has_viewer else None)
    console = err if as_json else out
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with answering(as_json=as_json), Site(options) as site:
            outcomes = run_demo(site, console, seed=seed)
            show(site, outcomes, console)
            if as_json:
                emit({"studies": [outcome.to_json() for outcome in outcomes]})
            if keep:
                # the way to end it, therefore no failure
                with suppress(KeyboardInterrupt):
                    _keep(site, console)
            console.print("stopping ...")
    except KeyboardInterrupt:
        stop(Exit.FAULT, "interrupted; everything that was started has been stopped")
    if any(outcome.faults for outcome in outcomes):
        raise typer.Exit(int(Exit.FAULT))


def _send_elsewhere(to: str, *, seed: int, as_json: bool) -> None:
    """The three studies go to an archive that is there already; exit code 3 when it did not take every image."""
    from dicom_node.demo.elsewhere import send_elsewhere
    from dicom_node.demo.sending import Peer, SendReport
    from dicom_node.demo.study import Fate

    def told(fate: Fate, report: SendReport) -> None:
        failed = "; ".join(f"{count} not stored: {reason}" for reason, count in report.failed.items())
        err.print(f"{fate.value}: {report.stored} stored" + (f"; {failed}" if failed else ""), markup=False)

    try:
        peer = Peer.parse(to)
    except ValueError as error:
        stop(Exit.USAGE, f"--only-send: {error}")
    with answering(as_json=as_json):
        reports = send_elsewhere(peer, seed=seed, on_study=told)
    if as_json:
        emit({fate.value: {"stored": r.stored, "failed": r.failed} for fate, r in reports.items()})
    if any(report.failed for report in reports.values()):
        raise typer.Exit(int(Exit.REFUSED))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM stops what was started, as Ctrl-C does."""
    raise KeyboardInterrupt


def _need_tools() -> None:
    missing = [name for name in ("Orthanc", "storescu") if shutil.which(name) is None]
    if missing:
        stop(Exit.CONFIGURATION, f"missing: {', '.join(missing)}. `make setup` installs Orthanc and DCMTK.")


def _prepare(folder: Path) -> None:
    """Make the folder empty; one that this command did not make is left alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            stop(Exit.USAGE, f"{folder} is not empty and was not made by this command; give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / MARK).touch()


def _keep(site: Site, console: Console) -> None:
    """Print one-time links into the viewer until Ctrl-C; Enter makes new ones."""
    from dicom_node.demo.study import Fate
    from portal import TicketOffice

    office = TicketOffice(site.settings.data.folder / "tickets", ticket_life_s=KEEP_TICKET_S)
    studies = sorted((site.folder / "studies").iterdir(), key=lambda path: [f.value for f in Fate].index(path.name))
    while True:
        console.print("\nIt keeps running. Links into the viewer, each good once:")
        for folder in studies:
            console.print(f"  {folder.name}: {office.link(site.web_url, _study_uid(folder))}", soft_wrap=True)
        console.print(
            f"  configuration: {site.config}\n  your own images: ai-node send FOLDER --to {_address(site)} --from DEMO"
        )
        console.print("Enter makes new links, Ctrl-C stops everything.")
        if not sys.stdin.isatty():
            threading.Event().wait()
        input()


def _address(site: Site) -> str:
    peer = site.orthanc_peer
    return f"{peer.ae_title}@{peer.host}:{peer.port}"


def _study_uid(folder: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(next(folder.glob("*/*.dcm")), specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
