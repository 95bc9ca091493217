"""A synthetic head, made of formulas, for demonstration, tests and a little training.

The head is a function: every point of patient space has one tissue, so it can be cut on any grid, straight or
oblique, and two series of one head agree everywhere. Anatomy is simplified but in the right place: scalp, fat, skull,
marrow, sulci and convoluted cortex, white matter, deep nuclei, ventricles, cerebellum, brain stem, eyes, face, neck.
A lesion is a star-shaped body of oedema with a ring and a core, whose volume is known by integration, not by counting
voxels.

Guaranteed: the same seed gives the same head; the truth mask of a grid is the lesion at the voxel centres; the volume
of a lesion with ``roughness=0`` is that of its ellipsoid.

Not guaranteed: realism. Numbers measured on this head say nothing about accuracy on patients.

Space is LPS in millimetres with its origin in the middle of the brain; arrays are ``(S, R, C)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ai_engine.geometry import Affine

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Contrast = Literal["t1", "t1c", "t2", "flair"]
Triple = tuple[float, float, float]


class Tissue(IntEnum):
    """What fills a point of space."""

    AIR = 0
    SKIN = 1
    FAT = 2
    BONE = 3
    MARROW = 4
    MUSCLE = 5
    CSF = 6
    GREY = 7
    WHITE = 8
    EYE = 9
    DURA = 10
    OEDEMA = 11
    CORE = 12
    RING = 13


BRIGHTNESS: Mapping[str, tuple[float, ...]] = {
    #         air   skin  fat  bone  marrow muscle csf  grey white  eye  dura oedema core  ring
    "t1": (0.00, 0.90, 2.10, 0.12, 1.20, 0.75, 0.30, 0.85, 1.10, 0.30, 0.70, 0.72, 0.50, 0.85),
    "t1c": (0.00, 1.00, 2.10, 0.12, 1.20, 0.85, 0.30, 0.88, 1.12, 0.30, 1.60, 0.72, 0.50, 2.10),
    "t2": (0.00, 0.80, 1.50, 0.10, 0.90, 0.50, 2.80, 1.35, 1.00, 2.80, 0.40, 2.10, 2.50, 1.40),
    "flair": (0.00, 0.85, 1.70, 0.12, 0.90, 0.60, 0.22, 1.15, 0.95, 0.25, 0.60, 1.95, 1.45, 1.75),
}
"""Signal of every tissue by contrast, white matter about 1."""


@dataclass(frozen=True)
class Lesion:
    """A body of oedema with a ring-shaped wall and a core.

    Attributes
    ----------
    center_mm
        LPS position of its middle.
    radii_mm
        Half axes along x, y, z before roughness.
    core_share, ring_share
        Outer radius of core and ring as a share of the body's radius in the same direction; 0 leaves them out.
    roughness
        Relative amplitude of the bumps of the surface; 0 gives an ellipsoid.
    brightness
        Factor on the contrast between lesion and white matter.
    """

    center_mm: Triple = (32.0, 5.0, 28.0)
    radii_mm: Triple = (17.0, 21.0, 16.0)
    core_share: float = 0.4
    ring_share: float = 0.52
    roughness: float = 0.15
    brightness: float = 1.0


@dataclass(frozen=True, eq=False)
class _Waves:
    """A smooth random function of space: a sum of sine waves of similar length."""

    vectors: Array
    phases: Array

    @classmethod
    def draw(cls, random: np.random.Generator, count: int, length_mm: float) -> _Waves:
        directions = random.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = length_mm * random.uniform(0.75, 1.35, (count, 1))
        return cls(
            (directions * 2 * np.pi / lengths).astype(np.float32),
            random.uniform(0, 2 * np.pi, count).astype(np.float32),
        )

    def __call__(self, points: Array) -> Array:
        """Values about 0 with standard deviation 1 at ``(N, 3)`` points."""
        result = np.zeros(len(points), dtype=np.float32)
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            result += np.sin(points @ vector + phase)
        return np.asarray(result * np.float32(np.sqrt(2 / len(self.phases))))


def _depth(points: Array, center: Triple, radii: Triple) -> Array:
    """Distance below the surface of an ellipsoid along the ray from its centre; negative outside."""
    offset = points - np.asarray(center, dtype=np.float32)
    length = np.linalg.norm(offset, axis=1)
    share = np.linalg.norm(offset / np.asarray(radii, dtype=np.float32), axis=1)
    depth = length / np.maximum(share, 1e-4) - length
    return np.asarray(np.where(share < 1e-3, np.float32(min(radii)), depth))


def _both_sides(points: Array) -> Array:
    """Fold the right side onto the left: the deep parts are symmetric."""
    folded = points.copy()
    folded[:, 0] = np.abs(folded[:, 0])
    return folded


@dataclass(frozen=True, eq=False)
class HeadPhantom:
    """One head. Made by :func:`synthesise_head`.

    Attributes
    ----------
    affine, shape
        The default grid: axial, ``(S, R, C)``.
    lesion
        What is wrong with it; ``None`` for a head without a finding.
    """

    seed: int
    affine: Affine
    shape: tuple[int, int, int]
    lesion: Lesion | None
    _size: Triple
    _cortex: _Waves
    _folia: _Waves
    _form: _Waves
    _surface: _Waves
    _texture: _Waves
    _cache: dict[tuple[bytes, tuple[int, int, int], int], Labels] = field(default_factory=dict, repr=False)

    # -- what is where --------------------------------------------------------------------------------------------

    def tissues(self, points_mm: npt.ArrayLike) -> Labels:
        """Name the tissue at ``(N, 3)`` LPS positions, as values of :class:`Tissue`."""
        real = np.asarray(points_mm, dtype=np.float32)
        points: Array = np.divide(real, np.asarray(self._size, dtype=np.float32), dtype=np.float32)
        label = np.zeros(len(points), dtype=np.uint8)
        head = _depth(points, (0, 0, 0), (76, 97, 92))
        covered = self._face_and_neck(points, head, label)
        inside = np.flatnonzero(head > 0)
        self._cranium(points[inside], head[inside], label, inside)
        scalp = (label == Tissue.SKIN) | (label == Tissue.FAT)
        label[scalp & (head > 0) & (covered > 6) & (points[:, 2] < -50)] = Tissue.MUSCLE
        if self.lesion is not None:
            share = self._lesion_share(real)
            brain = np.isin(label, (Tissue.CSF, Tissue.GREY, Tissue.WHITE, Tissue.DURA))
            label[brain & (share < 1)] = Tissue.OEDEMA
            label[brain & (share < self.lesion.ring_share)] = Tissue.RING
            label[brain & (share < self.lesion.core_share)] = Tissue.CORE
        return label

    def _face_and_neck(self, points: Array, head: Array, label: Labels) -> Array:
        """Fill what lies outside the cranium; returns the depth below the surface of face and neck."""
        x, y, z = points.T
        face = _depth(points, (0, -42, -62), (62, 58, 72))
        neck = np.where(z < -20, 58 - np.hypot(x, 0.9 * (y - 18)), -1)
        outer = np.maximum(face, neck)
        low = (outer > 0) & (head <= 0)
        label[low] = Tissue.SKIN
        label[low & (outer > 2.5)] = Tissue.FAT
        label[low & (outer > 8)] = Tissue.MUSCLE
        wave = self._texture(points)
        label[low & (outer > 8) & (outer < 16) & (wave > 0.9)] = Tissue.FAT
        label[low & (outer > 16) & (wave > 1.1)] = Tissue.BONE
        spine = np.hypot(x, y - 45) < 20
        label[low & spine & (neck > 10)] = Tissue.MARROW
        sinus = _depth(points, (0, -52, -48), (22, 26, 26)) > 0
        label[low & sinus & (wave < 0.7)] = Tissue.AIR
        label[low & (np.hypot(x, y + 5) < 9) & (neck > 0)] = Tissue.AIR
        return np.asarray(outer)

    def _cranium(self, points: Array, depth: Array, label: Labels, where: npt.NDArray[np.intp]) -> None:
        x, y, z = points.T
        bumps = 0.8 * self._form(points)
        layer = depth + bumps
        tissue = np.full(len(points), Tissue.SKIN, dtype=np.uint8)
        tissue[layer > 2.2] = Tissue.FAT
        tissue[layer > 5.5] = Tissue.BONE
        tissue[(layer > 7.5) & (layer < 10)] = Tissue.MARROW
        tissue[layer > 12] = Tissue.CSF
        floor = -40 + 24 / (1 + np.exp((y + 34) / 5)) + 14 * np.exp(-((x / 14) ** 2)) + 2 * bumps
        basis = z < floor
        tissue[basis & (layer > 12)] = Tissue.MUSCLE
        tissue[basis & (layer > 12) & (floor - z < 7)] = Tissue.BONE
        tissue[basis & (layer > 12) & (self._texture(points) > 1.1)] = Tissue.BONE
        brain = (depth > 14) & ~basis
        chosen = np.flatnonzero(brain)
        tissue[chosen] = self._cerebrum(points[chosen], depth[chosen] - 14)
        self._hind_brain(points, tissue)
        self._orbits(points, tissue, depth)
        label[where] = tissue

    def _cerebrum(self, points: Array, depth: Array) -> Labels:
        x, _, z = points.T
        tissue = np.full(len(points), Tissue.WHITE, dtype=np.uint8)
        sulcus = 3.6 * np.abs(self._cortex(points))
        reach = np.clip(1 - depth / 20, 0, None)
        tissue[(depth < 3.3) | ((depth < 21) & (sulcus < 1.2 * reach + 2.6))] = Tissue.GREY
        folded = _both_sides(points)
        for center, radii in (
            ((14, -8, 14), (5, 14, 8)),
            ((27, 2, 4), (6, 16, 10)),
            ((11, 18, 6), (8, 13, 9)),
        ):
            tissue[_depth(folded, center, radii) > 0] = Tissue.GREY
        tissue[(depth < 21) & (sulcus < 1.3 * reach - 0.2)] = Tissue.CSF
        middle = np.abs(x + 1.2 * self._form(points))
        split = (z > 22) | (depth < 30)
        tissue[split & (middle < 4.2)] = Tissue.GREY
        tissue[split & (middle < 1.3)] = Tissue.CSF
        tissue[split & (middle < 0.6) & (depth < 34)] = Tissue.DURA
        for center, radii in (
            ((10, -4, 17), (6, 30, 8)),
            ((20, 34, 10), (7, 17, 9)),
            ((33, 12, -16), (3, 15, 4)),
            ((0, 8, 2), (2, 14, 9)),
        ):
            tissue[_depth(folded, center, radii) > 0] = Tissue.CSF
        return tissue

    def _hind_brain(self, points: Array, tissue: Labels) -> None:
        x, y, z = points.T
        shell = _depth(points, (0, 50, -50), (54, 37, 30))
        tissue[(shell > -3) & (shell < 0)] = Tissue.CSF
        inner = np.flatnonzero(shell > 0)
        folia = np.abs(self._folia(points[inner]))
        kind = np.where(folia < 0.22, Tissue.CSF, Tissue.GREY)
        kind[shell[inner] > 13] = Tissue.WHITE
        tissue[inner] = kind
        stem = 13 - np.hypot(x, 0.9 * (y - 22 - 0.12 * (z + 40)))
        tissue[(z < -24) & (stem > -3.5)] = Tissue.CSF
        tissue[(z < -8) & (stem > 0)] = Tissue.WHITE
        tissue[_depth(points, (0, 35, -46), (7, 5, 9)) > 0] = Tissue.CSF

    def _orbits(self, points: Array, tissue: Labels, depth: Array) -> None:
        folded = _both_sides(points)
        cone = _depth(folded, (29, -66, -33), (17, 26, 17)) > 0
        tissue[cone & (depth > 3)] = Tissue.FAT
        ball = _depth(folded, (30, -74, -33), (12, 12, 12))
        tissue[(ball > 0) & (depth > 1)] = Tissue.MUSCLE
        tissue[(ball > 1.2) & (depth > 1)] = Tissue.EYE
        nerve = np.hypot(folded[:, 0] - 26, folded[:, 2] + 33) < 2.5
        tissue[nerve & cone & (ball < 0)] = Tissue.WHITE

    def _lesion_share(self, points: Array) -> Array:
        """Distance from the lesion's centre as a share of the radius in that direction; below 1 is inside."""
        lesion = self._known_lesion()
        offset = (points - np.asarray(lesion.center_mm, dtype=np.float32)) / np.asarray(lesion.radii_mm, np.float32)
        length = np.linalg.norm(offset, axis=1)
        result = np.full(len(points), np.inf, dtype=np.float32)
        near = np.flatnonzero(length < 2.5)
        directions = offset[near] / np.maximum(length[near], 1e-6)[:, None]
        result[near] = length[near] / self._lesion_radius(directions)
        return result

    def _lesion_radius(self, directions: Array) -> Array:
        bumps = np.clip(self._surface(directions), -2.5, 2.5)
        return np.asarray(1 + self._known_lesion().roughness * bumps)

    def _known_lesion(self) -> Lesion:
        if self.lesion is None:
            raise ValueError("this head has no lesion")
        return self.lesion

    # -- truth ----------------------------------------------------------------------------------------------------

    @property
    def true_volume_mm3(self) -> float:
        """Volume of the lesion by integration over all directions; 0 without one.

        It counts the whole body. Where a lesion reaches out of the brain, the truth mask holds less.
        """
        if self.lesion is None:
            return 0.0
        heights, weights = np.polynomial.legendre.leggauss(96)
        turns = np.arange(192) * 2 * np.pi / 192
        flat = np.sqrt(1 - heights**2)
        directions = np.stack(
            (np.outer(flat, np.cos(turns)), np.outer(flat, np.sin(turns)), np.outer(heights, np.ones(192))), -1
        )
        radius = self._lesion_radius(directions.reshape(-1, 3).astype(np.float32)).reshape(96, 192)
        unit = float((weights[:, None] * radius.astype(np.float64) ** 3).sum()) * 2 * np.pi / 192 / 3
        return unit * float(np.prod(self.lesion.radii_mm))

    def truth(self, affine: Affine | None = None, shape: tuple[int, int, int] | None = None) -> npt.NDArray[np.bool_]:
        """Mask of the lesion (core, ring and oedema) at the voxel centres of a grid, ``(S, R, C)``."""
        labels = self.labels(affine, shape)
        return np.asarray(labels >= Tissue.OEDEMA)

    def labels(
        self, affine: Affine | None = None, shape: tuple[int, int, int] | None = None, *, cuts: int = 1
    ) -> Labels:
        """Tissue on a grid, ``(S * cuts, R, C)`` uint8, with ``cuts`` planes spread over each slice's thickness."""
        affine, shape = affine or self.affine, shape or self.shape
        key = (affine.matrix.tobytes(), shape, cuts)
        if key not in self._cache:
            slices, rows, columns = shape
            offsets = (np.arange(cuts) + 0.5) / cuts - 0.5
            row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
            plane = np.stack((np.zeros(row.size), row.ravel(), column.ravel()), 1) @ affine.matrix[:3, :3].T
            result = np.empty((slices * cuts, rows, columns), dtype=np.uint8)
            for index in range(slices * cuts):
                start = affine.matrix[:3, :3] @ np.array([index // cuts + offsets[index % cuts], 0, 0])
                points = plane + start + affine.matrix[:3, 3]
                result[index] = self.tissues(points).reshape(rows, columns)
            self._cache[key] = result
        return self._cache[key]

    # -- pictures -------------------------------------------------------------------------------------------------

    def render(
        self,
        contrast: Contrast,
        affine: Affine | None = None,
        shape: tuple[int, int, int] | None = None,
        *,
        noise: float = 0.03,
        bias: float = 0.15,
        cuts: int = 3,
    ) -> Array:
        """Take a picture.

        Parameters
        ----------
        contrast
            Which sequence.
        affine, shape
            The grid, default the head's own.
        noise
            Standard deviation of Rician noise, in units of white matter.
        bias
            Greatest relative shading by the coil.
        cuts
            Planes averaged over each slice's thickness (partial volume).

        Returns
        -------
        ``(S, R, C)`` float32; white matter is about 1, air about 0.
        """
        affine, shape = affine or self.affine, shape or self.shape
        labels = self.labels(affine, shape, cuts=cuts)
        table = np.array(BRIGHTNESS[contrast], dtype=np.float32)
        if self.lesion is not None:
            table[Tissue.OEDEMA :] = 1 + (table[Tissue.OEDEMA :] - 1) * self.lesion.brightness
        random = np.random.default_rng((self.seed, sum(contrast.encode())))
        table[Tissue.SKIN :] *= random.uniform(0.94, 1.06, len(table) - 1).astype(np.float32)
        image = table[labels].reshape(shape[0], cuts, *shape[1:]).mean(1)
        image = ndimage.gaussian_filter(image, (0, 0.5, 0.5))
        grain = ndimage.gaussian_filter(random.normal(size=image.shape).astype(np.float32), (0.3, 2, 2))
        image *= 1 + 0.04 * grain / max(float(grain.std()), 1e-6)
        image *= self._shading(shape, bias, random)
        first, second = random.normal(0, noise, (2, *shape)).astype(np.float32)
        return np.asarray(np.sqrt((image + first) ** 2 + second**2), dtype=np.float32)

    @staticmethod
    def _shading(shape: tuple[int, int, int], bias: float, random: np.random.Generator) -> Array:
        coarse = random.normal(size=(3, 4, 4))
        field = ndimage.zoom(coarse, [size / edge for size, edge in zip(shape, coarse.shape, strict=True)], order=1)
        field = field[: shape[0], : shape[1], : shape[2]]
        return np.asarray(1 + bias * field / max(float(np.abs(field).max()), 1e-6), dtype=np.float32)


def axial_grid(shape: tuple[int, int, int], spacing_mm: Triple, center_mm: Triple = (0.0, 0.0, 0.0)) -> Affine:
    """Axial grid whose middle is at ``center_mm``: slices upwards, rows to the back, columns to the left."""
    matrix = np.zeros((4, 4))
    matrix[2, 0], matrix[1, 1], matrix[0, 2], matrix[3, 3] = *spacing_mm, 1.0
    matrix[:3, 3] = np.asarray(center_mm) - matrix[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Affine(matrix)


def synthesise_head(
    seed: int,
    *,
    shape: tuple[int, int, int] = (26, 256, 256),
    spacing_mm: Triple = (6.0, 0.9, 0.9),
    lesion: Lesion | None = None,
) -> HeadPhantom:
    """Make a head.

    Parameters
    ----------
    seed
        Decides size, folds, shading and noise.
    shape, spacing_mm
        The default grid, ``(slice, row, column)``, axial around the middle of the brain.
    lesion
        What is wrong; ``None`` for nothing.
    """
    random = np.random.default_rng((seed, 7))
    x, y, z = (float(factor) for factor in random.uniform(0.93, 1.07, 3))
    return HeadPhantom(
        seed=seed,
        affine=axial_grid(shape, spacing_mm, (0.0, 0.0, -5.0)),
        shape=shape,
        lesion=lesion,
        _size=(x, y, z),
        _cortex=_Waves.draw(random, 14, 26.0),
        _folia=_Waves.draw(random, 10, 9.0),
        _form=_Waves.draw(random, 8, 45.0),
        _surface=_Waves.draw(random, 8, 2.2),
        _texture=_Waves.draw(random, 8, 16.0),
    )


def draw_lesion(seed: int) -> Lesion:
    """Draw a lesion that lies inside the cerebrum, for studies and training."""
    random = np.random.default_rng((seed, 11))
    side = random.choice((-1.0, 1.0))
    radii = random.uniform(9, 20, 3)
    ringed = bool(random.random() < 0.5)
    core = float(random.uniform(0.25, 0.5)) if ringed else 0.0
    return Lesion(
        center_mm=(float(side * random.uniform(22, 34)), float(random.uniform(-35, 40)), float(random.uniform(8, 34))),
        radii_mm=(float(radii[0]), float(radii[1]), float(radii[2])),
        core_share=core,
        ring_share=core + float(random.uniform(0.08, 0.2)) if ringed else 0.0,
        roughness=float(random.uniform(0.05, 0.22)),
        brightness=float(random.uniform(0.6, 1.2)),
    )
