"""The Keras runner: prepare, windows, restore, for networks that are lists of Keras layers (``network.json``).

Order of operations: crop to what is not zero, resample to the package's grid (nnU-Net's own order-3 resampling),
normalise each channel, windows, logits back to the picture's grid, softmax, crop undone.  The network runs through
OpenVINO or PyTorch as torch operations of the same arithmetic, or through TensorFlow itself where it is installed and
asked for; which one answered stands in every result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.backends import Network, NetworkOptions, Quantised, open_network
from ai_engine.faults import ModelFault
from ai_engine.packages import ModelPackage
from ai_engine.packages.schema import Preparation
from ai_engine.packages.store import NETWORK
from ai_engine.runners.keras_layers import parse_network
from ai_engine.runners.localiser import located_logits
from ai_engine.runners.resampling import same_resampling
from ai_engine.runners.scores import Floats, OpenedNetworks, RunnerOptions, Scores, box_plan, classify, softmax
from ai_engine.runners.tiles import Plan, sliding_window_logits

SAME_GRID = 0.01
"""A spacing within one per cent of the network's is the network's: nothing is resampled."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    data: Floats
    """(C, S, R, C) cropped, resampled, normalised."""
    box: tuple[slice, slice, slice]
    whole: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def cropped(self) -> tuple[int, int, int]:
        first, second, third = (edge.stop - edge.start for edge in self.box)
        return first, second, third


class KerasRunner:
    """One package with its networks opened.

    Raises
    ------
    ModelFault
        If network, weights and description do not fit each other, or name something not allowed.
    Refused
        ``backend-missing`` if TensorFlow is asked for and not installed.
    """

    def __init__(
        self,
        package: ModelPackage,
        network: NetworkOptions,
        options: RunnerOptions,
        quantised: Quantised | None = None,
    ) -> None:
        description = package.segmentation
        if description.preparation is None:
            raise ModelFault("model.yaml: preparation was expected for runner keras")
        self._preparation = description.preparation
        self._threshold = description.threshold
        self._layers = parse_network(package.files[NETWORK])
        self._labels = [entry.label for entry in description.labels]
        if sorted(self._labels) != list(range(1, self._layers.classes)):
            raise ModelFault(
                f"model.yaml names labels {sorted(self._labels)}, the network answers {self._layers.classes - 1} "
                "classes besides background; name them all, 1 to that number"
            )
        if self._layers.input_channels != len(description.inputs):
            raise ModelFault(
                f"model.yaml names {len(description.inputs)} inputs, the network takes {self._layers.input_channels}"
            )
        patch = self._preparation.patch
        if any(size % step for size, step in zip(patch, self._layers.multiple, strict=True)):
            raise ModelFault(f"model.yaml: preparation.patch must be multiples of {self._layers.multiple}")
        mirror = options.mirrored(description.inference.mirror_axes)
        self.plan = Plan(patch, options.step or description.inference.step, mirror)
        self.window = options.window or description.inference.window
        names = description.weights if options.folds == "all" else description.weights[:1]
        batch = options.batch or description.inference.batch

        def opened(window: tuple[int, ...], name: str) -> Network:
            shape = (batch, len(description.inputs), *window)
            return self._open(_arrays(package.files[name]), shape, network, quantised)

        self._opened = OpenedNetworks(opened, names)
        self.networks = self._opened.at(patch)

    def _open(
        self,
        weights: Mapping[str, npt.NDArray[Any]],
        shape: tuple[int, ...],
        options: NetworkOptions,
        quantised: Quantised | None,
    ) -> Network:
        if options.backend == "tensorflow":
            from ai_engine.backends.tensorflow import open_tensorflow

            return open_tensorflow(self._layers, weights, shape, options)
        from ai_engine.runners.keras_torch import build_torch

        return open_network(build_torch(self._layers, weights), shape, options, quantised)

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
        prepared = prepare(channels, spacing_mm, self._preparation)
        ready = time.monotonic()
        plan, networks = self.plan, self.networks
        if self.window == "box":
            plan = box_plan(plan, prepared.data.shape[1:], self._layers.multiple)
            networks = self._opened.at(plan.patch)
        look = located_logits if self.window == "located" else sliding_window_logits
        logits, passes = look(networks, prepared.data, plan, self._layers.classes)
        answered = time.monotonic()
        mask, probability = self._restore(logits, prepared)
        timings = (
            ("prepare", ready - started),
            ("network", answered - ready),
            ("restore", time.monotonic() - answered),
        )
        return Scores(mask, probability, passes, timings)

    def prepared(self, channels: Floats, spacing_mm: tuple[float, float, float]) -> Floats:
        """What the network sees of a case, ``(channel, S, R, C)``."""
        return prepare(channels, spacing_mm, self._preparation).data

    def _restore(
        self, logits: Floats, prepared: _Prepared
    ) -> tuple[npt.NDArray[np.uint8], dict[int, npt.NDArray[np.float16]]]:
        if logits.shape[1:] != prepared.cropped:
            current = self._preparation.spacing_mm or prepared.spacing_mm
            logits = _resample(logits, prepared.cropped, current, prepared.spacing_mm, order=1)
        scores = softmax(logits)
        mask = np.zeros(prepared.whole, dtype=np.uint8)
        mask[prepared.box] = classify(scores, self._threshold)
        probability = {}
        for label in self._labels:
            probability[label] = np.zeros(prepared.whole, dtype=np.float16)
            probability[label][prepared.box] = scores[label]
        return mask, probability


