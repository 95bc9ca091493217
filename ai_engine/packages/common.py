"""What every ``model.yaml`` says, whatever the model answers: who it is, for whom, how well, under which licence.

`ai_engine.packages.schema` (segmentation) and `ai_engine.packages.classification` build on it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ai_engine.faults import WrongInput
from ai_engine.findings import Code

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
VERSION = r"^\d{1,6}\.\d{1,6}\.\d{1,6}(-[0-9A-Za-z.-]{1,32})?$"
KEY = r"^[a-z][a-z0-9_]{0,62}$"
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
FileName = Annotated[str, Field(pattern=FILE_NAME)]
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class DescriptionError(WrongInput):
    """``model.yaml`` is not a valid description; the text names the keys and what was expected."""


class Task(StrEnum):
    """What the model answers: a mask, or a statement about the whole image."""

    SEGMENTATION = "segmentation"
    CLASSIFICATION = "classification"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class CodeEntry(Strict):
    """A coded concept (PS3.3 section 8): value, scheme designator, meaning."""

    value: Annotated[str, Field(min_length=1, max_length=16)]
    scheme: Annotated[str, Field(min_length=1, max_length=16)]
    meaning: Annotated[str, Field(min_length=1, max_length=64)]

    def code(self) -> Code:
        """The same as the ground's `Code`."""
        return Code(self.value, self.scheme, self.meaning)


class Patient(Strict):
    """Whom the model was made for.  What the images do not say is not refused; what they say and is outside, is."""

    age_years: Range | None = None
    body_parts: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")], ...] = ()
    """Body Part Examined (0018,0015), e.g. BRAIN, HEAD; empty: any."""


class Measured(Strict):
    """One measured number, with its interval and what it was measured on."""

    name: Annotated[str, Field(min_length=1)]
    value: float
    ci95: tuple[float, float] | None = None
    n: Annotated[int, Field(ge=1)]
    data: Annotated[str, Field(min_length=1)]


Window = Literal["patch", "box", "located"]
"""How a network's windows are laid: overlapping patches, one over everything, or one where a look saw something."""


class Precisions(Strict):
    """The arithmetic asked of each device.  What was really used is read back and stands in every result."""

    cpu: Literal["f32", "bf16", "int8"] = "f32"
    """``int8`` needs ``int8.xml`` and ``int8.bin`` in the package and a passed accuracy gate (``gate.json``)."""
    cuda: Literal["f32", "f16", "bf16"] = "f16"


class PackageDescription(Strict):
    """What a ``model.yaml`` says about any model."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=VERSION)]
    title: Annotated[str, Field(min_length=1, max_length=64)]
    framework: Annotated[str, Field(min_length=1, max_length=64)]
    """What made the weights, e.g. ``nnunetv2 2.8.1``."""
    patient: Patient = Patient()
    weights: Annotated[tuple[FileName, ...], Field(min_length=1)]
    """safetensors files; several are folds, whose logits are averaged as nnU-Net does."""
    intended_use: Annotated[str, Field(min_length=1)]
    limits: Annotated[tuple[str, ...], Field(min_length=1)]
    training_data: Annotated[str, Field(min_length=1)]
    licence: Annotated[str, Field(min_length=1)]
    words: dict[Annotated[str, Field(pattern="^es$")], dict[str, Annotated[str, Field(min_length=1)]]] = {}
    """Language -> every one of `texts` -> the same in that language; people who read it are told so."""

    @model_validator(mode="after")
    def _words_are_whole(self) -> Self:
        for language, known in self.words.items():
            missing, strange = set(self.texts) - set(known), set(known) - set(self.texts)
            if missing or strange:
                told = "lacks" if missing else "has, and the package does not say,"
                raise ValueError(f"words.{language} {told}: {min(missing or strange)[:120]}")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """What the package says to people, in English."""
        return tuple(dict.fromkeys((self.title, self.intended_use, *self.limits, *self._names())))

    def _names(self) -> tuple[str, ...]:
        return ()

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


def all_different(what: str, values: list[str]) -> None:
    """Raise where a value of a list that names things stands in it twice.

    Raises
    ------
    ValueError
        Naming `what` and the values.
    """
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{what}: {', '.join(twice)} appears more than once")
