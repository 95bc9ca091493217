"""A site's own thresholds and calibration for a classifier: one file beside the package, never inside it.

``ai-node calibrate`` writes it; the engine reads it when it opens the package, applies it to the description, and puts
its digest into the model's settings, so that it stands in every result and in the key of every run.

Guaranteed: an override names the one model digest it was measured with and outputs that exist there; everything else of
the package stays as its author sealed it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ai_engine.packages.classification import Calibration, Classification, OperatingPoint
from ai_engine.packages.common import KEY, NAME, VERSION, DescriptionError, Strict

MAX_SITE_BYTES = 64 * 1024


class SiteOutput(Strict):
    """What replaces an output's threshold and calibration."""

    threshold: Annotated[float, Field(gt=0, lt=1)]
    calibration: Calibration | None = None
    """None keeps the package's."""
    operating_point: OperatingPoint


class SiteOverride(Strict):
    """The whole file."""

    format: Literal[1]
    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=VERSION)]
    digest_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the package it was measured with."""
    outputs: Annotated[dict[Annotated[str, Field(pattern=KEY)], SiteOutput], Field(min_length=1)]
    population: Annotated[str, Field(min_length=1, max_length=300)]
    """The site's pictures, in words, without anything about a patient."""


def read_override(path: Path) -> tuple[SiteOverride, str]:
    """Read an override; it, and the sha256 of its bytes.

    Raises
    ------
    DescriptionError
        If the file is not there, too large or not an override.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SITE_BYTES + 1)
    except OSError as error:
        raise DescriptionError(f"the site's override cannot be read: {error.strerror}") from error
    if len(data) > MAX_SITE_BYTES:
        raise DescriptionError(f"the site's override: at most {MAX_SITE_BYTES} bytes expected")
    try:
        override = SiteOverride.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DescriptionError(f"the site's override: {where}: {first['msg']}") from error
    return override, hashlib.sha256(data).hexdigest()


def write_override(override: SiteOverride, path: Path) -> str:
    """Write an override as JSON; the sha256 of its bytes."""
    data = json.dumps(override.model_dump(mode="json", exclude_none=True), indent=1).encode() + b"\n"
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(data)
    unfinished.replace(path)
    return hashlib.sha256(data).hexdigest()


def with_override(description: Classification, digest_sha256: str, override: SiteOverride) -> Classification:
    """The description with the site's thresholds and calibrations in place of its own.

    Parameters
    ----------
    digest_sha256
        Of the package that `description` comes from.

    Raises
    ------
    DescriptionError
        If the override was made for another package, or names an output that is not there.
    """
    if (override.name, override.digest_sha256) != (description.name, digest_sha256):
        raise DescriptionError(
            f"the site's override was measured with {override.name}@{override.version} "
            f"({override.digest_sha256[:12]}), not with {description.reference} ({digest_sha256[:12]}): "
            "run `ai-node calibrate` again"
        )
    strange = sorted(set(override.outputs) - {output.key for output in description.outputs})
    if strange:
        raise DescriptionError(f"the site's override names an output that the model has not: {strange[0]}")
    outputs = []
    for output in description.outputs:
        own = override.outputs.get(output.key)
        if own is None:
            outputs.append(output)
            continue
        changed = {"threshold": own.threshold, "operating_point": own.operating_point}
        if own.calibration is not None:
            changed["calibration"] = own.calibration
        outputs.append(output.model_copy(update=changed))
    return description.model_copy(update={"outputs": tuple(outputs)})
