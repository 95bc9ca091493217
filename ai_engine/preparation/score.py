"""How much speaks for a registration, measured apart from what the search maximised.

The search compares both heads with a margin of air, so a matching outline alone can hold it in a wrong place.  The
score looks *inside* the head only, and asks whether the place found is a peak there: normalised mutual information
(Studholme et al., Pattern Recognition 32, 1999) must fall in all twelve directions in which the result is nudged (4 mm
along and 4 degrees about each axis, both ways).  Another person's head, a mirrored head and a search that stopped
elsewhere have no such peak (table in ``docs/explanation/preparation.md``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine
from ai_engine.preparation.rigid import Rigid
from dicom_node.refusals import RefusalCode, Refused

NUDGE_MM = 4.0
NUDGE_DEG = 4.0
MIN_SHARPNESS = 0.1
"""Good ones were measured at 0.11 and above; failed ones up to 0.09, searches stopped 3 mm away up to 0.11."""
MAX_SPREAD_MM = 2.0
"""Good ones were measured at 1.8 mm and below, another person's head at 4.7 mm and above."""
MIN_VIEW = 0.8
"""A FLAIR that ends above the skull base shares most of the head; half a head is another matter."""
_BINS = 32
_POINTS = 60_000


@dataclass(frozen=True)
class Quality:
    """What speaks for a registration.

    Attributes
    ----------
    sharpness
        Smallest share of the mutual information inside the head that is lost when the result is nudged; at a wrong
        place some nudge gains, and it is negative.
    spread_mm
        Largest distance in the head between where searches from different starts ended.
    view
        Share of the sampled head that lies in the other volume's field of view.
    """

    sharpness: float
    spread_mm: float
    view: float

    @property
    def is_good(self) -> bool:
        """Whether the registration may be used."""
        return self.sharpness >= MIN_SHARPNESS and self.spread_mm <= MAX_SPREAD_MM and self.view >= MIN_VIEW

    def words(self) -> str:
        """In numbers, for a note or a refusal."""
        return f"sharpness {self.sharpness:.3f}, spread {self.spread_mm:.1f} mm, shared view {100 * self.view:.0f} %"

    def require(self, role: str, reference: str) -> None:
        """Refuse a registration that must not be used.

        Raises
        ------
        Refused
            ``registration-failed``.
        """
        if not self.is_good:
            raise Refused(
                RefusalCode.REGISTRATION_FAILED,
                expected=f"{role} that can be laid on {reference}: sharpness at least {MIN_SHARPNESS:g}, "
                f"spread at most {MAX_SPREAD_MM:g} mm, shared view at least {100 * MIN_VIEW:.0f} %",
                found=self.words(),
            )


@dataclass(frozen=True, eq=False)
class Points:
    """Values of one volume at points of its head.

    Attributes
    ----------
    places_mm
        (n, 3) LPS.
    values
        (n,).
    """

    places_mm: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]

    @classmethod
    def of(cls, array: npt.NDArray[np.float32], affine: Affine, head: npt.NDArray[np.bool_]) -> Points:
        """Every so many voxels of the head, at most about 60,000."""
        index = np.argwhere(head)
        index = index[:: max(1, len(index) // _POINTS)]
        return cls(affine.to_patient(index), array[tuple(index.T)])


def sharpness(points: Points, other: npt.NDArray[np.float32], affine: Affine, motion: Rigid) -> tuple[float, float]:
    """Smallest relative loss of mutual information under nudges, and the share of the points in the other's view.

    Parameters
    ----------
    points
        Of the head of one volume.
    other, affine
        The other volume.
    motion
        From the points' space to the other's.
    """
    inside = _in_view(motion(points.places_mm), other.shape, affine)
    view = float(inside.mean()) if inside.size else 0.0
    if np.count_nonzero(inside) < 1000:
        return -1.0, view
    places, values = points.places_mm[inside], points.values[inside]
    centre = places.mean(axis=0)

    def shared(way: Rigid) -> float:
        return normalised_information(values, _sample(other, affine, way(places)))

    peak = shared(motion)
    if peak <= 1e-6:
        return -1.0, view
    losses = []
    for axis in np.eye(3):
        for sign in (-1.0, 1.0):
            shift = Rigid.about(centre, (0, 0, 0), sign * NUDGE_MM * axis)
            turn = Rigid.about(centre, sign * NUDGE_DEG * axis, (0, 0, 0))
            losses += [1 - shared(motion.after(nudge)) / peak for nudge in (shift, turn)]
    return float(min(losses)), view


def normalised_information(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Normalised mutual information less 1: (H(a) + H(b)) / H(a, b) - 1, over 32 x 32 bins; 0 = independent."""
    joint = np.bincount(_binned(first) * _BINS + _binned(second), minlength=_BINS * _BINS).reshape(_BINS, _BINS)
    share = joint / max(1, len(first))
    together = _entropy(share.ravel())
    if together <= 0:
        return 0.0
    return (_entropy(share.sum(axis=1)) + _entropy(share.sum(axis=0))) / together - 1


def _binned(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    low, high = np.percentile(values, (1, 99))
    level = (values - low) / max(float(high - low), 1e-9)
    return np.asarray(np.clip(level * _BINS, 0, _BINS - 1), dtype=np.int64)


def _entropy(share: npt.NDArray[np.float64]) -> float:
    some = share[share > 0]
    return float(-(some * np.log(some)).sum())


def _sample(
    array: npt.NDArray[np.float32], affine: Affine, places_mm: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    from scipy import ndimage

    index = affine.to_index(places_mm)
    return np.asarray(ndimage.map_coordinates(array, index.T, order=1, mode="nearest"), dtype=np.float32)


def _in_view(places_mm: npt.NDArray[np.float64], shape: tuple[int, ...], affine: Affine) -> npt.NDArray[np.bool_]:
    index = affine.to_index(places_mm)
    return np.asarray(((index >= -0.5) & (index <= np.array(shape) - 0.5)).all(axis=-1))
