"""k folds of skin pictures: no patient and no lesion on two sides, classes and sources in every fold alike.

Pictures that share a patient or a lesion, directly or through others, are one group.  Groups are dealt out, the large
ones first, each to the fold that lacks its kind of pictures most.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ai_engine.training.cases import TrainingDataError
from ai_engine.training.skin_cases import SkinCase

Stratum = tuple[str, bool, bool]


def groups_of(cases: Sequence[SkinCase]) -> npt.NDArray[np.int64]:
    """A group number per case; equal for cases that share a patient or a lesion."""
    parent = list(range(len(cases)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str, str], int] = {}
    for index, case in enumerate(cases):
        # identifiers are those of their collection: two collections may both know a "P1"
        for kind, value in (("patient", case.patient), ("lesion", case.lesion)):
            if value:
                other = first.setdefault((kind, case.source, value), index)
                parent[root(index)] = root(other)
    return np.array([root(index) for index in range(len(cases))])


def folds_of(cases: Sequence[SkinCase], k: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold (0 to k-1) that tests each case.

    Raises
    ------
    TrainingDataError
        If there are fewer groups with or without malignant pictures than folds.
    """
    if k < 2:
        raise TrainingDataError("expected two folds or more")
    groups = groups_of(cases)
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[int(group)].append(index)
    for ill in (True, False):
        holding = sum(any(cases[i].malignant == ill for i in group) for group in members.values())
        if holding < k:
            kind = "malignant" if ill else "benign"
            raise TrainingDataError(f"{k} folds were asked for; {holding} patients or lesions have {kind} pictures")
    strata = [_stratum(case) for case in cases]
    whole = Counter(strata)
    counts: list[Counter[Stratum]] = [Counter() for _ in range(k)]
    sizes = np.zeros(k)
    random = np.random.default_rng(seed)
    order = sorted(members.values(), key=lambda group: (-len(group), random.random()))
    answer = np.zeros(len(cases), np.int64)
    for group in order:
        mine = Counter(strata[index] for index in group)
        # what share of each stratum a fold already has, weighed by how much of it this group brings
        cost = [sum(n * counts[fold][s] / whole[s] for s, n in mine.items()) / len(group) for fold in range(k)]
        fold = min(range(k), key=lambda f: (round(cost[f] * k, 3), sizes[f], f))
        counts[fold] += mine
        sizes[fold] += len(group)
        answer[group] = fold
    return answer


def _stratum(case: SkinCase) -> Stratum:
    return case.source, case.malignant, case.melanoma
