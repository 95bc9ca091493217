"""What the ``model.yaml`` of a classifier says: one picture in, statements about the whole picture out.

Like a segmentation's description it is configuration, never code: architecture, resizing, test-time views, calibration
and the layer of the heat map are names from closed lists.

Guaranteed: outputs have different keys, a calibration has the numbers its method needs, a probability is only called so
where it is calibrated.  Not guaranteed: that weights fit the architecture; the runner checks that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ai_engine.packages.common import (
    KEY,
    CodeEntry,
    FileName,
    Measured,
    PackageDescription,
    Precisions,
    Strict,
    Task,
    all_different,
)
from ai_engine.packages.quality import Quality

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
View = Literal["identity", "flip_lr", "flip_ud", "rot90", "rot180", "rot270", "transpose", "transverse"]
"""A picture as it is, mirrored left to right or upside down, turned anticlockwise, or mirrored at a diagonal."""


class PictureInput(Strict):
    """The picture that a classifier reads."""

    role: Annotated[str, Field(pattern=KEY)]
    modality: Annotated[tuple[str, ...], Field(min_length=1)]
    """Modality (0008,0060) of the objects it accepts."""


class Network(Strict):
    """The network, and what is done to a picture before it."""

    architecture: Literal["efficientnetv2_b0", "efficientnet_b1"]
    size: tuple[Annotated[int, Field(ge=32, le=1024)], Annotated[int, Field(ge=32, le=1024)]]
    """Rows and columns of the network's input."""
    resize: Literal["squash", "crop", "pad"] = "squash"
    """``squash``: both sides to `size`, proportions given up; ``crop``: shorter side to `size`, middle kept; ``pad``:
    longer side to `size`, the rest filled with the mean."""
    mean: tuple[float, float, float]
    """Of red, green and blue on a scale of 0 to 1; subtracted."""
    std: tuple[Positive, Positive, Positive]
    views: Annotated[tuple[View, ...], Field(min_length=1)] = ("identity",)
    """Test-time views; their logits are averaged."""
    batch: Annotated[int, Field(ge=1, le=64)] = 8
    """Pictures per call of the network when several wait."""
    precision: Precisions = Precisions()

    @field_validator("views")
    @classmethod
    def _different_views(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        all_different("views", list(value))
        return value


class Calibration(Strict):
    """How a logit becomes a probability, and on whom that was measured.

    ``none``: the sigmoid of the logit, which is called a score and never shown in per cent.  ``temperature``: sigmoid
    of logit / temperature.  ``platt``: sigmoid of scale * logit + offset.  ``isotonic``: the sigmoid of the logit sent
    through the piecewise linear curve of `points`, clamped at its ends.
    """

    method: Literal["none", "temperature", "platt", "isotonic"] = "none"
    temperature: Positive | None = None
    scale: Positive | None = None
    offset: float | None = None
    points: tuple[tuple[Share, Share], ...] = ()
    """(score, probability), both rising."""
    population: str = ""
    """The pictures it was fitted on, in words."""

    @model_validator(mode="after")
    def _has_its_numbers(self) -> Self:
        given = {
            name
            for name, is_given in {
                "temperature": self.temperature is not None,
                "scale": self.scale is not None,
                "offset": self.offset is not None,
                "points": bool(self.points),
            }.items()
            if is_given
        }
        wanted = {"none": set(), "temperature": {"temperature"}, "platt": {"scale", "offset"}, "isotonic": {"points"}}
        if given != wanted[self.method]:
            raise ValueError(f"method {self.method} goes with {sorted(wanted[self.method]) or 'no numbers'}")
        if self.method != "none" and not self.population:
            raise ValueError("a calibration states its population")
        if self.points:
            scores = [score for score, _ in self.points]
            answers = [answer for _, answer in self.points]
            if len(scores) < 2 or sorted(set(scores)) != scores or sorted(answers) != answers:
                raise ValueError("points: two or more, scores strictly rising, probabilities not falling")
        return self

    def probability(self, logit: float) -> float:
        """What a logit stands for, 0 to 1."""
        if self.method == "temperature" and self.temperature is not None:
            return _sigmoid(logit / self.temperature)
        if self.method == "platt" and self.scale is not None and self.offset is not None:
            return _sigmoid(self.scale * logit + self.offset)
        score = _sigmoid(logit)
        if self.method == "none":
            return score
        before = self.points[0]
        if score <= before[0]:
            return before[1]
        for after in self.points[1:]:
            if score <= after[0]:
                return before[1] + (after[1] - before[1]) * (score - before[0]) / (after[0] - before[0])
            before = after
        return before[1]


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


class OperatingPoint(Strict):
    """What the threshold was measured to do."""

    sensitivity: Share
    specificity: Share
    sensitivity_ci95: tuple[Share, Share] | None = None
    specificity_ci95: tuple[Share, Share] | None = None
    n: Annotated[int, Field(ge=1)]
    data: Annotated[str, Field(min_length=1)]


class Output(Strict):
    """One head of the network: what it says, and from where on it counts.

    `threshold` is on the scale of the calibrated probability (or of the score, where nothing is calibrated).
    """

    key: Annotated[str, Field(pattern=KEY)]
    """Stable for ever: tracking UIDs and FHIR identifiers derive from it."""
    code: CodeEntry
    """The concept of the number: a private one, e.g. (AI-MAL-PROB, 99AINODE, Model-estimated probability of
    malignancy); never a diagnosis."""
    finding: CodeEntry
    """What is looked at, e.g. (52988006, SCT, Lesion)."""
    threshold: Annotated[float, Field(gt=0, lt=1)]
    calibration: Calibration = Calibration()
    within: Annotated[str, Field(pattern=KEY)] | None = None
    """Key of an output above it that this one implies, as melanoma implies malignant: never said to be likelier."""
    operating_point: OperatingPoint | None = None
    meaning: str = ""
    """One sentence for the page: what the number is about, in plain words."""


class HeatMap(Strict):
    """Where the network looked: a class activation map of one output."""

    layer: Literal["features"] = "features"
    """The last feature map, in front of the pooling."""
    output: Annotated[str, Field(pattern=KEY)]


class OutputMetric(Measured):
    """One measured number about an output."""

    output: str = ""
    group: str = ""
    """The subgroup it was measured on, e.g. ``sex: female`` or ``source: isic2017``; empty: all."""


class PictureSelfTest(Strict):
    """A stored picture with its stored answer, run by ``ai-node models verify --run`` and at start.

    `file` is a safetensors file with ``pixels`` (rows, columns, 3) uint8.
    """

    file: FileName
    logits: dict[Annotated[str, Field(pattern=KEY)], float]
    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.05


class Classification(PackageDescription):
    """The whole ``model.yaml`` of a model that says something about a picture."""

    task: Literal[Task.CLASSIFICATION]
    runner: Literal["classifier"]
    inputs: Annotated[tuple[PictureInput, ...], Field(min_length=1, max_length=1)]
    network: Network
    outputs: Annotated[tuple[Output, ...], Field(min_length=1, max_length=16)]
    """In the order of the network's heads; the first decides."""
    heat_map: HeatMap | None = None
    quality: Quality
    self_test: PictureSelfTest | None = None
    metrics: tuple[OutputMetric, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        keys = [output.key for output in self.outputs]
        all_different("outputs", keys)
        if self.heat_map is not None and self.heat_map.output not in keys:
            raise ValueError("heat_map: output is none of outputs")
        if self.self_test is not None and set(self.self_test.logits) != set(keys):
            raise ValueError("self_test: logits name every output")
        for number, output in enumerate(self.outputs):
            if output.within is not None and output.within not in keys[:number]:
                raise ValueError(f"outputs: {output.key} is within an output that stands above it")
        if any(metric.output not in ("", *keys) for metric in self.metrics):
            raise ValueError("metrics: output is none of outputs")
        return self

    def _names(self) -> tuple[str, ...]:
        return tuple(output.meaning for output in self.outputs if output.meaning)

    @property
    def accepted_roles(self) -> tuple[tuple[str, ...], ...]:
        """The one role set: the picture."""
        return ((self.inputs[0].role,),)

    def probabilities(self, logits: Mapping[str, float]) -> dict[str, float]:
        """What the logits of one picture stand for, by output, 0 to 1; what implies another is never likelier."""
        found: dict[str, float] = {}
        for output in self.outputs:
            value = output.calibration.probability(float(logits[output.key]))
            found[output.key] = value if output.within is None else min(value, found[output.within])
        return found

    @property
    def deciding(self) -> Output:
        """The output by whose threshold a result is read."""
        return self.outputs[0]