def prepare(channels: Floats, spacing_mm: tuple[float, float, float], rule: Preparation) -> _Prepared:
    """Crop, resample and normalise as `rule` says; training does it by the same function.

    Parameters
    ----------
    channels
        (channel, S, R, C) float32.
    """
    first, second, third = channels.shape[1:]
    whole = (first, second, third)
    box = _nonzero_box(channels) if rule.crop == "nonzero" else tuple(slice(0, size) for size in whole)
    data = channels[(slice(None), *box)]
    prepared = _Prepared(data, (box[0], box[1], box[2]), whole, spacing_mm)
    target = rule.spacing_mm
    if target is not None and any(
        abs(now / wanted - 1) > SAME_GRID for now, wanted in zip(spacing_mm, target, strict=True)
    ):
        empty = (data == 0).all(0)
        shape = tuple(
            max(1, round(size * now / wanted))
            for size, now, wanted in zip(prepared.cropped, spacing_mm, target, strict=True)
        )
        data = _resample(data, shape, spacing_mm, target, order=3)
        if rule.normalisation == "zscore_nonzero":
            outside = _resample(empty[None].astype(np.float32), shape, spacing_mm, target, order=1)[0] > 0.5
            data[:, outside] = 0
    return replace(prepared, data=normalise(data, rule.normalisation))


def normalise(data: Floats, how: str) -> Floats:
    """One of the closed list of normalisations, channel by channel; a new array."""
    result = np.array(data, dtype=np.float32)
    for channel in result:
        if how == "zscore_nonzero":
            inside = channel != 0
            if inside.any():
                channel[inside] -= channel[inside].mean()
                channel[inside] /= max(float(channel[inside].std()), 1e-8)
        elif how == "zscore":
            channel -= channel.mean()
            channel /= max(float(channel.std()), 1e-8)
        elif how == "minmax":
            low = float(channel.min())
            channel -= low
            channel /= max(float(channel.max()), 1e-8)
    return result


def _nonzero_box(channels: Floats) -> tuple[slice, slice, slice]:
    inside = (channels != 0).any(0)
    edges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        where = np.flatnonzero(inside.any(others))
        edges.append(slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, inside.shape[axis]))
    return edges[0], edges[1], edges[2]


def _resample(
    data: Floats, shape: tuple[int, ...], now: tuple[float, ...], wanted: tuple[float, ...], *, order: int
) -> Floats:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    options = {"is_seg": False, "order": order, "order_z": 0}
    theirs = partial(resample_data_or_seg_to_shape, **options)
    resample = same_resampling(resample_data_or_seg_to_shape.__name__, options, theirs)
    return np.asarray(resample(data, shape, now, wanted), dtype=np.float32)


def _arrays(data: bytes) -> Mapping[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFault("the weights are not a safetensors file") from error
