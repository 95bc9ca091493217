"""Fit the model of kinds to one network, and put it into that network's package.

``ai-node train quality --package FOLDER --data DERMOSCOPY --pictures FOLDER``: pictures of the dermoscopy's training
split and all that `ai_engine.quality.assemble` put together go through the package's own network once;
means, main directions and linear scores are computed from the pooled features in closed form, so the same data give the
same model.  A minute or two on one core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from ai_engine.labelled_files import read_rows
from ai_engine.packages import load_package, seal_package
from ai_engine.packages.quality import Limits
from ai_engine.quality.measures import Measures, measure_picture
from ai_engine.quality.rule import (
    BARE_SKIN,
    FEATURES,
    KIND_NAMES,
    PLAIN,
    UNRELATED,
    KindModel,
    measured_row,
    standardised,
)
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.skin_cases import decoded, found_pictures, skin_cases

if TYPE_CHECKING:
    from ai_engine.runners.classifier import ClassifierRunner

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

FILE = "quality.safetensors"
DIRECTIONS = 64
SHRINKAGE = 1.0
"""Added to the variance along every direction of the shared covariance; 1 is the variance of one feature."""
LINEAR_SHARE, STRANGE_SHARE = 0.012, 0.005
"""How much of the held-back dermoscopy the linear scores and each of the two distances may refuse."""
NEVER = -1e4
"""Score of a kind without pictures."""
TRAIN_PICTURES = 1200
"""Dermoscopy pictures of the training split that are enough for means and directions."""
KIND_OF = {"bare-skin": BARE_SKIN, "plain-skin": PLAIN}
"""What the kinds of `assemble` are to the model of kinds; all others are unrelated."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Pictures as the gate sees them.

    Attributes
    ----------
    rows
        (N, F) float32: pooled features, then `MEASURED`.
    measures
        N of them.
    logits
        (N, outputs) float32 of the network, for the effect of degrading.
    """

    rows: Floats
    measures: tuple[Measures, ...]
    logits: Floats

    def part(self, keep: npt.NDArray[np.bool_]) -> Seen:
        """Those where `keep`."""
        chosen = tuple(m for m, is_kept in zip(self.measures, keep, strict=True) if is_kept)
        return Seen(self.rows[keep], chosen, self.logits[keep])


@dataclass(frozen=True)
class Listed:
    """A line of ``pictures.csv``."""

    file: str
    kind: str
    source: str
    part: str

    @property
    def name(self) -> str:
        """To the model of kinds."""
        return KIND_OF.get(self.kind, UNRELATED)


def listed_pictures(folder: Path) -> list[Listed]:
    """What `assemble` wrote.

    Raises
    ------
    TrainingDataError
        If the folder holds no ``pictures.csv``.
    """
    table = folder / "pictures.csv"
    if not table.is_file():
        raise TrainingDataError("no pictures.csv; make the folder with `python -m ai_engine.quality.assemble`")
    rows = read_rows(table, ("file", "kind", "source", "part"))
    return [Listed(row["file"], row["kind"], row["source"], row["part"]) for row in rows]


def read_picture(path: Path) -> Pixels:
    """A PNG or JPEG as (rows, columns, 3) uint8."""
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        return np.asarray(image.convert("RGB"))


def dermoscopy_pictures(
    folder: Path, split: str, count: int | None, seed: int = 8, sources: Sequence[str] = ()
) -> tuple[list[Pixels], list[bool]]:
    """Pictures of one split in a drawn order, and which are malignant; all of them where `count` is None.

    Parameters
    ----------
    sources
        Only pictures of these; empty: of all.
    """
    cases = [
        case
        for case in skin_cases(folder / "labels.csv")
        if case.split == split and (not sources or case.source in sources)
    ]
    order = np.random.default_rng(seed).permutation(len(cases))[: count or len(cases)]
    chosen = [cases[int(index)] for index in order]
    read = {name: decoded(content, name) for name, content in found_pictures(chosen, folder)}
    return [read[case.name] for case in chosen], [case.malignant for case in chosen]


def open_runner(package: Path) -> ClassifierRunner:
    """The package's own network on one thread and on the picture as it is, which is what its features come from."""
    from ai_engine.backends import NetworkOptions
    from ai_engine.runners.classifier import ClassifierRunner

    opened = load_package(package)
    one_view = opened.classification.network.model_copy(update={"views": ("identity",)})
    described = opened.classification.model_copy(update={"network": one_view})
    return ClassifierRunner(replace(opened, description=described), NetworkOptions(device="cpu", threads=1))


def look(runner: ClassifierRunner, pictures: Sequence[Pixels]) -> Seen:
    """Send pictures through network and measures."""
    scores = [score for first in range(0, len(pictures), 8) for score in runner.run(pictures[first : first + 8])]
    measures = tuple(measure_picture(picture) for picture in pictures)
    features = np.stack([score.features for score in scores])
    return _joined(measures, features, np.array([list(score.logits.values()) for score in scores], np.float32))


def _joined(measures: tuple[Measures, ...], features: Floats, logits: Floats) -> Seen:
    rows = np.concatenate([features, np.stack([measured_row(m) for m in measures])], axis=1)
    return Seen(np.asarray(rows, np.float32), measures, logits)


