"""`ai-node train quality`: the model of kinds of a classifier's package, fitted to its own features."""

from __future__ import annotations

from pathlib import Path

import typer

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, out, stop
from dicom_node.cli.train_skin import app

PACKAGE = typer.Option(..., "--package", exists=True, file_okay=False, help="Folder of one version of the package.")
DATA = typer.Option(..., "--data", exists=True, help="labels.csv (or its folder) of the dermatoscope pictures.")
PICTURES = typer.Option(
    ..., "--pictures", exists=True, file_okay=False, help="Other pictures: see python -m ai_engine.quality.assemble."
)


@app.command("quality")
def quality(
    package: Path = PACKAGE,
    data: Path = DATA,
    pictures: Path = PICTURES,
    keep: Path | None = typer.Option(None, "--keep", file_okay=False, help="Folder where features are kept for later."),
    source: list[str] = typer.Option(
        [], "--source", help="Only dermatoscope pictures of this source; may be repeated."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Fit the quality check of a classifier's package to the package's own network, and seal the package anew.

    What it then refuses is measured by python -m ai_engine.quality.measure; see docs/reference/quality.md.

    Example: ai-node train quality --package models/skin-lesion/1.0.0 --data labels.csv --pictures other-pictures
    """
    from ai_engine.packages import DescriptionError
    from ai_engine.quality.fit import fit_quality
    from ai_engine.training.cases import TrainingDataError

    with answering(as_json=as_json):
        try:
            digest = fit_quality(package, data if data.is_dir() else data.parent, pictures, _say, keep, source)
        except (TrainingDataError, DescriptionError, ValueError) as trouble:
            stop(Exit.USAGE, str(trouble))
    emit({"digest_sha256": digest}) if as_json else out.print(digest, markup=False)


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)
