"""What every runner answers, what may be set against a package, and the last steps that runners share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ai_engine.backends import Network
from ai_engine.packages import Threshold
from ai_engine.packages.common import Window
from ai_engine.runners.tiles import Plan

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scores:
    """What the network says, on the grid it was given.

    Attributes
    ----------
    mask
        (S, R, C) uint8, 0 = background.
    probability
        Label to (S, R, C) float16: softmax (sigmoid for region models) of that label; 0 outside the runner's crop.
    passes
        Tiles that went through a network.
    """

    mask: npt.NDArray[np.uint8]
    probability: Mapping[int, npt.NDArray[np.float16]]
    passes: int
    timings_s: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class RunnerOptions:
    """What may be set against the package; None keeps what the package says."""

    step: float | None = None
    mirroring: bool | None = None
    """False switches mirroring off; True is the package's own axes, as None."""
    mirror_axes: tuple[int, ...] | None = None
    """Other axes than the package's own."""
    batch: int | None = None
    folds: str = "all"
    """``all`` averages the folds, ``first`` takes the first only."""
    window: Window | None = None

    def mirrored(self, own: tuple[int, ...]) -> tuple[int, ...]:
        """The axes that are mirrored, `own` being the package's."""
        if self.mirroring is False:
            return ()
        return tuple(self.mirror_axes) if self.mirror_axes is not None else own


class OpenedNetworks:
    """One network per weights file, opened for one size of window at a time.

    Overlapping patches need one size for ever; one window over a whole box needs another for every head, and the last
    is kept, because compiled networks are large.
    """

    def __init__(self, opener: Callable[[tuple[int, ...], str], Network], names: Sequence[str]) -> None:
        self._opener, self._names = opener, names
        self._size: tuple[int, ...] = ()
        self._networks: list[Network] = []

    def at(self, window: tuple[int, ...]) -> Sequence[Network]:
        """The networks for windows of this size (voxels along the window's axes)."""
        if window != self._size:
            self._networks = []
            self._networks = [self._opener(window, name) for name in self._names]
            self._size = window
        return self._networks


def box_plan(plan: Plan, spatial: tuple[int, ...], multiple: tuple[int, ...]) -> Plan:
    """One window over everything, as large as the data rounded up to what the network divides by."""
    return replace(plan, patch=tuple(-(-size // step) * step for size, step in zip(spatial, multiple, strict=True)))


def softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """Over the first axis; a new float32 array."""
    values = np.array(logits, dtype=np.float32)
    values -= values.max(axis=0, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=0, keepdims=True)
    return values


def foreground(scores: Floats, threshold: Threshold) -> npt.NDArray[np.bool_]:
    """Where the threshold rule says that a voxel is labelled; `scores` is softmax with background first."""
    limit = threshold.value if threshold.value is not None else 0.5
    return np.asarray(np.float32(1) - scores[0] >= np.float32(limit))


def classify(scores: Floats, threshold: Threshold) -> npt.NDArray[np.uint8]:
    """Labels from softmax scores whose channel k is label k."""
    if threshold.rule == "foreground":
        best = largest(scores[1:]) + np.uint8(1)
        return np.where(foreground(scores, threshold), best, np.uint8(0))
    return largest(scores)


def largest(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """``values.argmax(axis=0)``, the first of equals, ten times as fast: channels are compared as whole arrays."""
    best = np.zeros(values.shape[1:], dtype=np.uint8)
    top = values[0].copy()
    for channel in range(1, len(values)):
        better = values[channel] > top
        best[better] = channel
        np.copyto(top, values[channel], where=better)
    return best


def half(values: Floats) -> npt.NDArray[np.float16]:
    """In half precision, rounded as numpy rounds, by the processor's own instruction."""
    import torch

    return np.asarray(torch.from_numpy(np.ascontiguousarray(values)).half().numpy())
