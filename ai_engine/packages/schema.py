"""What a ``model.yaml`` may say: one typed tree, unknown keys refused.

A package is configuration, never code: everything it can choose (runner, intensity preprocessing, measurements,
post-processing) is a name from a closed list in this repository, so nothing named in a file is imported.  The reference
for authors is ``docs/reference/model-package.md``.

Guaranteed: a `Description` that exists is complete and consistent (labels unique, composites made of labels that exist,
limits in order).  Not guaranteed: that the weights fit it; the runner checks that when it builds the network.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ai_engine.packages.classification import Classification
from ai_engine.packages.colour import cielab_from_rgb
from ai_engine.packages.common import (
    KEY,
    NAME,
    VERSION,
    CodeEntry,
    DescriptionError,
    FileName,
    Measured,
    PackageDescription,
    Patient,
    Precisions,
    Range,
    Strict,
    Task,
    Window,
    all_different,
)

__all__ = [
    "MAX_YAML_BYTES",
    "NAME",
    "VERSION",
    "AnyDescription",
    "Composite",
    "Description",
    "DescriptionError",
    "Input",
    "Label",
    "MeasurementName",
    "Patient",
    "Postprocessing",
    "Preparation",
    "StudyPreparation",
    "Task",
    "Threshold",
    "is_name",
    "parse_description",
    "parse_tree",
    "version_order",
]

MAX_YAML_BYTES = 256 * 1024
"""A description is a page of text; more is not one."""


class MeasurementName(StrEnum):
    """What `ai_engine.measure` can measure about a region."""

    VOLUME = "volume"
    LONG_AXIS = "long_axis"
    SHORT_AXIS = "short_axis"
    DIAMETER_3D = "diameter_3d"
    MEAN = "mean"
    SD = "sd"


PatchSize = Annotated[int, Field(ge=8, le=512)]
Millimetres = Annotated[float, Field(gt=0, le=20)]
Rgb = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]
Lab = tuple[
    Annotated[int, Field(ge=0, le=65535)], Annotated[int, Field(ge=0, le=65535)], Annotated[int, Field(ge=0, le=65535)]
]


class Input(Strict):
    """One input channel: which sequence role fills it and which acquisitions it was made for.

    Limits in plane and along the slice step hold *after* the volume was turned to the package's `axes`.
    """

    role: Annotated[str, Field(pattern=KEY)]
    modality: Annotated[tuple[str, ...], Field(min_length=1)]
    spacing_in_plane_mm: Range
    slice_step_mm: Range
    min_slices: Annotated[int, Field(ge=1)]
    extent_in_plane_mm: Range | None = None
    """Smallest and largest side of a slice; outside is out-of-distribution."""
    skull: Literal["any", "native", "stripped"] = "any"
    """`native`: a brain cut out of its head is out-of-distribution; `stripped`: a head with its skull is. With `any`
    nothing is checked, so the package is measured on both and its card says how it does."""
    intensity: Literal["none", "standardise_flair"] = "none"
    """A function of `ai_engine.runners.intensity`, applied to the whole volume before all other preprocessing."""

    @field_validator("spacing_in_plane_mm", "slice_step_mm", "extent_in_plane_mm")
    @classmethod
    def _in_order(cls, value: Range | None) -> Range | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("the lower limit comes first")
        return value


class Postprocessing(Strict):
    """What is done to one label after the network, and what that was measured to do."""

    min_component_mm3: Annotated[float, Field(ge=0)] = 0.0
    """Components (26-connectivity) smaller than this are removed; 0 = off."""
    min_component_mm2: Annotated[float, Field(ge=0)] = 0.0
    """The same by area, summed over the slices that a component lies in: for models that see one slice at a time and
    whose answer must not depend on the slice step."""
    fill_holes: bool = False
    """Fill background that is enclosed by the label in its slice plane."""
    keep_largest: bool = False
    """Keep the largest component only."""
    measured_effect: str = ""
    """What switching this on changed on held-back data, in words with numbers."""

    @model_validator(mode="after")
    def _effect_is_stated(self) -> Self:
        is_on = self.min_component_mm3 > 0 or self.min_component_mm2 > 0 or self.fill_holes or self.keep_largest
        if is_on and not self.measured_effect:
            raise ValueError("post-processing that is on states its measured_effect")
        return self


class _Named(Strict):
    key: Annotated[str, Field(pattern=KEY)]
    """Stable for ever: tracking UIDs derive from it."""
    name: Annotated[str, Field(min_length=1, max_length=64)]
    abbreviation: Annotated[str, Field(min_length=1, max_length=16)]
    category: CodeEntry
    type: CodeEntry
    site: CodeEntry
    color_rgb: Rgb
    color_cielab: Lab | None = None
    """As stored in (0062,000D); computed from `color_rgb` when left out."""

    @property
    def cielab(self) -> tuple[int, int, int]:
        """The recommended display colour as DICOM stores it."""
        return self.color_cielab if self.color_cielab is not None else cielab_from_rgb(self.color_rgb)


class Label(_Named):
    """One value of the mask."""

    label: Annotated[int, Field(ge=1, le=254)]
    postprocessing: Postprocessing = Postprocessing()


class Composite(_Named):
    """A union of labels that is measured and reported, but has no segment of its own."""

    labels: Annotated[tuple[int, ...], Field(min_length=2)]


class Threshold(Strict):
    """How class scores become a label.

    ``argmax``: nnU-Net's own.  ``foreground``: a voxel is labelled where ``1 - P(background) >= value``, with the most
    probable foreground label; for softmax models only.
    """

    rule: Literal["argmax", "foreground"] = "argmax"
    value: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _value_belongs_to_rule(self) -> Self:
        if (self.rule == "foreground") != (self.value is not None):
            raise ValueError("`value` goes with rule `foreground`, and only with it")
        return self


class Inference(Strict):
    """How the network is called."""

    configuration: Annotated[str, Field(min_length=1, max_length=64)]
    """The configuration of ``plans.json``, e.g. ``2d`` or ``3d_fullres``."""
    step: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Tile step as a share of the patch (nnU-Net's tile_step_size)."""
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    """Axes of the patch that are mirrored and averaged; empty = no mirroring."""
    trained_mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = None
    """Axes that training mirrored, where `mirror_axes` names fewer: those of the accuracy gate's reference."""
    batch: Annotated[int, Field(ge=1, le=64)] = 1
    """Tiles per call of the network."""
    window: Window = "patch"
    """``box``: one window over everything that is not empty, instead of overlapping patches; ``located``: one patch
    where a look at half the resolution saw something (`ai_engine.runners.localiser`).  Both only behind the gate."""
    precision: Precisions = Precisions()


