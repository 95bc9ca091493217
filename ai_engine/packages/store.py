"""Finding, sealing and opening model packages (hardening I9, I25 and section 5).

Trust order: the bytes of ``manifest.json`` are hashed (that is the model digest, and it is compared with a pin when
there is one) before they are parsed; every other file is read once and hashed before anything looks into it; what is
used later are the bytes that were hashed, so a file swapped after the check changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ai_engine.packages.classification import Classification
from ai_engine.packages.common import DescriptionError, Task
from ai_engine.packages.schema import AnyDescription, Description, parse_description, version_order
from dicom_node.refusals import RefusalCode, Refused

MANIFEST = "manifest.json"
DESCRIPTION = "model.yaml"
NETWORK = "network.json"
"""The layers of a package of runner ``keras``."""
GATE = "gate.json"
"""What the accuracy gate measured when the package was built."""
INT8 = ("int8.xml", "int8.bin")
"""The network in 8-bit integers, as OpenVINO writes it."""
MAX_FILES = 64
MAX_MANIFEST_BYTES = 64 * 1024
MAX_FILE_BYTES = 2 * 1024**3


@dataclass(frozen=True, eq=False)
class ModelPackage:
    """An opened package: what it says, and the very bytes that were checked.

    Attributes
    ----------
    description
        The parsed ``model.yaml`` of either task; `segmentation` and `classification` are the same where the task is
        known, and refuse a package of the other.
    digest_sha256
        Of ``manifest.json``; names this model version in run keys and results.
    files
        File name to bytes.  Without weights when the package was opened with ``weights=False``.
    folder
        Where it was read from; not looked at again.
    """

    description: AnyDescription
    digest_sha256: str
    files: Mapping[str, bytes]
    sha256: Mapping[str, str]
    folder: Path

    @property
    def reference(self) -> str:
        """``name@version``."""
        return self.description.reference

    @property
    def segmentation(self) -> Description:
        """The description, for code that wants a mask.

        Raises
        ------
        Refused
            ``validation``, when the package is a classifier.
        """
        return segmentation_of(self.description)

    @property
    def classification(self) -> Classification:
        """The description, for code that wants a statement about a picture.

        Raises
        ------
        Refused
            ``validation``, when the package answers with a mask.
        """
        if not isinstance(self.description, Classification):
            raise _other_task(self.description, Task.CLASSIFICATION)
        return self.description

    def json(self, name: str) -> Any:
        """Parse one of the package's JSON files from its checked bytes."""
        try:
            return json.loads(self.files[name])
        except KeyError:
            raise Refused(RefusalCode.MODEL_UNTRUSTED, expected=f"a file {name}", found="none") from None
        except (ValueError, RecursionError):
            raise Refused(RefusalCode.MODEL_UNTRUSTED, expected=f"JSON in {name}", found="something else") from None


def segmentation_of(description: AnyDescription) -> Description:
    """The description as a segmentation's.

    Raises
    ------
    Refused
        ``validation``, when it is a classifier's.
    """
    if not isinstance(description, Description):
        raise _other_task(description, Task.SEGMENTATION)
    return description


def _other_task(description: AnyDescription, wanted: Task) -> Refused:
    return Refused(
        RefusalCode.VALIDATION,
        expected=f"a model whose task is {wanted}",
        found=f"{description.reference}, whose task is {description.task}",
    )


