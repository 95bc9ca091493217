"""A prepared study: what the model sees, and the way back to the grid of the series that the result is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ai_engine.prediction import InputVolume
from ai_engine.preparation.rigid import Grid, carry


@dataclass(frozen=True, eq=False)
class PreparedStudy:
    """What the model sees, and the way back.

    Attributes
    ----------
    volumes
        By role, all on one grid.
    source
        The reference series' own grid, on which results are returned.
    is_unchanged
        Whether the volumes are the ones that came in.
    notes
        What was done, with the scores, for the result.
    timings_s
        Seconds per step; empty when nothing was done.
    """

    volumes: Mapping[str, InputVolume]
    source: Grid
    is_unchanged: bool
    notes: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)

    def back(
        self, mask: npt.NDArray[np.uint8], probability: Mapping[int, npt.NDArray[np.float16]]
    ) -> tuple[npt.NDArray[np.uint8], dict[int, npt.NDArray[np.float16]]]:
        """Carry labels and their probabilities from the model's grid to the reference series' own.

        Parameters
        ----------
        mask, probability
            (S, R, C) on the grid of `volumes`.

        Returns
        -------
        Label values and probabilities on `source`.  A voxel takes the label with the greatest share among the eight
        voxels around its centre (linear interpolation of each label's indicator), background included.
        """
        if self.is_unchanged:
            return mask, dict(probability)
        affine = next(iter(self.volumes.values())).affine
        labels = [int(label) for label in np.unique(mask) if label]
        best = np.full(self.source.shape, 0.5, dtype=np.float32)
        answer = np.zeros(self.source.shape, dtype=np.uint8)
        if len(labels) > 1:
            best = carry((mask == 0).astype(np.float32), affine, self.source, outside=1.0)
        for label in labels:
            share = carry((mask == label).astype(np.float32), affine, self.source)
            wins = share > best
            answer[wins] = label
            best = np.maximum(best, share)
        returned = {
            label: carry(values.astype(np.float32), affine, self.source).astype(np.float16)
            for label, values in probability.items()
        }
        return answer, returned
