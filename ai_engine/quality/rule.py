"""What a package says about pictures it does not answer, opened: limits, kinds accepted, the model of kinds.

The model of kinds is small and in closed form.  Features of the package's own network are standardised by what is usual
for dermoscopy; then two questions are asked.  *Which kind?* One linear score per kind, as in linear discriminant
analysis with the covariance of dermoscopy.  *How strange?* The length of what the main directions of dermoscopy do not
explain, and the Mahalanobis distance along them, both in units of what 995 of 1,000 dermoscopy pictures stay below:
this one needs no example of what else there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_engine.packages import ModelPackage
from ai_engine.packages.quality import Limits
from ai_engine.quality.measures import Measures
from dicom_node.refusals import RefusalCode, Refused

Floats = npt.NDArray[np.float32]

DERMOSCOPIC, PLAIN, BARE_SKIN, UNRELATED = "dermoscopic", "plain", "bare-skin", "unrelated"
KIND_NAMES = (DERMOSCOPIC, PLAIN, BARE_SKIN, UNRELATED)
"""In the order of the linear scores."""
MEASURED = ("sharpness", "detail", "flatness", "colour", "skin", "lesion", "contrast", "brightness")
"""Measures of the picture that the linear scores see beside the features."""
FEATURES = 1280
"""Pooled features of both architectures."""
TENSORS = ("middle", "spread", "directions", "lengths", "usual", "weight", "bias")


@dataclass(frozen=True, eq=False)
class KindModel:
    """Tells kinds of pictures apart by the pooled features of one network.

    Attributes
    ----------
    middle, spread
        (F,) mean and deviation on dermoscopy; F is the features and then `MEASURED`.
    directions, lengths
        (K, F) main directions of standardised dermoscopy, (K,) deviation along them.
    usual
        (2,) what 995 of 1,000 dermoscopy pictures stay below: unexplained length, Mahalanobis distance.
    weight, bias
        (4, F), (4,) of the linear scores, in the order of `KIND_NAMES`.
    """

    middle: Floats
    spread: Floats
    directions: Floats
    lengths: Floats
    usual: Floats
    weight: Floats
    bias: Floats

    def scores(self, features: Floats, measures: Measures) -> dict[str, float]:
        """Strangeness, and log odds of dermoscopy against every other kind."""
        row = np.concatenate([features, measured_row(measures)])
        scores, strangeness = self.many(row[None])
        log_odds = {
            f"dermoscopic_against_{name}": float(scores[0, 0] - scores[0, index])
            for index, name in enumerate(KIND_NAMES)
            if index
        }
        return {"strangeness": float(strangeness[0]), **log_odds}

    def many(self, rows: Floats) -> tuple[Floats, Floats]:
        """Linear scores (N, 4) and strangeness (N,) of rows of features and measures (N, F)."""
        rest, within = self.distances(rows)
        strangeness = np.maximum(rest / self.usual[0], within / self.usual[1])
        standard = standardised(rows, self.middle, self.spread)
        return standard @ self.weight.T + self.bias, np.asarray(strangeness, np.float32)

    def distances(self, rows: Floats) -> tuple[Floats, Floats]:
        """Length that the main directions do not explain, and Mahalanobis distance along them; (N,) each."""
        standard = standardised(rows, self.middle, self.spread)
        along = standard @ self.directions.T
        rest = np.sqrt(np.maximum((standard**2).sum(1) - (along**2).sum(1), 0))
        return rest, np.sqrt(((along / self.lengths) ** 2).sum(1))

    def kind(self, scores: Mapping[str, float], limits: Limits) -> str:
        """The kind, in doubt never ``dermoscopic``."""
        odds = {name: scores[f"dermoscopic_against_{name}"] for name in KIND_NAMES[1:]}
        nearest = min(odds, key=lambda name: odds[name])
        if odds[nearest] < limits.dermoscopic:
            return nearest
        return UNRELATED if scores["strangeness"] > limits.strangeness else DERMOSCOPIC


def standardised(rows: Floats, middle: Floats, spread: Floats) -> Floats:
    """Rows in deviations from the mean of dermoscopy, outliers held at 8."""
    return np.asarray(np.clip((rows - middle) / spread, -8, 8), np.float32)


def measured_row(measures: Measures) -> Floats:
    """The measures that the linear scores see, in their order."""
    return np.array([getattr(measures, name) for name in MEASURED], np.float32)


@dataclass(frozen=True, eq=False)
class Rule:
    """What `judge` goes by.

    Attributes
    ----------
    accepts
        Kinds of photograph that the package answers: ``dermoscopic``, ``plain``.
    kinds
        None: only the picture itself is measured, and kinds are as declared.
    """

    limits: Limits
    accepts: tuple[str, ...]
    kinds: KindModel | None


def load_rule(package: ModelPackage) -> Rule:
    """The rule of an opened package.

    Raises
    ------
    Refused
        ``model-untrusted`` if the package's file of kinds is not one.
    """
    quality = package.classification.quality
    kinds = None if quality.file is None else read_kinds(package.files[quality.file])
    return Rule(quality.limits, quality.accepts, kinds)


def read_kinds(data: bytes) -> KindModel:
    """Read the bytes of ``quality.safetensors``.

    Raises
    ------
    Refused
        ``model-untrusted``.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _untrusted("a safetensors file") from error
    if set(tensors) != set(TENSORS):
        raise _untrusted(f"tensors {', '.join(TENSORS)}")
    found = {name: np.asarray(tensors[name], np.float32) for name in TENSORS}
    width, count = found["middle"].size, found["lengths"].size
    wanted = {
        "middle": (width,),
        "spread": (width,),
        "directions": (count, width),
        "lengths": (count,),
        "usual": (2,),
        "weight": (len(KIND_NAMES), width),
        "bias": (len(KIND_NAMES),),
    }
    if width != FEATURES + len(MEASURED):
        raise _untrusted(f"{FEATURES + len(MEASURED)} numbers a picture")
    if any(found[name].shape != wanted[name] or not np.isfinite(found[name]).all() for name in TENSORS):
        raise _untrusted("tensors that fit each other, finite")
    if min(float(found[name].min()) for name in ("spread", "lengths", "usual")) <= 0:
        raise _untrusted("deviations above 0")
    return KindModel(**found)


def _untrusted(expected: str) -> Refused:
    return Refused(RefusalCode.MODEL_UNTRUSTED, expected=f"in the quality file: {expected}", found="something else")
