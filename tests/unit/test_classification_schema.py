"""The description of a classifier: what it accepts, what it refuses, and how a logit becomes a probability."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml
from fixtures_classifier import tiny_classifier_description
from fixtures_packages import tiny_description

from ai_engine.packages import Classification, Description, DescriptionError, segmentation_of
from ai_engine.packages.classification import Calibration
from ai_engine.packages.schema import parse_description
from dicom_node.refusals import Refused

pytestmark = pytest.mark.unit


def _yaml(tree: dict[str, Any]) -> bytes:
    """Without the aliases that the dumper makes of a tree that is used twice: a package may not have them."""
    return yaml.safe_dump(json.loads(json.dumps(tree))).encode()


def _parsed(**changes: Any) -> Any:
    return parse_description(_yaml({**tiny_classifier_description(), **changes}))


def test_the_task_decides_which_description_it_is() -> None:
    assert isinstance(_parsed(), Classification)
    segmentation = parse_description(_yaml(tiny_description()))
    assert isinstance(segmentation, Description)
    assert segmentation_of(segmentation) is segmentation
    with pytest.raises(Refused, match="validation"):
        segmentation_of(_parsed())
    with pytest.raises(DescriptionError, match="task"):
        parse_description(_yaml({**tiny_description(), "task": "oracle"}))


def test_a_description_that_contradicts_itself_is_refused() -> None:
    outputs = tiny_classifier_description()["outputs"]
    for changes in (
        {"outputs": [outputs[0], outputs[0]]},
        {"heat_map": {"output": "benign"}},
        {"labels": []},
        {"network": {**tiny_classifier_description()["network"], "views": ["identity", "identity"]}},
        {"self_test": {"file": "self_test.safetensors", "logits": {"malignant": 1.0}}},
        {"outputs": [{**outputs[0], "calibration": {"method": "platt", "scale": 1.0}}]},
        {"outputs": [{**outputs[0], "calibration": {"method": "temperature", "temperature": 2.0}}]},
        {"outputs": [{**outputs[0], "within": "melanoma"}, outputs[1]]},
        {"outputs": [outputs[0], {**outputs[1], "within": "melanoma"}]},
    ):
        with pytest.raises(DescriptionError):
            _parsed(**changes)


def test_calibrations() -> None:
    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    assert Calibration().probability(2.0) == pytest.approx(sigmoid(2.0))
    warm = Calibration(method="temperature", temperature=2.0, population="p")
    assert warm.probability(-3.0) == pytest.approx(sigmoid(-1.5))
    platt = Calibration(method="platt", scale=0.5, offset=-1.0, population="p")
    assert platt.probability(4.0) == pytest.approx(sigmoid(1.0))
    steps = Calibration(method="isotonic", points=((0.2, 0.0), (0.5, 0.4), (0.9, 0.8)), population="p")
    assert [steps.probability(math.log(p / (1 - p))) for p in (0.1, 0.35, 0.5, 0.99)] == pytest.approx(
        [0.0, 0.2, 0.4, 0.8]
    )
    assert warm.probability(-5000.0) == 0.0
    assert warm.probability(5000.0) == 1.0


def test_what_implies_another_is_never_likelier() -> None:
    outputs = tiny_classifier_description()["outputs"]
    free = _parsed()
    bound = _parsed(outputs=[outputs[0], {**outputs[1], "within": "malignant"}])
    for logits in ({"malignant": -1.0, "melanoma": 2.0}, {"malignant": 2.0, "melanoma": -1.0}):
        said, own = bound.probabilities(logits), free.probabilities(logits)
        assert said["malignant"] == own["malignant"], "what decides stays as it was calibrated"
        assert said["melanoma"] == min(own.values())
