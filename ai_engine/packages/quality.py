"""What a classifier's package says about pictures that it does not answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ai_engine.packages.common import FileName, Strict


class Quality(Strict):
    """Which pictures are answered.  The gate itself is `ai_engine.quality`."""

    accepts: Annotated[tuple[Literal["dermoscopic", "plain"], ...], Field(min_length=1)] = ("dermoscopic",)
    """Kinds of photograph the model was trained and measured on."""
    file: FileName | None = None
    """safetensors with the linear model on the classifier's pooled features that tells the kinds apart; None: kinds are
    as declared, and only measures of the picture itself are taken."""
