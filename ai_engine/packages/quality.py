"""What a classifier's package says about pictures that it does not answer."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ai_engine.packages.common import FileName, Strict

Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(ge=0, le=255)]


class Limits(Strict):
    """From where on a picture is refused; the measures are those of `ai_engine.quality.measures`.

    The defaults were chosen on the dermoscopy pictures of the training split, so that each refuses a few in a thousand.
    ``python -m ai_engine.quality.measure`` says what they do.
    """

    shorter_side: Annotated[int, Field(ge=32, le=4096)] = 200
    """Pixels."""
    elongation: Annotated[float, Field(ge=1, le=10)] = 2.2
    """Longer side by shorter side, at most."""
    view: Share = 0.3
    """Share of the picture that is not black frame, at least."""
    brightness: tuple[Level, Level] = (85.0, 242.0)
    """Median of the view.  With half the light the shipped networks lose most of what they know, so a dark picture is
    refused even though that may be dark skin, of which the data hold hardly any."""
    contrast: Level = 20.0
    glare: Share = 0.5
    """Share of the view that is burnt out, at most: pale skin around a lesion often is, the lesion still being seen."""
    colour: Annotated[float, Field(ge=0, le=5)] = 0.09
    """Distance from grey, at least."""
    skin: Share = 0.3
    """Share in colours that skin and lesions take, at least."""
    flatness: Share = 0.3
    """Share without any grain, at most."""
    detail: tuple[Level, Level] = (0.45, 13.0)
    """Grain: print and noise have more, what is blurred beyond all measure has less."""
    sharpness: float = -1.75
    """At least."""
    lesion: Annotated[float, Field(ge=0, le=100)] = 4.0
    """CIELAB distance of a lesion from its surround, at least."""
    dermoscopic: float = 0.0
    """How much more a picture must look like dermoscopy than like anything else, in log odds; with `Quality.file`."""
    strangeness: Annotated[float, Field(gt=0)] = 1.0
    """How far the features may lie from those of dermoscopy, in units of what 995 of 1,000 stay
    below there; with `Quality.file`."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.brightness[0] >= self.brightness[1] or self.detail[0] >= self.detail[1]:
            raise ValueError("brightness, detail: the lower limit comes first")
        return self


class Quality(Strict):
    """Which pictures are answered.  The gate itself is `ai_engine.quality`."""

    accepts: Annotated[tuple[Literal["dermoscopic", "plain"], ...], Field(min_length=1)] = ("dermoscopic",)
    """Kinds of photograph the model was trained and measured on."""
    file: FileName | None = None
    """safetensors with the linear model on the classifier's pooled features that tells the kinds apart; None: kinds are
    as declared, and only measures of the picture itself are taken."""
    limits: Limits = Limits()
