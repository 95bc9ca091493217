"""A package's own stored case, run to see that model and machine still answer as they did (hardening section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ai_engine.backends import NetworkOptions
from ai_engine.geometry import Affine
from ai_engine.packages import ModelPackage
from ai_engine.predict import Predictor
from ai_engine.prediction import InputVolume
from dicom_node.refusals import RefusalCode, Refused


@dataclass(frozen=True)
class SelfTestResult:
    """What the stored case said now, next to what it said when the package was made."""

    expected: Mapping[int, int]
    found: Mapping[int, int]
    tolerance_percent: float

    @property
    def is_passed(self) -> bool:
        """Every label's voxel count within the tolerance; an expected 0 must be 0."""
        return all(
            abs(self.found[label] - count) <= count * self.tolerance_percent / 100
            for label, count in self.expected.items()
        )


def self_test(package: ModelPackage, run: Predictor) -> SelfTestResult | None:
    """Run the stored case; None if the package has none.

    Raises
    ------
    Refused
        ``model-untrusted`` if the stored case is not what ``model.yaml`` says.
    """
    rule = package.segmentation.self_test
    if rule is None:
        return None
    inputs = _stored(package, rule.file)
    prediction = run(inputs)
    voxels = {region.label: region.voxels for region in prediction.findings.regions if region.label is not None}
    return SelfTestResult(rule.voxels, {label: voxels.get(label, 0) for label in rule.voxels}, rule.tolerance_percent)


@dataclass(frozen=True)
class PictureSelfTestResult:
    """What a classifier's stored picture said now, next to what it said when the package was made: logits."""

    expected: Mapping[str, float]
    found: Mapping[str, float]
    tolerance: float

    @property
    def is_passed(self) -> bool:
        """Every output's logit within the tolerance; NaN is not."""
        return all(abs(self.found[key] - value) <= self.tolerance for key, value in self.expected.items())


def picture_self_test(package: ModelPackage, options: NetworkOptions) -> PictureSelfTestResult | None:
    """Run a classifier's stored picture through its network, past the quality gate; None if the package has none.

    Raises
    ------
    Refused
        ``model-untrusted`` if the stored picture is not what ``model.yaml`` says.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from ai_engine.runners.classifier import ClassifierRunner

    rule = package.classification.self_test
    if rule is None:
        return None
    try:
        pixels = load(package.files[rule.file])["pixels"]
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError("shape")
    except (SafetensorError, ValueError, KeyError) as error:
        raise Refused(
            RefusalCode.MODEL_UNTRUSTED, expected=f"`pixels` (rows, columns, 3) in {rule.file}", found="something else"
        ) from error
    logits = ClassifierRunner(package, options).run([pixels])[0].logits
    return PictureSelfTestResult(rule.logits, logits, rule.tolerance)


def _stored(package: ModelPackage, file: str) -> Mapping[str, InputVolume]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(package.files[file])
        affine = Affine(tensors["affine"])
        return {
            entry.role: InputVolume(tensors[entry.role], affine, modality=entry.modality[0])
            for entry in package.segmentation.inputs
        }
    except (SafetensorError, ValueError, KeyError) as error:
        raise Refused(
            RefusalCode.MODEL_UNTRUSTED, expected=f"one tensor per role and `affine` in {file}", found="something else"
        ) from error