def look_once(package: Path, runner: ClassifierRunner, pictures: Sequence[Pixels], store: Path | None) -> Seen:
    """The same, kept in `store` under a digest of pictures, weights and preparation: fitting and measuring share it."""
    if store is None:
        return look(runner, pictures)
    opened = load_package(package)
    how = opened.classification.network
    digest = hashlib.sha256(f"{how.architecture} {how.size} {how.resize} {how.mean} {how.std}".encode())
    for name in opened.classification.weights:
        digest.update(opened.sha256[name].encode())
    for picture in pictures:
        digest.update(picture.tobytes())
    path = store / f"seen-{digest.hexdigest()[:24]}.npz"
    names = [field.name for field in fields(Measures)]
    if not path.exists():
        seen = look(runner, pictures)
        table = np.array([[getattr(m, name) for name in names] for m in seen.measures])
        store.mkdir(parents=True, exist_ok=True)
        np.savez(path, measures=table, features=seen.rows[:, :FEATURES], logits=seen.logits)
    with np.load(path, allow_pickle=False) as kept:
        measures = tuple(Measures(*row) for row in kept["measures"].tolist())
        return _joined(measures, kept["features"], kept["logits"])


def fit_kinds(dermoscopy: Floats, others: Mapping[str, Floats]) -> tuple[KindModel, float]:
    """The model of kinds, in closed form.

    Two thirds of the dermoscopy give means, directions and the covariance that all kinds share; the last third says
    what is usual and where the linear limit lies, for numbers from 1,280 features look better on what they were
    computed from.

    Parameters
    ----------
    dermoscopy
        (N, F) rows of pictures of the training split.
    others
        (M, F) rows for some of the other `KIND_NAMES`; a kind without rows is never said.

    Returns
    -------
    The model, and the log odds below which `LINEAR_SHARE` of the held-back dermoscopy lie.
    """
    cut = 2 * len(dermoscopy) // 3
    middle = dermoscopy[:cut].mean(axis=0)
    deviation = dermoscopy[:cut].std(axis=0)
    spread = np.maximum(deviation, 0.05 * np.median(deviation) + 1e-6)
    standard = standardised(dermoscopy[:cut], middle, spread).astype(np.float64)
    values, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
    weight = np.zeros((len(KIND_NAMES), len(middle)))
    bias = np.full(len(KIND_NAMES), NEVER)
    bias[0] = 0.0
    for index, name in enumerate(KIND_NAMES):
        rows = others.get(name)
        if index and rows is not None and len(rows):
            mean = standardised(rows, middle, spread).astype(np.float64).mean(axis=0)
            weight[index] = vectors @ ((vectors.T @ mean) / (np.maximum(values, 0) + SHRINKAGE))
            bias[index] = -0.5 * float(mean @ weight[index])
    directions = vectors[:, ::-1][:, :DIRECTIONS].T
    lengths = np.sqrt(np.maximum(values[::-1][:DIRECTIONS], 1e-6))
    parts = (middle, spread, directions, lengths, np.ones(2), weight, bias)
    first = KindModel(*(np.asarray(part, np.float32) for part in parts))
    held = dermoscopy[cut:]
    usual = np.quantile(np.stack(first.distances(held)), 1 - STRANGE_SHARE, axis=1)
    model = replace(first, usual=np.asarray(usual, np.float32))
    scores, _ = model.many(held)
    return model, float(np.quantile(scores[:, 0] - scores[:, 1:].max(axis=1), LINEAR_SHARE))


def rows_by_name(seen: Seen, listed: Sequence[Listed], keep: Callable[[Listed], bool]) -> dict[str, Floats]:
    """Rows of the pictures that are kept, by their name to the model of kinds."""
    names = np.array([one.name if keep(one) else "" for one in listed])
    return {name: seen.rows[names == name] for name in KIND_NAMES[1:] if (names == name).any()}


def fit_quality(
    package: Path,
    data: Path,
    pictures: Path,
    say: Callable[[str], None],
    store: Path | None = None,
    sources: Sequence[str] = (),
) -> str:
    """Fit the model of kinds for a package and seal the package with it.

    Parameters
    ----------
    data
        Folder with ``labels.csv`` and the dermoscopy pictures.
    pictures
        What `ai_engine.quality.assemble` wrote.
    store
        Where features are kept for the next time.
    sources
        Only dermoscopy of these: a package that is free of some terms must be fitted without pictures under them.

    Returns
    -------
    The new model digest.

    Raises
    ------
    TrainingDataError
        If data or pictures are not there or cannot be read.
    """
    from safetensors.numpy import save_file

    runner = open_runner(package)
    say(f"dermoscopy: {TRAIN_PICTURES} pictures of the training split")
    dermoscopy = look_once(
        package, runner, dermoscopy_pictures(data, "train", TRAIN_PICTURES, sources=sources)[0], store
    )
    listed = listed_pictures(pictures)
    say(f"other kinds: {len(listed)} pictures")
    others = look_once(package, runner, [read_picture(pictures / one.file) for one in listed], store)
    model, odds = fit_kinds(dermoscopy.rows, rows_by_name(others, listed, lambda one: True))
    limits = Limits(dermoscopic=round(odds, 3))
    save_file({name: np.ascontiguousarray(value) for name, value in vars(model).items()}, package / FILE)
    (package / FILE).chmod(0o644)
    tree = yaml.safe_load((package / "model.yaml").read_text(encoding="utf-8"))
    tree["quality"] = {**tree.get("quality", {}), "file": FILE, "limits": limits.model_dump(mode="json")}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
    (package / "model.yaml").write_text(text, encoding="utf-8")
    return seal_package(package)
