"""``ai-node routes``: which series go to which model, and why a rule did or did not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import typer

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, out, settings, stop
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.routing import Appearance, Explanation, RouteBook, RoutesRefused
from dicom_node.routing.appearance import appearance
from dicom_node.routing.book import load_routes
from dicom_node.routing.explanation import explain as explain_study
from dicom_node.routing.facts import facts
from dicom_node.routing.roles import assign_roles
from dicom_node.volume import build_volume, read_header
from dicom_node.words import SeriesFacts

MAX_FILES = 20_000

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Which series go to which model, and why.")


@app.callback()
def _group() -> None:
    """Which series go to which model, and why."""


@app.command()
def explain(
    path: Path = typer.Argument(..., exists=True, help="A folder with the DICOM files of a study, or one file."),
    routes: Path | None = typer.Option(None, "--routes", help="Route file; default: the one named in the settings."),
    pictures: bool = typer.Option(True, help="Decode T1 series where headers do not tell before from after contrast."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Print for every rule which clause held or failed, and what the node would do with the study.

    Example: ai-node routes explain /data/study --routes config/routes.yaml
    """
    try:
        book = load_routes(routes if routes is not None else settings().routes)
    except RoutesRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))
    with answering(as_json=as_json):
        studies = _explanations(path, book, pictures=pictures)
        if as_json:
            emit({"studies": [study.to_json() for study in studies]})
            return
        for number, study in enumerate(studies, start=1):
            if len(studies) > 1:
                out.print(f"Study {number} of {len(studies)}", markup=False)
            for line in study.lines():
                out.print(line, markup=False, soft_wrap=True)


def _explanations(path: Path, book: RouteBook, *, pictures: bool) -> list[Explanation]:
    headers, files = _read(path)
    by_study: dict[str, list[SeriesFacts]] = {}
    for found in headers:
        by_study.setdefault(found.study_uid, []).append(found)
    compare = _Pictures(files) if pictures else None
    return [explain_study(book, series, assign_roles(series, compare)) for _, series in sorted(by_study.items())]


class _Pictures:
    """Decodes the series that are asked for; leaves out those that cannot be read."""

    def __init__(self, files: Mapping[str, Sequence[Path]]) -> None:
        self._files = files

    def __call__(self, uids: list[str]) -> dict[str, Appearance]:
        found = {}
        for uid in uids:
            try:
                volume = build_volume(self._files[uid])
                found[uid] = appearance(volume.array, volume.affine)
            except (Refused, ValueError) as error:
                reason = error.refusal.code.value if isinstance(error, Refused) else "no picture"
                err.print(f"a series was not compared: {reason}", markup=False)
        return found


def _read(path: Path) -> tuple[list[SeriesFacts], dict[str, list[Path]]]:
    """Facts of every series below `path`, and its files; what is no DICOM image file is counted and left out."""
    headers: dict[str, list[dict[str, object]]] = {}
    files: dict[str, list[Path]] = {}
    skipped = 0
    for count, file in enumerate(_files(path)):
        if count >= MAX_FILES:
            raise Refused(RefusalCode.TOO_LARGE, f"at most {MAX_FILES} files", "more")
        try:
            header = read_header(file)
        except Refused:
            skipped += 1
            continue
        uid = str(header["SeriesInstanceUID"])
        headers.setdefault(uid, []).append(header)
        files.setdefault(uid, []).append(file)
    if skipped:
        err.print(f"{skipped} files are no readable DICOM objects and were left out", markup=False)
    if not headers:
        raise Refused(RefusalCode.INPUT_EMPTY, "DICOM files", "none")
    return [facts(found) for found in headers.values()], files


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.is_symlink() and file.name != "DICOMDIR":
            yield file
