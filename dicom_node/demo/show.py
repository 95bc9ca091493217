"""What the demonstration prints when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dicom_node.demo.run import TITLES, Outcome
from dicom_node.demo.site import Site
from dicom_node.demo.study import Fate

_HOW = {
    "SEG": "any viewer that shows DICOM segmentations: OHIF (`make up`), 3D Slicer, Weasis",
    "SR": "dsrdump {path}",
    "PDF": "any PDF viewer; in the archive it is an encapsulated PDF of the study",
    "DiagnosticReport": "any text viewer; from the node: GET {fhir}",
    "overlay": "any picture viewer",
}


def show(site: Site, outcomes: Sequence[Outcome], console: Console) -> None:
    """Print fates, results and how to open each, found against true volume, and the time of every stage."""
    console.print()
    _fates(outcomes, console)
    for outcome in outcomes:
        if outcome.written:
            _results(site, outcome, console)
    _timings(outcomes, console)
    for outcome in outcomes:
        for fault in outcome.faults:
            console.print(f"[red]not as it should be[/] ({TITLES[outcome.study.fate]}): {fault}", soft_wrap=True)


def _fates(outcomes: Sequence[Outcome], console: Console) -> None:
    table = Table(title="Three studies, three fates", title_justify="left")
    for name in ("study", "what the node says", "found", "true", "Dice"):
        table.add_column(name, justify="left" if name in ("study", "what the node says") else "right")
    for outcome in outcomes:
        is_compared = outcome.study.fate is Fate.LESION
        table.add_row(
            TITLES[outcome.study.fate],
            outcome.said or "nothing",
            "" if outcome.found_ml is None else f"{outcome.found_ml:.1f} mL",
            f"{outcome.study.true_volume_ml:.1f} mL" if is_compared else "",
            "" if outcome.dice is None else f"{outcome.dice:.3f}",
        )
    console.print(table)
    console.print(
        "The heads are formulas: these numbers show that the road works, not how accurate the model is on patients.\n"
    )


def _results(site: Site, outcome: Outcome, console: Console) -> None:
    console.print(f"[italic]Results of: {TITLES[outcome.study.fate]}[/]")
    report_id = "" if outcome.report is None else outcome.report.get("id", "")
    fhir = f"{site.web_url}/fhir/DiagnosticReport/{report_id}"
    for kind, path in outcome.written.items():
        shown = _shown(path)
        console.print(f"  [bold]{kind}[/]  {shown}", soft_wrap=True)
        console.print(f"      {_HOW.get(kind, '').format(path=shown, fhir=fhir)}", soft_wrap=True)
    console.print()


def _timings(outcomes: Sequence[Outcome], console: Console) -> None:
    timed = [outcome for outcome in outcomes if outcome.stages and outcome.study.fate is Fate.LESION]
    for outcome in timed:
        table = Table(title=f"Seconds from the last image stored: {TITLES[outcome.study.fate]}", title_justify="left")
        table.add_column("stage")
        table.add_column("s", justify="right")
        for name, seconds in outcome.stages:
            table.add_row(name, f"{seconds:.2f}")
        table.add_row("in all", f"{sum(seconds for _, seconds in outcome.stages):.2f}", style="bold")
        console.print(table)


def _shown(path: Path) -> str:
    """Relative to the working folder where it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
