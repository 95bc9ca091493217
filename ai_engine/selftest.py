"""A package's own stored case, run to see that model and machine still answer as they did (hardening section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
