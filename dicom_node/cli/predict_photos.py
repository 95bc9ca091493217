"""predict, for models that read photographs: many files in one call, some together through the network.

A JPEG, PNG or WebP is wrapped as the node wraps it and then decoded out of that object, so that the model sees here
exactly what it sees when the photograph comes by way of an archive.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import typer

from ai_engine.faults import EngineFault
from ai_engine.host import MAX_PICTURES, HostSettings, ModelHost
from ai_engine.packages import ModelPackage
from ai_engine.pictures import InputPicture, PictureAnswer
from ai_engine.predict import InputFacts, picture_json, refused_picture
from ai_engine.prediction import EngineSettings
from dicom_node.cli.common import Exit, emit, err, stop
from dicom_node.files import write_durably
from dicom_node.photo import Importer, Occasion, Patient, wrap
from dicom_node.record import digest
from dicom_node.refusals import Refusal, RefusalCode, Refused
from dicom_node.results import build_picture, check_picture
from dicom_node.results.heat import TILE, as_png, photograph, with_heat
from dicom_node.results.page_picture import number_words
from dicom_node.settings import Settings
from dicom_node.stages.kinds import kind_of
from dicom_node.stages.pictures import as_picture
from dicom_node.stages.producer import producer_of
from dicom_node.volume import read_picture
from dicom_node.words import ObjectKind, Picture, RunIdentity

Declared = Literal["dermoscopic", "plain", ""]

_NAMES = {ObjectKind.SC: "sc.dcm", ObjectKind.SR: "sr.dcm", ObjectKind.PDF: "pdf.dcm"}
_NOBODY = Patient(id="NOBODY", issuer="urn:ainode:predict")
"""The object needs a patient; what is made here of a bare file says nothing about anybody, and no object is written."""


@dataclass(frozen=True, eq=False)
class _Read:
    """One input: its picture, or why there is none."""

    number: int
    kind: str
    """dicom or photo."""
    picture: Picture | None
    refusal: Refusal | None = None

    @property
    def seen(self) -> InputPicture | None:
        return None if self.picture is None else as_picture(self.picture)


def predict_photos(
    package: ModelPackage,
    paths: Sequence[Path],
    declared: Declared,
    engine: EngineSettings,
    limits: HostSettings,
    out: Path,
    progress: Any,
    *,
    as_json: bool,
    chosen: Settings,
) -> None:
    """Answer every photograph in turn: a folder and, if asked for, a line of JSON for each.

    Parameters
    ----------
    declared
        What the files show, by the caller's word; DICOM objects say it themselves.

    Raises
    ------
    Refused
        Where the only photograph is refused.
    typer.Exit
        3, when one of several was refused, after the others were answered.
    """
    files = list(_files(paths))
    at_once = min(package.classification.network.batch, MAX_PICTURES)
    refused_any = False
    with ModelHost(package.folder, engine, limits, pinned_sha256=package.digest_sha256) as host, progress:
        task = progress.add_task("loading the model", total=len(files))
        for first in range(0, len(files), at_once):
            group = [
                _read(number, path, declared) for number, path in enumerate(files[first : first + at_once], first + 1)
            ]
            progress.update(task, description=f"photographs {first + 1} to {first + len(group)} of {len(files)}")
            try:
                answers = _answers(host, group)
            except EngineFault as fault:  # its text may hold paths and values; its code says which limit it was
                stop(
                    Exit.FAULT, f"photographs {first + 1} to {first + len(group)}: the model did not run ({fault.code})"
                )
            for read, answer in zip(group, answers, strict=True):
                target = out if len(files) == 1 else out / str(read.number)
                result = _written(package, read, answer, target, chosen)
                refused_any = refused_any or isinstance(answer, Refusal)
                if isinstance(answer, Refusal) and len(files) == 1:
                    raise Refused(answer.code, answer.expected, answer.found)
                progress.advance(task)
                if as_json:
                    emit(result)
                else:
                    _tell(read, answer, target)
    if refused_any:
        raise typer.Exit(int(Exit.REFUSED))


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Files as they are named, and those of folders in the order of their names."""
    for path in paths:
        if path.is_dir():
            yield from (f for f in sorted(path.rglob("*")) if f.is_file() and not f.is_symlink())
        else:
            yield path


