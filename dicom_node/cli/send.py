"""ai-node send: DICOM files as they lie on the disk, or photographs, which become DICOM objects on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, out, settings, stop

if TYPE_CHECKING:
    from dicom_node.demo.sending import Peer, SendReport


def send(
    inputs: list[Path] = typer.Argument(
        ..., exists=True, help="A folder (or one file) of DICOM images; or photographs: JPEG, PNG, WebP."
    ),
    to: str = typer.Option(
        "", "--to", help="AE@host:port; of photographs also a destination of the settings. Default: their Orthanc."
    ),
    calling: str = typer.Option("AINODE-SEND", "--from", help="Our AE title; the receiver must know it."),
    patient: str = typer.Option("", "--patient", help="Photographs: Patient ID."),
    issuer: str = typer.Option("", "--issuer", help="Photographs: who issued the Patient ID."),
    name: str = typer.Option("", "--name", help="Photographs: patient's name, Family^Given."),
    birth_date: str = typer.Option("", "--birth-date", help="Photographs: YYYY-MM-DD."),
    sex: str = typer.Option("", "--sex", help="Photographs: M, F or O."),
    body_site: str = typer.Option("", "--body-site", help="Photographs: region, such as back; see photos.md."),
    laterality: str = typer.Option("", "--laterality", help="Photographs: left, right, both or none."),
    order: str = typer.Option("", "--order", help="Photographs: accession number of the order."),
    dermoscopic: bool | None = typer.Option(
        None, "--dermoscopic/--plain", help="Photographs: taken through a dermatoscope, or without one."
    ),
    store_as: str = typer.Option(
        "", "--as", help="Photographs: vl-photographic or dermoscopic. Default: photos.store_as."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Send a folder of DICOM files by C-STORE, as they lie on the disk; or photographs of one patient.

    Photographs become DICOM objects, one study for one call, and go to the Orthanc of the settings by STOW-RS; one
    line of JSON is printed for each. Without --patient and --issuer nothing is sent.

    Example: ai-node send lesion.jpg --patient 4711 --issuer HOSPITAL --body-site back --dermoscopic
    """
    from dicom_node.cli.photos import Told, are_photographs, send_photographs

    told = Told(
        patient, issuer, name, birth_date, sex, body_site, laterality, order, dermoscopic=dermoscopic, store_as=store_as
    )
    if are_photographs(inputs):
        with answering(as_json=as_json):
            send_photographs(inputs, told, settings(), to=to, calling=calling)
        return
    if told.is_anything:
        stop(Exit.USAGE, "--patient and the like are for photographs; DICOM files say themselves whose they are")
    if len(inputs) != 1:
        stop(Exit.USAGE, "one folder, or one file, of DICOM images; or photographs only")
    _send_files(inputs[0], to, calling, as_json=as_json)


def _send_files(folder: Path, to: str, calling: str, *, as_json: bool) -> None:
    from dicom_node.demo.sending import Peer, find_files, send_files

    try:
        peer = Peer.parse(to) if to else _configured_archive()
    except ValueError as error:
        stop(Exit.USAGE, f"--to: {error}")
    files, others = find_files(folder)
    with (
        answering(as_json=as_json),
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=as_json,
        ) as progress,
    ):
        task = progress.add_task(f"to {peer.ae_title}", total=len(files))
        report = send_files(files, peer, calling_ae_title=calling, on_progress=lambda n: progress.advance(task, n))
    report.skipped = others
    _tell(report, as_json=as_json)
    if report.failed:
        raise typer.Exit(int(Exit.REFUSED))


def _tell(report: SendReport, *, as_json: bool) -> None:
    if as_json:
        emit({"stored": report.stored, "failed": report.failed, "skipped": report.skipped})
        return
    out.print(f"{report.stored} stored; {report.skipped} other files left alone")
    for reason, count in report.failed.items():
        out.print(f"{count} not stored: {reason}", markup=False)


def _configured_archive() -> Peer:
    from dicom_node.demo.sending import Peer

    orthanc = settings().orthanc
    return Peer(orthanc.ae_title, orthanc.dicom_host, orthanc.dicom_port)