class Preparation(Strict):
    """What runner ``keras`` does to a picture before the network; ``nnunet`` has its plan for that."""

    patch: tuple[PatchSize, PatchSize, PatchSize]
    """Window in voxels along (slice, row, column)."""
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Grid that the network was trained on; None takes every grid as it is."""
    normalisation: Literal["zscore_nonzero", "zscore", "minmax", "none"] = "zscore_nonzero"
    """Per channel: mean and deviation of what is not zero (zero stays zero), or of all, or 0 to 1, or nothing."""
    crop: Literal["nonzero", "none"] = "nonzero"
    """Cut away what is zero in every channel first."""


class StudyPreparation(Strict):
    """What the engine does to a study before a model of co-registered sequences sees it (`ai_engine.preparation`)."""

    grid_mm: Annotated[float, Field(ge=0.5, le=3)] = 1.0
    """The isotropic grid that displaced or native sequences are brought to."""
    native: Literal["extract", "refuse"] = "refuse"
    """Heads with their skulls: cut the brain out, or refuse them as ``brain-not-found``."""


class Metric(Measured):
    """One measured number about a region."""

    region: str = ""
    roles: tuple[Annotated[str, Field(pattern=KEY)], ...] = ()
    """The role set it was measured with; empty: all inputs."""


class SelfTest(Strict):
    """A stored case with its stored answer, run by ``ai-node models verify --run`` and at start.

    `file` is a safetensors file with one (S, R, C) float32 tensor per role and ``affine`` (4, 4) float64, the
    `ai_engine.geometry.Affine` matrix.
    """

    file: FileName
    voxels: dict[int, Annotated[int, Field(ge=0)]]
    """Expected voxels per label."""
    tolerance_percent: Annotated[float, Field(ge=0, le=50)] = 2.0


class Description(PackageDescription):
    """The whole ``model.yaml`` of a model that answers with a mask."""

    task: Literal[Task.SEGMENTATION]
    runner: Literal["nnunet", "keras"]
    axes: Annotated[str, Field(pattern=r"^[LRAPSI]{3}$")]
    """Where slice, row and column index grow to in the model's own arrays, e.g. ``SPL``: slices to the head, rows to
    the back, columns to the patient's left, which is what a SimpleITK-read axial NIfTI looks like."""
    max_tilt_deg: Annotated[float, Field(ge=0, le=54)] = 45.0
    """Largest angle between the volume's axes and `axes`; more is orientation-unsupported."""
    inputs: Annotated[tuple[Input, ...], Field(min_length=1)]
    """In the order of the network's channels."""
    role_sets: tuple[Annotated[tuple[Annotated[str, Field(pattern=KEY)], ...], Field(min_length=1)], ...] = ()
    """Which inputs may come together, best set first; empty: all of `inputs`, always.  A network lists a set without
    some input only if it was trained and measured with that channel left out (zero everywhere): leaving out by contract
    is not faking.  Every set holds the first input, on whose grid the result lies."""
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    composites: tuple[Composite, ...] = ()
    measurements: tuple[MeasurementName, ...] = (MeasurementName.VOLUME,)
    inference: Inference
    preparation: Preparation | None = None
    """Required by runner ``keras``, and only there."""
    study_preparation: StudyPreparation | None = None
    """None: the inputs must come on one grid, as the model wants them."""
    threshold: Threshold = Threshold()
    self_test: SelfTest | None = None
    metrics: tuple[Metric, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.runner == "keras") != (self.preparation is not None):
            raise ValueError("preparation: goes with runner keras, and only with it")
        if self.inference.window == "located" and self.runner != "keras":
            raise ValueError("inference.window: located goes with runner keras, and only with it")
        all_different("inputs", [entry.role for entry in self.inputs])
        self._check_role_sets()
        all_different("labels", [str(entry.label) for entry in self.labels])
        all_different("keys", [entry.key for entry in (*self.labels, *self.composites)])
        all_different("measurements", [str(name) for name in self.measurements])
        known = {entry.label for entry in self.labels}
        for composite in self.composites:
            if not set(composite.labels) <= known or len(set(composite.labels)) != len(composite.labels):
                raise ValueError(f"composites: {composite.key} is not made of different, known labels")
        if self.self_test is not None and not set(self.self_test.voxels) <= known:
            raise ValueError("self_test: voxels names a label that does not exist")
        if sorted({"L": 0, "R": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter] for letter in self.axes) != [0, 1, 2]:
            raise ValueError("axes: one of L/R, one of A/P and one of S/I, in the order slice, row, column")
        return self

    def _check_role_sets(self) -> None:
        roles = [entry.role for entry in self.inputs]
        all_different("role_sets", ["+".join(sorted(wanted)) for wanted in self.role_sets])
        for wanted in self.role_sets:
            all_different("role_sets", list(wanted))
            if not set(wanted) <= set(roles) or roles[0] not in wanted:
                raise ValueError(f"role_sets: each is made of inputs and holds {roles[0]}, the first of them")
        measured = [*self.accepted_roles, ()]
        strange = [metric for metric in self.metrics if tuple(r for r in roles if r in metric.roles) not in measured]
        if strange or any(not set(metric.roles) <= set(roles) for metric in self.metrics):
            raise ValueError("metrics: roles names a set that is not one of role_sets")

    def _names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in (*self.labels, *self.composites))

    @property
    def accepted_roles(self) -> tuple[tuple[str, ...], ...]:
        """The sets of roles that a case may fill, best first, each in the order of `inputs`."""
        order = [entry.role for entry in self.inputs]
        return tuple(tuple(role for role in order if role in wanted) for wanted in self.role_sets or (order,))


