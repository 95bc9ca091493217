"""Thresholds and calibration of a classifier on a site's own pictures (`ai_engine.packages.site`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.backends import NetworkOptions
from ai_engine.evaluation.skin_scores import threshold_for
from ai_engine.evaluation.skin_study import answer_pictures, truth_of
from ai_engine.packages import ModelPackage
from ai_engine.packages.classification import Calibration, Output
from ai_engine.packages.site import SiteOutput, SiteOverride
from ai_engine.runners.classifier import ClassifierRunner
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.skin import Say
from ai_engine.training.skin_calibrate import Method, choose, operating_point, settled, weights_for
from ai_engine.training.skin_cases import SkinCase
from ai_engine.training.skin_folds import groups_of

LEAST = 10
"""Positive and negative pictures below which nothing is measured."""
ENOUGH = 50
"""Of each, from which on a calibration of one's own is fitted; below, only the threshold is moved."""


def site_override(
    package: ModelPackage,
    cases: Sequence[SkinCase],
    folder: Path,
    say: Say,
    *,
    sensitivity: float,
    share: float | None,
    population: str,
) -> tuple[SiteOverride, dict[str, Any]]:
    """Measure a package on labelled pictures and choose threshold and calibration for them.

    Isotonic curves are not fitted here: a site's set is small, and steps would stand for nothing.

    Returns
    -------
    override, told
        The file's content, and per output what was chosen, for people.

    Raises
    ------
    TrainingDataError
        If no output has enough positive and negative pictures, or pictures are missing.
    """
    description = package.classification
    logits = answer_pictures(ClassifierRunner(package, NetworkOptions(device="cpu")), cases, folder, say)
    groups, weights = groups_of(cases), weights_for(truth_of(cases, description.deciding.key), share)
    said: dict[str, npt.NDArray[np.float64]] = {}
    outputs: dict[str, SiteOutput] = {}
    told: dict[str, Any] = {}
    for output in description.outputs:
        truth, given = truth_of(cases, output.key), logits[output.key]
        said[output.key] = _said(output, output.calibration, given, said)
        fewer = min(int(truth.sum()), int((~truth).sum()))
        if fewer < LEAST:
            told[output.key] = f"unchanged: {LEAST} positive and negative pictures are needed, {fewer} found"
            continue
        calibration = None
        if fewer >= ENOUGH:
            methods: tuple[Method, ...] = ("temperature", "platt")
            calibration = choose(given, truth, groups, population, weights=weights, methods=methods).calibration
            said[output.key] = _said(output, calibration, given, said)
        threshold = settled(said[output.key], threshold_for(truth, said[output.key], sensitivity))
        point, figures = operating_point(truth, said[output.key], threshold, groups, population)
        outputs[output.key] = SiteOutput(threshold=threshold, calibration=calibration, operating_point=point)
        told[output.key] = (
            f"threshold {threshold:.4f} (package {output.threshold:.4f}), calibration "
            f"{calibration.method if calibration else 'unchanged'}, sensitivity {figures['sensitivity']}, specificity "
            f"{figures['specificity']}"
        )
    if not outputs:
        raise TrainingDataError(f"{LEAST} positive and {LEAST} negative pictures were expected; there are fewer")
    return (
        SiteOverride(
            format=1,
            name=description.name,
            version=description.version,
            digest_sha256=package.digest_sha256,
            outputs=outputs,
            population=population,
        ),
        told,
    )


def _said(
    output: Output, calibration: Calibration, logits: npt.NDArray[np.float64], above: Mapping[str, Any]
) -> npt.NDArray[np.float64]:
    """Probabilities of one output as `Classification.probabilities` gives them, under this calibration."""
    own = np.array([calibration.probability(float(value)) for value in logits])
    return own if output.within is None else np.minimum(own, above[output.within])
