"""The classifier runner: whole picture in; logits, pooled features and a class activation map out.

The network ends at its last feature map; everything after it is linear and done here in closed form.  For a linear head
on averaged features the gradient of a logit is the head's own weights, so Grad-CAM (Selvaraju et al., ICCV 2017) is the
class activation map of Zhou et al., CVPR 2016: weights times features, no backward pass.  The mean of the map over the
picture, bias added, is the logit itself.

Test-time views and networks (folds) are averaged in features and logits.  On the CPU every picture with its views is
one call of one shape, so its numbers are the same to the last bit whatever waits beside it (and larger calls gain
little there: eight views in one call cost 9.3 ms each, one alone 10.3, measured).  On CUDA several pictures go through
a second, larger shape, filled up with zeros.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_engine.backends import Network, NetworkOptions, open_network
from ai_engine.faults import ModelFault
from ai_engine.packages import ModelPackage
from ai_engine.packages.classification import Classification
from ai_engine.runners.efficientnet import FEATURES, build_backbone

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Opened = Callable[[int], Network]

HEAD_WEIGHT, HEAD_BIAS = "classifier.weight", "classifier.bias"
FAINT = 1.0
"""Evidence (in logits) below which a heat map is not stretched to full strength."""
HEAT_MAP_SIDE = 512
"""Longest side of a heat map; the network sees no finer."""

VIEWS: Mapping[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "identity": lambda a: a,
    "flip_lr": lambda a: a[..., :, ::-1],
    "flip_ud": lambda a: a[..., ::-1, :],
    "rot90": lambda a: np.rot90(a, 1, (-2, -1)),
    "rot180": lambda a: np.rot90(a, 2, (-2, -1)),
    "rot270": lambda a: np.rot90(a, 3, (-2, -1)),
    "transpose": lambda a: np.swapaxes(a, -2, -1),
    "transverse": lambda a: np.rot90(np.swapaxes(a, -2, -1), 2, (-2, -1)),
}
_BACK = {name: name for name in VIEWS} | {"rot90": "rot270", "rot270": "rot90"}


@dataclass(frozen=True, eq=False)
class ClassifierScores:
    """What the network says about one picture.

    Attributes
    ----------
    logits
        Output key to logit, uncalibrated.
    features
        (1280,) float32, pooled, of the first network on the picture as it is: one view says what kind of picture this
        is, and a gate that was fitted on one view holds for every choice of views.
    heat_map
        (rows, columns) float32 in 0..1 over the whole picture, on its own pixels or, for large ones, on fewer of the
        same proportions: evidence for the package's heat-map output, 0 where there is none or where the network did
        not look; None where the package has no heat map.
    timings_s
        Seconds per stage, a share of the call: prepare, network, restore.
    """

    logits: Mapping[str, float]
    features: Floats
    heat_map: Floats | None
    timings_s: Mapping[str, float]


class ClassifierRunner:
    """One package with its networks opened.

    Raises
    ------
    ModelFault
        If weights and description do not fit each other.
    """

    def __init__(self, package: ModelPackage, network: NetworkOptions, batch: int | None = None) -> None:
        self.description: Classification = package.classification
        how = self.description.network
        self.views = how.views
        self.batch = batch or how.batch
        self._members = [
            _Member(package.files[name], self.description, network, len(self.views))
            for name in self.description.weights
        ]

    @property
    def networks(self) -> tuple[Network, ...]:
        """The opened networks, one per weights file."""
        return tuple(member.network(1) for member in self._members)

    def run(self, pictures: Sequence[Pixels]) -> list[ClassifierScores]:
        """Answer several pictures, each ``(rows, columns, 3)`` uint8 sRGB, in their order.

        Raises
        ------
        OutputNotFinite
            Never here: the engine looks at the logits.
        """
        found: list[ClassifierScores] = []
        for first in range(0, len(pictures), self.batch):
            found += self._together(pictures[first : first + self.batch])
        return found

    def features(self, pixels: Pixels) -> Floats:
        """Pooled features of one picture, ``(1280,)`` float32: what `ai_engine.quality` judges by."""
        return self._together([pixels])[0].features

    def _together(self, pictures: Sequence[Pixels]) -> list[ClassifierScores]:
        started = time.monotonic()
        how = self.description.network
        squares = np.stack([self.prepared(picture) for picture in pictures])
        views = np.concatenate([VIEWS[name](squares)[:, None] for name in self.views], 1)
        tiles = np.ascontiguousarray(views.reshape(-1, 3, *how.size))
        prepared = time.monotonic()
        maps = [member.feature_maps(tiles, self.batch) for member in self._members]
        answered = time.monotonic()
        found = [self._scores(index, picture, maps) for index, picture in enumerate(pictures)]
        spent = (prepared - started, answered - prepared, time.monotonic() - answered)
        share = dict(zip(("prepare", "network", "restore"), (s / len(pictures) for s in spent), strict=True))
        return [ClassifierScores(logits, features, heat, share) for logits, features, heat in found]

    def _scores(
        self, index: int, picture: Pixels, maps: Sequence[Floats]
    ) -> tuple[dict[str, float], Floats, Floats | None]:
        count = len(self.views)
        mine = [member_maps[index * count : (index + 1) * count] for member_maps in maps]
        pooled = [views.mean((0, 2, 3), dtype=np.float64) for views in mine]
        logits = np.mean([m.weight @ p + m.bias for m, p in zip(self._members, pooled, strict=True)], 0)
        keys = [output.key for output in self.description.outputs]
        heat = None
        if self.description.heat_map is not None:
            head = keys.index(self.description.heat_map.output)
            heat = self._heat_map(head, mine, picture)
        named = {key: float(value) for key, value in zip(keys, logits, strict=True)}
        upright = self.views.index("identity") if "identity" in self.views else 0
        return named, mine[0][upright].mean((1, 2), dtype=np.float64).astype(np.float32), heat

    def _heat_map(self, head: int, maps: Sequence[Floats], picture: Pixels) -> Floats:
        evidence = np.mean(
            [
                VIEWS[_BACK[view]](np.tensordot(member.weight[head], views[number], 1))
                for member, views in zip(self._members, maps, strict=True)
                for number, view in enumerate(self.views)
            ],
            0,
        )
        positive = np.maximum(evidence, 0)
        strength = (positive / max(float(positive.max()), FAINT)).astype(np.float32)
        height, width = picture.shape[:2]
        scale = min(1.0, HEAT_MAP_SIDE / max(height, width))
        return self._laid_back(strength, max(1, round(height * scale)), max(1, round(width * scale)))

    def prepared(self, picture: Pixels) -> Floats:
        """One picture as the network takes it, ``(3, rows, columns)`` float32."""
        how = self.description.network
        rows, columns = how.size
        image = Image.fromarray(picture)
        box = self._box(*picture.shape[:2])
        if how.resize == "pad":
            top, left, height, width = _inside(picture.shape[0], picture.shape[1], rows, columns)
            filled = Image.new("RGB", (columns, rows), tuple(round(255 * value) for value in how.mean))
            filled.paste(_resized(image, (width, height), None), (left, top))
            image = filled
        else:
            image = _resized(image, (columns, rows), box)
        values: Floats = np.asarray(image, dtype=np.float32) / np.float32(255)
        mean, std = np.array(how.mean, np.float32), np.array(how.std, np.float32)
        return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1))

    def _box(self, height: int, width: int) -> tuple[float, float, float, float] | None:
        """The part of a picture that is looked at: (left, top, right, bottom); None: all of it."""
        if self.description.network.resize != "crop":
            return None
        rows, columns = self.description.network.size
        scale = min(height / rows, width / columns)
        left, top = (width - scale * columns) / 2, (height - scale * rows) / 2
        return left, top, left + scale * columns, top + scale * rows

    def _laid_back(self, small: Floats, height: int, width: int) -> Floats:
        """A map of the network's grid on the picture's own pixels."""
        how = self.description.network
        if how.resize == "pad":
            rows, columns = how.size
            top, left, inner_height, inner_width = _inside(height, width, rows, columns)
            whole = np.asarray(_stretched(small, rows, columns))
            return _stretched(whole[top : top + inner_height, left : left + inner_width], height, width)
        box = self._box(height, width)
        if box is None:
            return _stretched(small, height, width)
        left_edge, top_edge, right_edge, bottom_edge = (round(value) for value in box)
        answer = np.zeros((height, width), np.float32)
        inner = _stretched(small, bottom_edge - top_edge, right_edge - left_edge)
        answer[top_edge:bottom_edge, left_edge:right_edge] = inner
        return answer


class _Member:
    """One weights file: backbone behind a backend, head as numbers."""

    def __init__(self, data: bytes, description: Classification, options: NetworkOptions, views: int) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = {name: value.float() for name, value in load(data).items()}
        except (SafetensorError, ValueError, KeyError) as error:
            raise ModelFault("the weights are not a safetensors file") from error
        heads = len(description.outputs)
        weight, bias = tensors.pop(HEAD_WEIGHT, None), tensors.pop(HEAD_BIAS, None)
        if weight is None or bias is None or weight.shape != (heads, FEATURES) or bias.shape != (heads,):
            raise ModelFault(f"the weights hold no linear head of {heads} outputs on {FEATURES} features")
        module = build_backbone(description.network.architecture)
        wanted = {
            name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")
        }
        given = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
        for name in sorted(set(wanted) | set(given)):
            if name not in given or name not in wanted or given[name].shape != wanted[name].shape:
                raise ModelFault(f"the weights do not fit {description.network.architecture}: {name}")
            if not bool(given[name].isfinite().all()):
                raise ModelFault(f"the weights hold a value that is not finite: {name}")
        module.load_state_dict(given, strict=False)
        self.weight = weight.numpy().astype(np.float64)
        self.bias = bias.numpy().astype(np.float64)
        self._module, self._options = module.eval(), options
        self._views, self._size = views, description.network.size
        self._opened: dict[int, Network] = {}

    def network(self, pictures: int) -> Network:
        """The network for so many pictures a call, opened when first wanted."""
        if pictures not in self._opened:
            shape = (pictures * self._views, 3, *self._size)
            self._opened[pictures] = open_network(self._module, shape, self._options)
        return self._opened[pictures]

    def feature_maps(self, tiles: Floats, batch: int) -> Floats:
        """``(N, 1280, rows/32, columns/32)`` of ``(N, 3, rows, columns)``; N is a multiple of the views."""
        if len(tiles) <= self._views:
            return self.network(1)(tiles)
        if self.network(1).device == "CPU":
            parts = range(0, len(tiles), self._views)
            return np.concatenate([self.network(1)(tiles[first : first + self._views]) for first in parts])
        missing = batch * self._views - len(tiles)
        full = np.concatenate((tiles, np.zeros((missing, *tiles.shape[1:]), np.float32))) if missing else tiles
        return self.network(batch)(full)[: len(tiles)]


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None) -> Image.Image:
    if box is None and image.size == size:
        return image
    # the gap makes large photographs cheap: first whole-number reduction, then bicubic
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _inside(height: int, width: int, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a whole picture inside (rows, columns), proportions kept."""
    scale = min(rows / height, columns / width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    return (rows - inner_height) // 2, (columns - inner_width) // 2, inner_height, inner_width


def _stretched(small: Floats, rows: int, columns: int) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(small, dtype=np.float32))
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR), dtype=np.float32)
