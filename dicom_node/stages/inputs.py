"""What a person or a program hands over, turned into the inputs of a model, by role: paths in, volumes out."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_engine.packages.schema import Description
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.routing.attributes import ROLE_ALIASES
from dicom_node.routing.facts import facts
from dicom_node.routing.roles import assign_roles
from dicom_node.volume import build_volume, read_header, read_nifti
from dicom_node.volume.archive import unpack
from dicom_node.words import Volume

NIFTI_ENDINGS = (".nii", ".nii.gz")
MAX_FILES = 20_000


@dataclass(frozen=True)
class Named:
    """One argument: a path, and the role that the caller gave it (empty: find out)."""

    path: Path
    role: str


@dataclass(frozen=True, eq=False)
class CaseInput:
    """The volumes of one case by role, and what a reader must know about how they were found."""

    kind: str
    """dicom or nifti."""
    volumes: Mapping[str, Volume]
    notes: tuple[str, ...] = ()


def parse_argument(text: str) -> Named:
    """``role=path`` or ``path``."""
    role, separator, path = text.partition("=")
    if separator and not Path(text).exists():
        return Named(Path(path), ROLE_ALIASES.get(role, role))
    return Named(Path(text), "")


def cases_of(arguments: Sequence[Named], description: Description) -> list[list[Named]]:
    """Which arguments make one case: all ``role=path`` together; otherwise each path is a case of its own.

    Raises
    ------
    Refused
        ``validation`` when both forms are mixed or a role is not the model's.
    """
    named = [a for a in arguments if a.role]
    if not named:
        return [[a] for a in arguments]
    if len(named) != len(arguments):
        raise Refused(RefusalCode.VALIDATION, "role=path for every input, or for none", "a mixture")
    known = [entry.role for entry in description.inputs]
    roles = [a.role for a in named]
    if sorted(roles) != sorted(known):
        raise Refused(RefusalCode.ROLES_UNFILLED, f"each of {', '.join(known)} once", ", ".join(roles))
    return [named]


def read_case(
    arguments: Sequence[Named], description: Description, spacing_mm: Sequence[float] | None, scratch: Path
) -> CaseInput:
    """Read the volumes of one case.

    Parameters
    ----------
    scratch
        An empty folder for what comes out of an archive; must live as long as the volumes are used.

    Raises
    ------
    Refused
        If an input is not what it should be, or no series fills a role.
    """
    known = [entry.role for entry in description.inputs]
    nifti = [_is_nifti(a.path) for a in arguments]
    if any(nifti) and not all(nifti):
        raise Refused(RefusalCode.VALIDATION, "NIfTI for every role, or DICOM for every role", "a mixture")
    if nifti[0]:
        if len(arguments) != len(known):
            raise Refused(RefusalCode.ROLES_UNFILLED, f"role=path for {', '.join(known)}", f"{len(arguments)} file(s)")
        volumes = {a.role or known[0]: read_nifti(a.path, spacing_mm=spacing_mm) for a in arguments}
        told = () if spacing_mm is None else (f"spacing {_mm(spacing_mm)} mm was declared by the caller, not measured",)
        return CaseInput("nifti", volumes, told)
    if spacing_mm is not None:
        raise Refused(RefusalCode.VALIDATION, "--spacing-mm for NIfTI only", "DICOM, which carries its spacing")
    if arguments[0].role:
        return CaseInput(
            "dicom", {a.role: build_volume(_files(a.path, scratch / str(n))) for n, a in enumerate(arguments)}
        )
    return _from_study(_files(arguments[0].path, scratch), description)


def _from_study(files: Sequence[Path], description: Description) -> CaseInput:
    series: dict[str, list[Path]] = {}
    headers: dict[str, list[dict[str, object]]] = {}
    skipped = 0
    for file in files:
        try:
            header = read_header(file)
        except Refused:
            skipped += 1
            continue
        uid = str(header["SeriesInstanceUID"])
        series.setdefault(uid, []).append(file)
        headers.setdefault(uid, []).append(header)
    if not series:
        raise Refused(RefusalCode.NOT_DICOM, "DICOM images, or a NIfTI file", "neither")
    notes = [f"{skipped} files were no readable DICOM objects"] if skipped else []
    wanted = [entry.role for entry in description.inputs]
    if len(series) == 1 and len(wanted) == 1:
        return CaseInput("dicom", {wanted[0]: build_volume(next(iter(series.values())))}, tuple(notes))
    known = [facts(found) for found in headers.values()]
    if len({f.study_uid for f in known}) > 1:
        raise Refused(RefusalCode.SERIES_MIXED, "one study per input", "several")
    roles = assign_roles(known, None)
    volumes = {}
    for role in wanted:
        fitting = [f for f in known if roles[f.series_uid].role == role and not roles[f.series_uid].ambiguous_with]
        if not fitting:
            open_to = [u for u, guess in roles.items() if role in (guess.role, *guess.ambiguous_with)]
            code = RefusalCode.ROLES_AMBIGUOUS if open_to else RefusalCode.ROLES_UNFILLED
            raise Refused(code, f"a {role} series", ", ".join(sorted({g.role for g in roles.values()})))
        fitting.sort(key=lambda f: (float(f.attributes.get("SeriesNumber") or 1e9), f.series_uid))
        if len(fitting) > 1:
            notes.append(f"{len(fitting)} series can be {role}; the one with the lowest series number was read")
        volumes[role] = build_volume(series[fitting[0].series_uid])
    return CaseInput("dicom", volumes, tuple(notes))


def _files(path: Path, scratch: Path) -> list[Path]:
    if path.is_dir():
        found = [f for f in sorted(path.rglob("*")) if f.is_file() and not f.is_symlink() and f.name != "DICOMDIR"]
    elif zipfile.is_zipfile(path):
        scratch.mkdir(parents=True, exist_ok=True)
        found = unpack(path, scratch)
    else:
        found = [path]
    if len(found) > MAX_FILES:
        raise Refused(RefusalCode.TOO_LARGE, f"at most {MAX_FILES} files", str(len(found)))
    if not found:
        raise Refused(RefusalCode.INPUT_EMPTY, "files", "none")
    return [f.absolute() for f in found]


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_ENDINGS)


def _mm(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in spacing_mm)