AnyDescription = Description | Classification
"""What `parse_description` gives: `task` decides which."""


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases (a small file could grow without bound) and without repeated keys (the last would win)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise DescriptionError("model.yaml: anchors and aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise DescriptionError(f"model.yaml: key {str(key)[:64]!r} appears twice")
        return super().construct_mapping(node, deep=deep)


def parse_tree(data: bytes) -> dict[str, Any]:
    """Read YAML bytes into a tree: a mapping, without aliases and repeated keys, at most `MAX_YAML_BYTES`.

    Raises
    ------
    DescriptionError
        Otherwise.
    """
    if len(data) > MAX_YAML_BYTES:
        raise DescriptionError(f"model.yaml: at most {MAX_YAML_BYTES} bytes expected, found {len(data)}")
    try:
        tree = yaml.load(data, Loader=_PlainLoader)  # _PlainLoader is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        raise DescriptionError(f"model.yaml is not YAML{f', line {where.line + 1}' if where else ''}") from error
    if not isinstance(tree, dict):
        raise DescriptionError("model.yaml: a mapping of keys was expected")
    return tree


def parse_description(data: bytes) -> AnyDescription:
    """Read the bytes of a ``model.yaml``; its `task` says which of the two descriptions it is.

    Raises
    ------
    DescriptionError
        If it is no YAML, too large, has unknown or missing keys, or contradicts itself.
    """
    tree = parse_tree(data)
    task = tree.get("task")
    if task not in set(Task):
        raise DescriptionError(f"model.yaml: task: one of {', '.join(Task)} expected")
    kind = Classification if task == Task.CLASSIFICATION else Description
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'model.yaml'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)[:20]
        ]
        raise DescriptionError("model.yaml: " + "; ".join(lines)) from error


def version_order(version: str) -> tuple[tuple[int, ...], bool, str]:
    """Sort key of a version: numbers first, a pre-release before its release."""
    numbers, _, extra = version.partition("-")
    return tuple(int(part) for part in numbers.split(".")), not extra, extra


def is_name(text: str) -> bool:
    """Whether a text has the form of a model name."""
    return re.match(NAME, text) is not None
