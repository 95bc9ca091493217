"""The training of a skin classifier as a product: k folds, best weights of each, resume, package.

``ai-node train skin`` runs it; ``docs/reference/skin-training.md`` is its reference.  Folds are stratified by source
and class and disjoint by patient and lesion.  A fold's network is judged after every epoch on the pictures of its fold,
and the averaged weights of its best epoch are kept.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ai_engine.evaluation.skin_scores import auc
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.skin_cases import Pictures, SkinCase, load_pictures, skin_cases
from ai_engine.training.skin_folds import folds_of
from ai_engine.training.skin_package import SkinWords
from ai_engine.training.skin_trainer import HEADS, SkinHow, SkinRun, answers_of

Say = Callable[[str], None]

HISTORY_FILE = "skin-history.json"
SAVE_EVERY_S = 300.0


@dataclass(frozen=True)
class SkinRecipe:
    """Everything that decides the package besides the pictures."""

    words: SkinWords = field(default_factory=SkinWords)
    how: SkinHow = field(default_factory=SkinHow)
    folds: int = 10
    """1: no folds, the ``split`` column of the table says which pictures judge."""
    epochs: int = 10
    seed: int = 2026
    quick: bool = False
    """Only the rows marked ``quick``."""
    sources: tuple[str, ...] = ()
    """Only these; empty: all."""
    sensitivity: float = 0.90
    malignant_share: float | None = 0.2
    """What share of malignant pictures the probabilities are calibrated for; None: that of the pictures."""


class SkinTraining:
    """All folds, one after the other.

    Parameters
    ----------
    table
        ``labels.csv``; the pictures lie beside it or below, in folders or tar files.
    work
        Where pictures, states, best weights and the history go.
    start
        File with starting weights by timm's names; None starts from random weights.
    """

    def __init__(self, recipe: SkinRecipe, table: Path, work: Path, start: Path | None, say: Say) -> None:
        self.recipe, self.work, self.say = recipe, work, say
        work.mkdir(parents=True, exist_ok=True)
        self.cases = chosen_cases(recipe, table)
        self.pictures: Pictures = load_pictures(self.cases, table.parent, work, say)
        self.start: Mapping[str, Tensor] | None = load_file(start) if start is not None else None
        self.fold = split_of(recipe, self.cases)
        self.used_s = 0.0
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self._spent: list[float] = []

    @property
    def names(self) -> list[str]:
        """The trainings, in order."""
        return [str(index) for index in range(max(self.recipe.folds, 1))]

    def held_back(self, name: str) -> npt.NDArray[np.int64]:
        """The places of the pictures that judge a training."""
        return np.flatnonzero(self.fold == int(name))

    def best_of(self, name: str) -> Path:
        """The weights of a training's best epoch."""
        return self.work / f"fold-{name}-best.safetensors"

    def resume(self) -> bool:
        """Take up the history on disk; false if there is none.

        Raises
        ------
        TrainingDataError
            If it belongs to another recipe or other pictures.
        """
        path = self.work / HISTORY_FILE
        if not path.exists():
            return False
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["recipe"] != self._recipe_words() or kept["pictures"] != len(self.cases):
            raise TrainingDataError("the working folder holds a training with other settings or pictures")
        self.used_s, self.runs = float(kept["used_s"]), kept["runs"]
        return True

    def _recipe_words(self) -> dict[str, Any]:
        words: dict[str, Any] = json.loads(json.dumps(asdict(self.recipe)))
        return words

    def save(self) -> None:
        """Write the history."""
        kept = {
            "used_s": self.used_s,
            "recipe": self._recipe_words(),
            "pictures": len(self.cases),
            "runs": self.runs,
        }
        unfinished = self.work / f"{HISTORY_FILE}.part"
        unfinished.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        os.replace(unfinished, self.work / HISTORY_FILE)

    def run(self) -> None:
        """Train what is not trained yet; safe to kill, then `resume`."""
        for name in self.names:
            self._train(name)
        self.save()

    def _train(self, name: str) -> None:
        held = self.held_back(name)
        learnt = np.flatnonzero(self.fold != int(name))
        how, seed = self.recipe.how, self.recipe.seed + 1000 * int(name)
        run = SkinRun([self.cases[i] for i in learnt], self.pictures, learnt, how, seed, self.start)
        state = self.work / f"fold-{name}.pt"
        kept = run.resume(state) or {"history": [], "best": -1.0}
        history: list[dict[str, Any]] = kept["history"]
        if kept.get("done"):
            self.runs[name] = history
            return
        if run.iteration:
            self.say(f"fold {name}: resumed at step {run.iteration}")
        per_epoch = -(-len(learnt) // how.batch)
        total = per_epoch * self.recipe.epochs
        saved, losses = time.monotonic(), list(kept.get("losses", []))
        while run.iteration < total:
            began = time.monotonic()
            losses.append(run.step(run.iteration / total))
            self._count(time.monotonic() - began)
            if run.iteration % per_epoch == 0:
                epoch = run.iteration // per_epoch
                entry = self._judge(name, run, held, epoch, losses)
                losses = []
                history.append(entry)
                self.runs[name] = history
                if entry["auc"] > kept["best"]:
                    kept["best"] = entry["auc"]
                    save_file({k: v.contiguous() for k, v in run.average.items()}, self.best_of(name))
                run.save(state, **{**kept, "history": history, "losses": losses, "done": run.iteration >= total})
                saved = time.monotonic()
                self.save()
                self._tell(name, entry, total - run.iteration, total)
            elif time.monotonic() - saved > SAVE_EVERY_S:
                run.save(state, **{**kept, "history": history, "losses": losses})
                saved = time.monotonic()

    def _count(self, seconds: float) -> None:
        self.used_s += seconds
        self._spent = [*self._spent[-49:], seconds]

    def _judge(
        self, name: str, run: SkinRun, held: npt.NDArray[np.int64], epoch: int, losses: Sequence[float]
    ) -> dict[str, Any]:
        logits = answers_of(run.averaged(), self.pictures, held, self.recipe.how.stages[-1].size)
        malignant = np.array([self.cases[i].malignant for i in held])
        melanoma = np.array([self.cases[i].melanoma for i in held])
        return {
            "epoch": epoch,
            "loss": float(np.mean(losses)) if losses else float("nan"),
            "auc": _defined(auc(malignant, logits[:, HEADS.index("malignant")].astype(np.float64))),
            "auc_melanoma": _defined(auc(melanoma, logits[:, HEADS.index("melanoma")].astype(np.float64))),
        }

    def _tell(self, name: str, entry: Mapping[str, Any], left: int, total: int) -> None:
        after = (len(self.names) - 1 - int(name)) * total
        minutes = (left + after) * float(np.mean(self._spent)) / 60
        self.say(
            f"fold {int(name) + 1} of {len(self.names)}, epoch {entry['epoch']} of {self.recipe.epochs}: "
            f"loss {entry['loss']:.4f}, AUC {entry['auc']:.4f}, about {minutes:.0f} min left"
        )


def _defined(value: float) -> float:
    return value if np.isfinite(value) else 0.5


def chosen_cases(recipe: SkinRecipe, table: Path) -> list[SkinCase]:
    """The rows of the table that a recipe wants.

    Raises
    ------
    TrainingDataError
        If none are left, or one class is missing.
    """
    cases = [
        case
        for case in skin_cases(table)
        if (case.quick or not recipe.quick) and (not recipe.sources or case.source in recipe.sources)
    ]
    if len({case.malignant for case in cases}) < 2:
        raise TrainingDataError("malignant and benign pictures were expected; the chosen rows have one kind or none")
    return cases


def split_of(recipe: SkinRecipe, cases: Sequence[SkinCase]) -> npt.NDArray[np.int64]:
    """The fold that each case judges; -1 where it never does.

    Raises
    ------
    TrainingDataError
        If folds are wanted and cannot be made, or the table has no split.
    """
    if recipe.folds > 1:
        return folds_of(cases, recipe.folds, recipe.seed)
    fold = np.array([0 if case.split == "val" else -1 for case in cases], dtype=np.int64)
    for held in (True, False):
        kinds = {case.malignant for case, where in zip(cases, fold, strict=True) if (where == 0) == held}
        if len(kinds) < 2:
            raise TrainingDataError("without folds the table's column split must put both classes on train and val")
    return fold


def smaller(how: SkinHow, size: int | None, batch: int | None) -> SkinHow:
    """The same with one size of copies throughout, or another batch."""
    if size is not None:
        how = replace(how, stages=(replace(how.stages[0], size=size),))
    return how if batch is None else replace(how, batch=batch)


def torch_threads(threads: int) -> None:
    """Let torch use so many threads; 0: as many as there are processors."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
