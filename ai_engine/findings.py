"""What a run says: the vocabulary that results, FHIR and pages all speak.

A model's answer becomes `Findings`: regions with measurements, or image-level observations, or neither ("no region
above threshold", which is a statement too).  Codes are standard ones where a standard has one (PS3.3 section 8).
Numbers are stored unrounded; rounding happens once, where they are rendered.

numpy-free on purpose: a findings file is JSON and can be read by anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = "1"


@dataclass(frozen=True)
class Code:
    """A coded concept: value, scheme designator, meaning (PS3.3 8.1 to 8.3)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class ModelIdentity:
    """Which model spoke: name, version, digest of its package, and how it was run."""

    name: str
    version: str
    digest_sha256: str
    title: str
    framework: str
    backend: str
    """openvino, torch or tensorflow."""
    device: str
    """CPU or CUDA:0 and the like."""
    precision: str
    """As read back from the compiled network: f32, bf16, f16, int8."""
    settings: tuple[tuple[str, str], ...] = ()
    """Step, mirroring and the like, as key and value; part of the settings digest."""
    manufacturer: str = "dicom-ai-node"
    intended_use: str = ""
    licence: str = ""
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    """Language -> what the package says in English -> the same in that language."""


@dataclass(frozen=True)
class Measurement:
    """One number about a region or an image."""

    key: str
    """Stable name in our own interfaces: volume, long_axis, short_axis, diameter_3d, mean, sd, ratio, probability."""
    name: Code
    value: float
    unit: Code
    """UCUM, e.g. Code('cm3', 'UCUM', 'cubic centimeter')."""
    method: Code | None = None
    derivation: Code | None = None
    """(121401, DCM, Derivation), e.g. mean or standard deviation."""
    note: str = ""


@dataclass(frozen=True)
class Region:
    """One segmented structure, or a composite of several.

    `label` is the value in the mask; a composite has none and lists its parts in `composite_of`.
    """

    key: str
    """Stable region key, e.g. flair_abnormality; part of the tracking UID, so never reworded."""
    name: str
    """Segment Label: at most 64 characters; the same words in SEG, SR, PDF and report."""
    abbreviation: str
    category: Code
    type: Code
    site: Code
    color_cielab: tuple[int, int, int]
    """As stored in (0062,000D): 0..65535 each."""
    color_rgb: tuple[int, int, int]
    voxels: int
    percent: float
    """Share of all labelled voxels, 0..100."""
    label: int | None = None
    composite_of: tuple[int, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    confidence: float | None = None
    """Mean softmax inside the mask.  Not a probability of disease."""
    components: int = 0
    removed: tuple[str, ...] = ()
    """What post-processing took away, in words with numbers."""

    @property
    def present(self) -> bool:
        return self.voxels > 0

    def measure(self, key: str) -> Measurement | None:
        """The measurement with this key, if there is one."""
        return next((m for m in self.measurements if m.key == key), None)


@dataclass(frozen=True)
class Observation:
    """An image-level statement, e.g. a model-estimated probability with its operating point."""

    key: str
    name: Code
    finding: Code
    site: Code
    measurements: tuple[Measurement, ...]
    category: Code | None = None
    """At or above / below operating point."""
    threshold: float | None = None


@dataclass(frozen=True)
class Findings:
    """Everything one run says about one case.

    An empty `regions`, or regions that are all absent, means "ran, no region above threshold".  It never means
    "normal", and it cannot be built by a run that refused or failed.
    """

    model: ModelIdentity
    regions: tuple[Region, ...] = ()
    observations: tuple[Observation, ...] = ()
    notes: tuple[str, ...] = ()
    """Limits and input warnings a reader must see."""
    timings_s: tuple[tuple[str, float], ...] = ()
    """Stage and seconds.  Not part of anything that must be repeatable."""
    schema_version: str = field(default=SCHEMA_VERSION)

    @property
    def has_region(self) -> bool:
        return any(region.present for region in self.regions)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `findings_from_json` is the inverse."""
        return dataclasses.asdict(self)


def _code(value: dict[str, str] | None) -> Code | None:
    return None if value is None else Code(**value)


def _measurement(value: dict[str, Any]) -> Measurement:
    return Measurement(
        key=value["key"],
        name=Code(**value["name"]),
        value=float(value["value"]),
        unit=Code(**value["unit"]),
        method=_code(value["method"]),
        derivation=_code(value["derivation"]),
        note=value["note"],
    )


def _region(value: dict[str, Any]) -> Region:
    plain = dict(value)
    for name in ("category", "type", "site"):
        plain[name] = Code(**value[name])
    for name in ("color_cielab", "color_rgb", "composite_of", "removed"):
        plain[name] = tuple(value[name])
    plain["measurements"] = tuple(_measurement(m) for m in value["measurements"])
    return Region(**plain)


def _observation(value: dict[str, Any]) -> Observation:
    plain = dict(value)
    for name in ("name", "finding", "site"):
        plain[name] = Code(**value[name])
    plain["category"] = _code(value["category"])
    plain["measurements"] = tuple(_measurement(m) for m in value["measurements"])
    return Observation(**plain)


def findings_from_json(value: dict[str, Any]) -> Findings:
    """Read what `Findings.to_json` wrote.

    Raises
    ------
    ValueError
        If the schema version is another one.
    KeyError, TypeError
        If a field is missing or unknown.
    """
    if value["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"findings schema {SCHEMA_VERSION} expected, found {value['schema_version']!r}")
    model = dict(value["model"])
    model["settings"] = tuple((str(k), str(v)) for k, v in model["settings"])
    return Findings(
        model=ModelIdentity(**model),
        regions=tuple(_region(r) for r in value["regions"]),
        observations=tuple(_observation(o) for o in value["observations"]),
        notes=tuple(value["notes"]),
        timings_s=tuple((str(k), float(v)) for k, v in value["timings_s"]),
        schema_version=value["schema_version"],
    )
