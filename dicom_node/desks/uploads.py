"""What was uploaded: the kind of each file by its content, and the role of each image before anything is decoded.

The role of a lone NIfTI file comes from the caller, else from the end of its name as BraTS names its files, else from
the alias that was asked for, else from a model that leaves no choice.  DICOM is looked into by the worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ai_engine.packages import AnyDescription
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.spool import Spool, Upload
from dicom_node.stages.kinds import fitting_set, kind_of, role_alone, role_of_name
from dicom_node.words import ROLE_ALIASES


@dataclass(frozen=True)
class Model:
    """What a name in a URL stands for, for one upload."""

    asked: str
    reference: str
    """``name@version``."""
    description: AnyDescription
    default_role: str = ""


@dataclass(frozen=True)
class GivenFile:
    """One uploaded file, already in the spool."""

    upload: Upload
    role: str = ""
    """As the caller said it, by the field's name or by `role`; empty: find out."""
    told_name: str = ""
    """As the caller called it: only looked at for its ending, never kept."""
    is_image_field: bool = True


def inputs_of(spool: Spool, model: Model, case: Sequence[GivenFile]) -> list[dict[str, Any]]:
    """The uploads of one case as the record keeps them: role (empty: the worker looks into it), kind, sha256, size.

    A lone zip has a `default_role` too: of the one NIfTI file that may be in it.

    Raises
    ------
    Refused
        ``input-empty``; ``roles-unfilled`` where no role set of the model is filled; ``validation`` for a role that
        nobody knows.
    """
    return _with_roles(model, case, [_input(spool, given) for given in case])


def _input(spool: Spool, given: GivenFile) -> dict[str, Any]:
    if given.upload.size_bytes == 0:
        raise Refused(RefusalCode.INPUT_EMPTY, "a file", "an empty one")
    kind = kind_of(spool.path(given.upload.sha256))
    if not kind:
        # whatever it is, the reader of what it was sent as says what is wrong with it
        kind = "dicom" if not given.is_image_field or given.told_name.lower().endswith(".dcm") else "nifti"
    return {
        "role": ROLE_ALIASES.get(given.role, given.role),
        "kind": kind,
        "sha256": given.upload.sha256,
        "size_bytes": given.upload.size_bytes,
    }


def _with_roles(model: Model, case: Sequence[GivenFile], inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every NIfTI file its role; DICOM is looked into by the worker.

    Raises
    ------
    Refused
        ``roles-unfilled`` where no role set of the model is filled; ``validation`` for a role that nobody knows.
    """
    if not inputs:
        raise Refused(RefusalCode.INPUT_EMPTY, "at least one file", "none")
    known = {entry.role for entry in model.description.inputs} | {"t1", "t1c", "t2", "flair"}
    strangers = sorted({entry["role"] for entry in inputs} - known - {""})
    if strangers:
        raise Refused(RefusalCode.VALIDATION, f"a role among: {', '.join(sorted(known))}", "another")
    if {entry["kind"] for entry in inputs} != {"nifti"}:
        if all(entry["role"] for entry in inputs):
            fitting_set(model.description, [entry["role"] for entry in inputs])
        if len(inputs) == 1 and inputs[0]["kind"] == "zip":  # in which there may be a lone NIfTI file
            return [{**inputs[0], "default_role": model.default_role or role_alone(model.description)}]
        return list(inputs)
    told = []
    for given, entry in zip(case, inputs, strict=True):
        role = entry["role"] or role_of_name(given.told_name)
        if not role and len(inputs) == 1:
            role = model.default_role or role_alone(model.description)
        if not role:
            raise Refused(RefusalCode.ROLES_UNFILLED, "a role for every file", "a file without one")
        told.append({**entry, "role": role})
    roles = [entry["role"] for entry in told]
    if len(set(roles)) != len(roles):
        raise Refused(RefusalCode.VALIDATION, "one NIfTI file for each role", "several for one")
    fitting_set(model.description, roles)
    return told
