"""The nnU-Net runner: nnU-Net's own preprocessing and export geometry around our own calling of the network.

Order of operations, nnU-Net's (Isensee et al., Nature Methods 18, 2021): transpose, crop to nonzero, normalise,
resample; windows; logits resampled back by nnU-Net's function, then argmax, crop and transpose undone.  What comes from
a package (``plans.json``, ``dataset.json``) is checked against closed lists before nnU-Net sees it, because nnU-Net
turns names found there into imports.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.backends import Network, NetworkOptions, Quantised, open_network
from ai_engine.faults import ModelFault
from ai_engine.packages import ModelPackage
from ai_engine.runners.networks import build_network, load_weights
from ai_engine.runners.resampling import same_resampling
from ai_engine.runners.scores import OpenedNetworks, RunnerOptions, Scores, box_plan, classify, half, largest, softmax
from ai_engine.runners.tiles import Plan, sliding_window_logits

Floats = npt.NDArray[np.float32]

RESAMPLING = frozenset({"resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack"})
BOX_MULTIPLE = (32, 32, 32)
"""Boxes are rounded up to this: nnU-Net's 3D networks halve five times at most."""
NORMALISATION = frozenset(
    {"ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"}
)


class NnunetRunner:
    """One package with its networks opened.

    Raises
    ------
    ModelFault
        If plans, data set description, weights and description do not fit each other, or name something not allowed.
    """

    def __init__(
        self,
        package: ModelPackage,
        network: NetworkOptions,
        options: RunnerOptions,
        quantised: Quantised | None = None,
    ) -> None:
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        description = package.segmentation
        plans, dataset = package.json("plans.json"), package.json("dataset.json")
        check_plans(plans, description.inference.configuration)
        self._plans = PlansManager(plans)
        self._configuration = _for_inference(
            self._plans.get_configuration(description.inference.configuration).configuration
        )
        self._dataset = dataset
        self._threshold = description.threshold
        self._labels = _label_manager(self._plans, dataset)
        _check_labels(self._labels, dataset, package)
        mirror = options.mirrored(description.inference.mirror_axes)
        patch = tuple(int(size) for size in self._configuration.patch_size)
        if any(axis >= len(patch) for axis in mirror):
            raise ModelFault("mirror_axes names an axis that the patch does not have")
        self.plan = Plan(patch, options.step or description.inference.step, mirror)
        self.window = options.window or description.inference.window
        if self.window == "box" and len(patch) != 3:
            raise ModelFault("one window over the whole box needs a three-dimensional network; this one reads slices")
        self._classes = int(self._labels.num_segmentation_heads)
        batch = options.batch or description.inference.batch
        names = description.weights if options.folds == "all" else description.weights[:1]

        def opened(window: tuple[int, ...], name: str) -> Network:
            shape = (batch, len(description.inputs), *window)
            return self._open(package.files[name], shape, network, quantised)

        self._opened = OpenedNetworks(opened, names)
        self.networks = self._opened.at(patch)

    def _open(
        self, weights: bytes, shape: tuple[int, ...], options: NetworkOptions, quantised: Quantised | None
    ) -> Network:
        module = build_network(self._configuration.configuration["architecture"], shape[1], self._classes)
        load_weights(module, weights)
        return open_network(module, shape, options, quantised)

    def run(self, channels: Floats, spacing_mm: tuple[float, float, float]) -> Scores:
        """Segment one case.

        Parameters
        ----------
        channels
            (channel, S, R, C) float32, axes as the model's, intensity preprocessing done.
        spacing_mm
            Along (slice, row, column).
        """
        started = time.monotonic()
        data, properties = self._prepare(channels, spacing_mm)
        prepared = time.monotonic()
        plan, networks = self.plan, self.networks
        if self.window == "box":
            plan = box_plan(plan, data.shape[1:], BOX_MULTIPLE)
            networks = self._opened.at(plan.patch)
        logits, passes = sliding_window_logits(networks, data, plan, self._classes)
        answered = time.monotonic()
        mask, probability = self._restore(logits, properties)
        restored = time.monotonic()
        timings = (
            ("prepare", prepared - started),
            ("network", answered - prepared),
            ("restore", restored - answered),
        )
        return Scores(mask, probability, passes, timings)

    def prepared(self, channels: Floats, spacing_mm: tuple[float, float, float]) -> Floats:
        """What the network sees of a case, ``(channel, S, R, C)``."""
        return self._prepare(channels, spacing_mm)[0]

    def _prepare(self, channels: Floats, spacing_mm: tuple[float, float, float]) -> tuple[Floats, dict[str, Any]]:
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

        properties: dict[str, Any] = {"spacing": list(spacing_mm)}
        data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            channels, None, properties, self._plans, self._configuration, self._dataset
        )
        return np.asarray(data, dtype=np.float32), properties

    def _restore(
        self, logits: Floats, properties: Mapping[str, Any]
    ) -> tuple[npt.NDArray[np.uint8], dict[int, npt.NDArray[np.float16]]]:
        """nnU-Net's export: logits to the cropped grid, classes, crop undone, transpose undone."""
        order = self._plans.transpose_forward
        spacing = [properties["spacing"][axis] for axis in order]
        current = list(self._configuration.spacing)
        current = current if len(current) == 3 else [spacing[0], *current]
        cropped = properties["shape_after_cropping_and_before_resampling"]
        resampled = np.asarray(self._configuration.resampling_fn_probabilities(logits, cropped, current, spacing))
        scores = self._probabilities(resampled)
        small = self._classify(resampled, scores)
        box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
        back = self._plans.transpose_backward

        def place(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            whole = np.zeros(properties["shape_before_cropping"], dtype=values.dtype)
            whole[box] = values
            return np.ascontiguousarray(whole.transpose(back))

        probability = {label: place(half(scores[channel])) for label, channel in label_channels(self._labels).items()}
        return place(small), probability

    def _probabilities(self, logits: npt.NDArray[Any]) -> Floats:
        if self._labels.has_regions:
            return np.asarray(1 / (1 + np.exp(-logits.astype(np.float32))), dtype=np.float32)
        return softmax(logits)

    def _classify(self, logits: npt.NDArray[Any], scores: Floats) -> npt.NDArray[np.uint8]:
        if self._threshold.rule == "foreground":
            return classify(scores, self._threshold)
        if self._labels.has_regions:
            return np.asarray(self._labels.convert_logits_to_segmentation(logits), dtype=np.uint8)
        return largest(logits)


def _for_inference(configuration: dict[str, Any]) -> Any:
    """nnU-Net's configuration with two savings that change nothing.

    The training mask is not resampled: nnU-Net does that with every picture, and here there is none to look at (0.5 of
    2.6 CPU seconds for 155 slices).  Pictures and probabilities are resampled by `same_resampling` (2.4 and 0.8 CPU
    seconds become 0.2 and 0.1).
    """
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    class ForInference(ConfigurationManager):
        @property
        def resampling_fn_seg(self) -> Any:
            return lambda mask, *_: mask

        @property
        def resampling_fn_data(self) -> Any:
            return self._same("resampling_fn_data", super().resampling_fn_data)

        @property
        def resampling_fn_probabilities(self) -> Any:
            return self._same("resampling_fn_probabilities", super().resampling_fn_probabilities)

        def _same(self, key: str, theirs: Any) -> Any:
            return same_resampling(self.configuration[key], self.configuration[f"{key}_kwargs"], theirs)

    return ForInference(configuration)


def label_channels(labels: Any) -> dict[int, int]:
    """Mask value to score channel: the label itself for softmax models, its region's place for region models."""
    if labels.has_regions:
        return {int(label): channel for channel, label in enumerate(labels.regions_class_order)}
    return {int(label): int(label) for label in labels.foreground_labels}


def check_plans(plans: Any, configuration: str) -> None:
    """Refuse plans that name anything that is not on a list of ours, before nnU-Net sees them.

    Raises
    ------
    ModelFault
        With the key and what was expected.
    """
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise ModelFault("plans.json: an nnU-Net v2 plan with `configurations` was expected")
    if plans.get("label_manager", "LabelManager") != "LabelManager":
        raise ModelFault("plans.json: label_manager LabelManager was expected")
    if configuration not in plans["configurations"]:
        raise ModelFault("model.yaml: inference.configuration is not one of plans.json")
    chain: list[str] = []
    name: str | None = configuration
    while name is not None:
        entry = plans["configurations"].get(name)
        if name in chain or not isinstance(entry, dict):
            raise ModelFault("plans.json: configurations inherit from each other in a circle or from nothing")
        chain.append(name)
        _check_configuration(entry)
        name = entry.get("inherits_from")


def _check_configuration(entry: Mapping[str, Any]) -> None:
    if entry.get("previous_stage"):
        raise ModelFault("plans.json: cascades are not supported; export the full-resolution configuration")
    if entry.get("preprocessor_name", "DefaultPreprocessor") != "DefaultPreprocessor":
        raise ModelFault("plans.json: preprocessor_name DefaultPreprocessor was expected")
    for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        if key in entry and entry[key] not in RESAMPLING:
            raise ModelFault(f"plans.json: {key} must be one of {', '.join(sorted(RESAMPLING))}")
    strange = set(entry.get("normalization_schemes", ())) - NORMALISATION
    if strange:
        raise ModelFault(f"plans.json: normalization_schemes must be among {', '.join(sorted(NORMALISATION))}")


def _label_manager(plans: Any, dataset: Any) -> Any:
    try:
        return plans.get_label_manager(dataset)
    except (KeyError, TypeError, AssertionError, RuntimeError, AttributeError) as error:
        raise ModelFault(f"dataset.json: labels do not fit nnU-Net's rules: {str(error)[:200]}") from error


def _check_labels(labels: Any, dataset: Mapping[str, Any], package: ModelPackage) -> None:
    description = package.segmentation
    declared = {entry.label for entry in description.labels}
    trained = set(label_channels(labels))
    if declared != trained:
        raise ModelFault(
            f"model.yaml names labels {sorted(declared)}, the network was trained for {sorted(trained)}; name them all"
        )
    if labels.has_regions and description.threshold.rule != "argmax":
        raise ModelFault("threshold rule `foreground` needs a softmax model; this one has overlapping regions")
    channels = len(dataset.get("channel_names", dataset.get("modality", {})))
    if channels != len(description.inputs):
        raise ModelFault(f"model.yaml names {len(description.inputs)} inputs, the network takes {channels}")
