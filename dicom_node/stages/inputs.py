"""What a person or a program hands over, turned into the inputs of a model, by role: paths in, volumes out.

Used by ``ai-node predict`` and by requests over HTTP alike, so that the same files give the same volumes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_engine.packages import AnyDescription, Description, segmentation_of
from ai_engine.prediction import InputVolume
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.routing.facts import age_in_years, facts
from dicom_node.routing.roles import assign_roles
from dicom_node.stages.kinds import fitting_set, is_label_name, kind_of, role_alone, role_of_name
from dicom_node.volume import Limits, build_volume, read_header, read_nifti
from dicom_node.volume.archive import unpack
from dicom_node.words import ROLE_ALIASES, Volume

NIFTI_ENDINGS = (".nii", ".nii.gz")
MAX_FILES = 20_000
MAX_LABELS = 8
"""An image of so few different whole numbers is a label map."""

_SAMPLE_VOXELS = 200_000

ReadNifti = Callable[..., Volume]
"""`read_nifti`, or `read_nifti_guarded` for files of strangers."""


@dataclass(frozen=True)
class Named:
    """One argument: a path, and the role that the caller gave it (empty: find out)."""

    path: Path
    role: str
    kind: str = ""
    """What its content is, as `kind_of` says; empty: its name tells."""
    default_role: str = ""
    """Of the only NIfTI file in an archive, when neither the caller nor its name says one."""


@dataclass(frozen=True, eq=False)
class CaseInput:
    """The volumes of one case by role, and what a reader must know about how they were found."""

    kind: str
    """dicom or nifti."""
    volumes: Mapping[str, Volume]
    notes: tuple[str, ...] = ()


def as_input(volume: Volume) -> InputVolume:
    """What a model is handed of a volume."""
    return InputVolume(
        volume.array,
        volume.affine,
        volume.valid,
        volume.modality,
        age_in_years(volume.attributes.get("PatientAge")),
        str(volume.attributes.get("BodyPartExamined") or ""),
    )


def parse_argument(text: str) -> Named:
    """``role=path`` or ``path``."""
    role, separator, path = text.partition("=")
    if separator and not Path(text).exists():
        return Named(Path(path), ROLE_ALIASES.get(role, role))
    return Named(Path(text), "")


def cases_of(arguments: Sequence[Named], description: AnyDescription) -> list[list[Named]]:
    """Which arguments make one case: all ``role=path`` together; otherwise each path is a case of its own.

    Raises
    ------
    Refused
        ``validation`` when both forms are mixed or a role is named twice; ``roles-unfilled`` when the roles are none
        of the model's sets.
    """
    named = [a for a in arguments if a.role]
    if not named:
        return [[a] for a in arguments]
    if len(named) != len(arguments):
        raise Refused(RefusalCode.VALIDATION, "role=path for every input, or for none", "a mixture")
    known = [entry.role for entry in description.inputs]
    roles = [a.role for a in named]
    strangers = sorted(set(roles) - set(known))
    if strangers or len(set(roles)) != len(roles):
        raise Refused(RefusalCode.ROLES_UNFILLED, f"each of {', '.join(known)} at most once", ", ".join(roles))
    fitting_set(description, roles)
    return [named]


def read_case(
    arguments: Sequence[Named],
    asked: AnyDescription,
    spacing_mm: Sequence[float] | None,
    scratch: Path,
    *,
    limits: Limits = Limits(),
    nifti_reader: ReadNifti = read_nifti,
) -> CaseInput:
    """Read the volumes of one case, as many as fill the best set of roles.

    Parameters
    ----------
    arguments
        NIfTI: one file per role, or zips of such files, whose roles are told by the caller where there is one in it, by
        the ends of their names where there are several.  DICOM: files, folders or zips; several of one role are one
        series, and several without a role are one study.
    scratch
        An empty folder for what comes out of an archive; must live as long as the volumes are used.

    Raises
    ------
    Refused
        If an input is not what it should be, or no series fills a role.
    """
    description = segmentation_of(asked)
    notes: list[str] = []
    arguments = [one for n, a in enumerate(arguments) for one in _opened(a, scratch / str(n), limits, notes)]
    nifti = [_is_nifti(a) for a in arguments]
    if any(nifti) and not all(nifti):
        raise Refused(RefusalCode.VALIDATION, "NIfTI for every role, or DICOM for every role", "a mixture")
    if nifti[0]:
        found = _from_nifti(arguments, description, spacing_mm, nifti_reader)
        unused = sorted({a.role for a in arguments} - {*found.volumes, ""})
        if unused:
            notes.append(f"not used, because the model does not read it: {unused}")
        return replace(found, notes=(*found.notes, *notes))
    if spacing_mm is not None:
        raise Refused(RefusalCode.VALIDATION, "a declared spacing for NIfTI only", "DICOM, which carries its spacing")
    by_role: dict[str, list[Path]] = {}
    for argument in arguments:
        by_role.setdefault(argument.role, []).extend(_files(argument))
    if "" not in by_role:
        chosen = fitting_set(description, list(by_role))
        return CaseInput("dicom", {role: build_volume(by_role[role], limits=limits) for role in chosen})
    if len(by_role) > 1:
        raise Refused(RefusalCode.VALIDATION, "a role for every input, or for none", "a mixture")
    return _from_study(by_role[""], description, limits)


def _from_nifti(
    arguments: Sequence[Named], description: Description, spacing_mm: Sequence[float] | None, reader: ReadNifti
) -> CaseInput:
    roles = [a.role for a in arguments]
    if roles == [""]:
        roles = [role_of_name(arguments[0].path.name) or role_alone(description)]
    if "" in roles:
        raise Refused(
            RefusalCode.ROLES_UNFILLED,
            "a role for every file (role=path, or a name that ends in its sequence, as in case-t1c.nii.gz)",
            "a file without one",
        )
    if len(set(roles)) != len(roles):
        raise Refused(RefusalCode.VALIDATION, "one NIfTI file for each role", "several for one")
    chosen = fitting_set(description, roles)
    by_role = dict(zip(roles, arguments, strict=True))
    volumes = {role: reader(by_role[role].path, spacing_mm=spacing_mm) for role in chosen}
    for volume in volumes.values():
        refuse_label_map(volume.array)
    told = () if spacing_mm is None else (f"spacing {_mm(spacing_mm)} mm was declared by the caller, not measured",)
    return CaseInput("nifti", volumes, told)


def refuse_label_map(array: npt.NDArray[np.float32]) -> None:
    """Refuse what is no picture but somebody's answer: whole numbers, at most `MAX_LABELS` different ones.

    Raises
    ------
    Refused
        ``image-is-label-map``.
    """
    flat = array.reshape(-1)
    sample = np.unique(flat[:: max(1, flat.size // _SAMPLE_VOXELS)])
    if len(sample) > MAX_LABELS or not bool(np.all(sample == np.round(sample))):
        return
    found = set(sample.tolist())
    for slab in array:
        found |= set(np.unique(slab).tolist())
        if len(found) > MAX_LABELS:
            return
    if all(value == round(value) for value in found):
        raise Refused(RefusalCode.IMAGE_IS_LABEL_MAP, f"more than {MAX_LABELS} grey values", f"{len(found)} labels")


def _from_study(files: Sequence[Path], description: Description, limits: Limits) -> CaseInput:
    series: dict[str, list[Path]] = {}
    headers: dict[str, list[dict[str, object]]] = {}
    refusals: list[Refused] = []
    for file in files:
        try:
            header = read_header(file)
        except Refused as refused:
            refusals.append(refused)
            continue
        uid = str(header["SeriesInstanceUID"])
        series.setdefault(uid, []).append(file)
        headers.setdefault(uid, []).append(header)
    if not series:
        if len({refused.refusal.code for refused in refusals}) == 1:
            raise refusals[0]
        raise Refused(RefusalCode.NOT_DICOM, "DICOM images, or a NIfTI file", "neither")
    notes = [f"{len(refusals)} files were no readable DICOM objects"] if refusals else []
    _one_patient(header for found in headers.values() for header in found)
    wanted = description.accepted_roles
    if len(series) == 1 and any(len(names) == 1 for names in wanted) and len(description.inputs) == 1:
        return CaseInput(
            "dicom", {wanted[0][0]: build_volume(next(iter(series.values())), limits=limits)}, tuple(notes)
        )
    known = [facts(found) for found in headers.values()]
    if len({f.study_uid for f in known}) > 1:
        raise Refused(RefusalCode.SERIES_MIXED, "one study per input", "several")
    roles = assign_roles(known, None)
    sure = {f.series_uid: roles[f.series_uid].role for f in known if not roles[f.series_uid].ambiguous_with}
    try:
        chosen = fitting_set(description, sorted(set(sure.values())))
    except Refused:
        every = {role for names in wanted for role in names}
        open_to = [u for u, guess in roles.items() if every & {guess.role, *guess.ambiguous_with} and u not in sure]
        code = RefusalCode.ROLES_AMBIGUOUS if open_to else RefusalCode.ROLES_UNFILLED
        expected = ", or ".join(" and ".join(names) for names in wanted)
        raise Refused(code, f"series for {expected}", ", ".join(sorted({g.role for g in roles.values()}))) from None
    volumes = {}
    for role in chosen:
        fitting = [f for f in known if sure.get(f.series_uid) == role]
        fitting.sort(key=lambda f: (float(f.attributes.get("SeriesNumber") or 1e9), f.series_uid))
        if len(fitting) > 1:
            notes.append(f"{len(fitting)} series can be {role}; the one with the lowest series number was read")
        volumes[role] = build_volume(series[fitting[0].series_uid], limits=limits)
    return CaseInput("dicom", volumes, tuple(notes))


def _one_patient(headers: Iterable[Mapping[str, object]]) -> None:
    """One patient per upload (hardening 4.8)."""
    who = {
        tuple(str(header.get(keyword) or "") for keyword in ("PatientID", "IssuerOfPatientID")) for header in headers
    }
    if len(who) > 1:
        raise Refused(RefusalCode.PATIENT_CONFLICT, "one patient per input", "several")


def _opened(argument: Named, scratch: Path, limits: Limits, notes: list[str]) -> list[Named]:
    """What is in an archive: each NIfTI file with its role, or the folder of what else it holds; others as they are.

    Raises
    ------
    Refused
        As `unpack`; ``validation`` for NIfTI beside DICOM, or for several NIfTI files under one role of the caller.
    """
    is_archive = not argument.path.is_dir() and (
        argument.kind == "zip" or (not argument.kind and zipfile.is_zipfile(argument.path))
    )
    if not is_archive:
        return [argument]
    scratch.mkdir(parents=True, exist_ok=True)
    unpacked = unpack(argument.path, scratch, max_total_bytes=limits.max_archive_bytes)
    kinds = [kind_of(one.path) for one in unpacked]
    if "nifti" not in kinds:
        return [Named(scratch, argument.role, "folder")]
    if "dicom" in kinds:
        raise Refused(RefusalCode.VALIDATION, "NIfTI or DICOM in an archive", "a mixture")
    images = [one for one, kind in zip(unpacked, kinds, strict=True) if kind == "nifti"]
    pictures = [one for one in images if not is_label_name(one.told_name)] or images
    if len(pictures) > 1 and argument.role:
        raise Refused(RefusalCode.VALIDATION, "one NIfTI file for each role", "several for one")
    if len(pictures) < len(images):
        notes.append(f"{len(images) - len(pictures)} label maps in the archive were not read")
    if len(images) < len(unpacked):
        notes.append(f"{len(unpacked) - len(images)} files in the archive were no images")
    default = argument.default_role if len(pictures) == 1 else ""
    return [Named(one.path, argument.role or role_of_name(one.told_name) or default, "nifti") for one in pictures]


def _files(argument: Named) -> list[Path]:
    path = argument.path
    if path.is_dir():
        found = [f for f in sorted(path.rglob("*")) if f.is_file() and not f.is_symlink() and f.name != "DICOMDIR"]
    else:
        found = [path]
    if len(found) > MAX_FILES:
        raise Refused(RefusalCode.TOO_LARGE, f"at most {MAX_FILES} files", str(len(found)))
    if not found:
        raise Refused(RefusalCode.INPUT_EMPTY, "files", "none")
    return [f.absolute() for f in found]


def _is_nifti(argument: Named) -> bool:
    if argument.kind:
        return argument.kind == "nifti"
    return argument.path.name.lower().endswith(NIFTI_ENDINGS)


def _mm(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in spacing_mm)