def _read(number: int, path: Path, declared: Declared) -> _Read:
    is_dicom = kind_of(path) == "dicom"
    try:
        if is_dicom:
            return _Read(number, "dicom", read_picture(path.absolute()))
        wrapped = wrap(
            path.read_bytes(),
            _NOBODY,
            Occasion(created="1970-01-01T00:00:00+00:00", declared=declared),
            Importer(uuid.UUID(int=0), importlib.metadata.version("dicom-ai-node"), "predict"),
        )
        with tempfile.TemporaryDirectory(prefix="ai-node-") as scratch:
            inside = Path(scratch) / "photo.dcm"
            inside.write_bytes(wrapped.data)
            return _Read(number, "photo", read_picture(inside))
    except Refused as refused:
        return _Read(number, "dicom" if is_dicom else "photo", None, refused.refusal)


def _answers(host: ModelHost, group: Sequence[_Read]) -> list[PictureAnswer | Refusal]:
    """One answer per input, in order; only those that could be read are asked about."""
    readable = [read for read in group if read.seen is not None]
    said = iter(host.classify([read.seen for read in readable if read.seen is not None]) if readable else [])
    return [read.refusal if read.refusal is not None else next(said) for read in group]


def _written(
    package: ModelPackage, read: _Read, answer: PictureAnswer | Refusal, target: Path, chosen: Settings
) -> dict[str, Any]:
    """The folder of one photograph; the tree of its result.json."""
    facts = InputFacts(read.kind, () if read.picture is None else read.picture.notes)
    description = package.classification
    if isinstance(answer, Refusal) or read.picture is None or read.seen is None:
        refusal = answer if isinstance(answer, Refusal) else Refusal(RefusalCode.NOT_AN_IMAGE)
        digest_sha256 = package.digest_sha256
        told = refused_picture(description.name, description.version, digest_sha256, refusal, read.seen, facts)
    else:
        told = picture_json(answer.findings, answer.timings_s, read.seen, facts)
        told["quality"] = dict(answer.quality)
        plain = photograph(read.picture.pixels, TILE)
        shown = plain if answer.heat_map is None else with_heat(plain, answer.heat_map)
        write_durably(target / "overlay.png", as_png(shown))
        if read.kind == "dicom":
            _write_objects(read.picture, answer, target, chosen)
    told["input"]["number"] = read.number
    write_durably(target / "result.json", (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode())
    return told


def _write_objects(picture: Picture, answer: PictureAnswer, target: Path, chosen: Settings) -> None:
    """Heat map, SR and PDF as the node would send them, checked as it would check them; sent nowhere."""
    identity = RunIdentity(  # each call has its own: objects of a node's run must never share a UID with other bytes
        run_key=digest([uuid.uuid4().hex, answer.findings.model.digest_sha256]),
        site_namespace=str(chosen.node.site_namespace or uuid.uuid4()),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        study_uid=picture.study_uid,
        timezone_offset=chosen.node.offset_of(picture.attributes),
    )
    who = producer_of(chosen, importlib.metadata.version("dicom-ai-node"), "predict")
    built = build_picture(identity, picture, answer.heat_map, answer.findings, who, language=chosen.node.language)
    check_picture(built, picture, answer.heat_map, answer.findings)
    for item in built.objects:
        write_durably(target / _NAMES[item.kind], item.data)
    write_durably(target / "report.pdf", built.pdf)


def _tell(read: _Read, answer: PictureAnswer | Refusal, target: Path) -> None:
    if isinstance(answer, Refusal):
        err.print(f"{read.number}: refused ({answer.code.value}): {answer.message} {answer.advice}", markup=False)
        return
    said = "; ".join(
        f"{o.name.meaning}: {number_words(o.measurements[0])}"
        + (f" ({o.category.meaning.lower()})" if o.category else "")
        for o in answer.findings.observations
    )
    err.print(f"{read.number}: {said}. Not a diagnosis. Written to {target}", markup=False)