def canonical_json(value: Any) -> bytes:
    """The one spelling whose digest counts: sorted keys, no blanks, UTF-8, a final line feed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def load_package(folder: Path, *, pinned_sha256: str | None = None, weights: bool = True) -> ModelPackage:
    """Open a package after checking every byte of it against its manifest.

    Parameters
    ----------
    folder
        The package's own folder, usually from `find_package`.
    pinned_sha256
        The model digest that is expected, e.g. from the configuration.
    weights
        False keeps the weights out of memory; they are hashed all the same.

    Raises
    ------
    Refused
        ``model-untrusted`` (a file that the manifest does not name, a link, a folder, a description that is not valid)
        or ``model-hash-mismatch`` (other bytes than named, another digest than pinned).
    """
    present = _listing(folder)
    if MANIFEST not in present:
        raise Refused(RefusalCode.MODEL_UNTRUSTED, expected=f"a sealed package with {MANIFEST}", found="none")
    data = _read(folder / MANIFEST, MAX_MANIFEST_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if pinned_sha256 is not None and digest != pinned_sha256:
        raise Refused(RefusalCode.MODEL_HASH_MISMATCH, expected=f"digest {pinned_sha256}", found=f"digest {digest}")
    named = _manifest_files(data)
    strangers = sorted(present - set(named) - {MANIFEST})
    if strangers:
        raise Refused(RefusalCode.MODEL_UNTRUSTED, expected="only files of the manifest", found=_some(strangers))
    files: dict[str, bytes] = {}
    for name, (sha256, size) in named.items():
        keep = weights or not name.endswith(".safetensors")
        content = _checked(folder, name, sha256, size, present=name in present, keep=keep)
        if content is not None:
            files[name] = content
    description = _description(files, json.loads(data))
    missing = sorted(set(_needed(description)) - set(named))
    if missing:
        raise Refused(RefusalCode.MODEL_UNTRUSTED, expected=f"files {_some(missing)}", found="not in the manifest")
    hashes = MappingProxyType({name: sha256 for name, (sha256, _) in named.items()})
    return ModelPackage(description, digest, MappingProxyType(files), hashes, folder)


def find_package(root: Path, reference: str) -> Path:
    """The folder of ``name@version``, or of the newest version of ``name``.

    Names are compared with what the folder list holds; nothing from `reference` becomes part of a path.

    Raises
    ------
    Refused
        ``validation`` when there is no such model.
    """
    if not root.is_dir():
        raise Refused(RefusalCode.VALIDATION, expected="a folder of model packages", found="no such folder")
    name, _, version = reference.partition("@")
    found = [entry for entry in list_packages(root) if entry[0] == name and version in ("", entry[1])]
    if not found:
        known = sorted({entry[0] for entry in list_packages(root)})
        raise Refused(RefusalCode.VALIDATION, expected=f"a model among: {_some(known)}", found="no such model")
    return max(found, key=lambda entry: version_order(entry[1]))[2]


def list_packages(root: Path) -> list[tuple[str, str, Path]]:
    """Name, version and folder of everything under `root` that looks like a package, sorted; nothing is opened."""
    found: list[tuple[str, str, Path]] = []
    for model in _folders(root):
        for version in _folders(model):
            try:
                version_order(version.name)
            except ValueError:
                continue
            if (version / MANIFEST).is_file():
                found.append((model.name, version.name, version))
    return sorted(found, key=lambda entry: (entry[0], version_order(entry[1])))


def seal_package(folder: Path) -> str:
    """Write ``manifest.json`` for the files that are there, after checking ``model.yaml``.

    Returns
    -------
    The model digest.

    Raises
    ------
    DescriptionError
        If ``model.yaml`` is missing or not valid, or a file it names is missing.
    """
    names = sorted(_listing(folder) - {MANIFEST})
    if DESCRIPTION not in names:
        raise DescriptionError(f"{DESCRIPTION} expected, none found")
    description = parse_description(_read(folder / DESCRIPTION, MAX_FILE_BYTES))
    missing = sorted(set(_needed(description)) - set(names))
    if missing:
        raise DescriptionError(f"{DESCRIPTION} needs files that are not there: {_some(missing)}")
    files = {}
    for name in names:
        data = _read(folder / name, MAX_FILE_BYTES)
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    manifest = canonical_json({"files": files, "format": 1, "name": description.name, "version": description.version})
    partial = folder.parent / f".{folder.name}.{MANIFEST}.part"
    partial.write_bytes(manifest)
    os.replace(partial, folder / MANIFEST)
    return hashlib.sha256(manifest).hexdigest()


def _needed(description: AnyDescription) -> list[str]:
    names = [DESCRIPTION, *description.weights]
    if isinstance(description, Classification):
        precision = description.network.precision
        names += [description.quality.file] if description.quality.file else []
    else:
        precision = description.inference.precision
        names += [NETWORK] if description.runner == "keras" else ["plans.json", "dataset.json"]
    if precision.cpu == "int8":
        names += [GATE, *INT8]
    if description.self_test is not None:
        names.append(description.self_test.file)
    return names


def _description(files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> AnyDescription:
    if DESCRIPTION not in files:
        raise Refused(RefusalCode.MODEL_UNTRUSTED, expected=f"a file {DESCRIPTION}", found="none")
    try:
        description = parse_description(files[DESCRIPTION])
    except DescriptionError as error:
        raise Refused(RefusalCode.MODEL_UNTRUSTED, expected="a valid description", found=str(error)[:1000]) from error
    if (manifest["name"], manifest["version"]) != (description.name, description.version):
        raise Refused(
            RefusalCode.MODEL_UNTRUSTED,
            expected=f"{description.reference} in the manifest",
            found="another name or version",
        )
    return description


def _manifest_files(data: bytes) -> dict[str, tuple[str, int]]:
    try:
        manifest = json.loads(data)
        if data != canonical_json(manifest) or set(manifest) != {"files", "format", "name", "version"}:
            raise ValueError("not canonical")
        if manifest["format"] != 1 or len(manifest["files"]) > MAX_FILES:
            raise ValueError("format")
        named = {}
        for name, entry in manifest["files"].items():
            if set(entry) != {"sha256", "size_bytes"} or len(bytes.fromhex(entry["sha256"])) != 32:
                raise ValueError("entry")
            named[name] = (str(entry["sha256"]), int(entry["size_bytes"]))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise Refused(
            RefusalCode.MODEL_UNTRUSTED, expected=f"a canonical {MANIFEST}, format 1", found="something else"
        ) from error
    return named


def _checked(folder: Path, name: str, sha256: str, size: int, *, present: bool, keep: bool) -> bytes | None:
    if not present:
        raise Refused(RefusalCode.MODEL_HASH_MISMATCH, expected=f"file {name}", found="none")
    if keep:
        data = _read(folder / name, MAX_FILE_BYTES)
        found = hashlib.sha256(data).hexdigest()
        length = len(data)
    else:
        data = None
        found, length = _hash_file(folder / name)
    if length != size or found != sha256:
        raise Refused(
            RefusalCode.MODEL_HASH_MISMATCH,
            expected=f"{name} with {size} bytes, sha256 {sha256}",
            found=f"{length} bytes, sha256 {found}",
        )
    return data


def _listing(folder: Path) -> set[str]:
    """Names of the plain files in a folder; anything else in it is refused."""
    names: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):
                    raise Refused(
                        RefusalCode.MODEL_UNTRUSTED, expected="plain files only", found="a link, folder or device"
                    )
                names.add(entry.name)
                if len(names) > MAX_FILES + 1:
                    raise Refused(RefusalCode.MODEL_UNTRUSTED, expected=f"at most {MAX_FILES} files", found="more")
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(RefusalCode.MODEL_UNTRUSTED, expected="a package folder", found="no such folder") from None
    return names


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused(RefusalCode.MODEL_UNTRUSTED, expected="plain files only", found="a link, folder or device")
    return descriptor


def _read(path: Path, limit: int) -> bytes:
    with os.fdopen(_open(path), "rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise Refused(RefusalCode.MODEL_UNTRUSTED, expected=f"at most {limit} bytes in a file", found="more")
    return data


def _hash_file(path: Path) -> tuple[str, int]:
    with os.fdopen(_open(path), "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return digest.hexdigest(), stream.tell()


def _some(names: list[str]) -> str:
    return ", ".join(name[:64] for name in names[:12]) or "none"
