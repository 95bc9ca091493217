"""Writing a gate's report into its package: ``gate.json``, the table in the card, and the way that is adopted.

Adopting changes what the package does by default, so its stored case is answered anew; where fewer axes are mirrored
than training mirrored, the package keeps the latter, which the next gate's reference needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ai_engine.packages import load_package, seal_package
from ai_engine.packages.accuracy import REFERENCE, Report, Way, canonical, cheapest, put_into_card, way_of
from ai_engine.packages.store import DESCRIPTION, GATE, INT8
from ai_engine.prediction import EngineSettings

CARD = "CARD.md"


@dataclass(frozen=True)
class Written:
    """What became of a package.

    Attributes
    ----------
    digest
        The package's new digest.
    adopted
        How it is run by default now, where that was asked for.
    runs
        Whether its own settings passed, so that it can be run as it is.
    """

    digest: str
    adopted: Way | None
    runs: bool


def write_report(folder: Path, report: Report, *, adopt: bool, keep_int8: bool = True) -> Written:
    """Write ``gate.json`` and the card, adopt the cheapest way that passed if wished, and seal.

    Parameters
    ----------
    keep_int8
        False takes the 8-bit network out again: it was measured, the report says so and names its digest, and
        ``ai-node models gate --int8`` makes it again.  It is not adopted then.
    """
    if not keep_int8:
        for name in INT8:
            (folder / name).unlink(missing_ok=True)
    (folder / GATE).write_bytes(canonical(report))
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).exists() else ""
    with_int8 = all((folder / name).exists() for name in INT8)
    (folder / CARD).write_text(put_into_card(card, report, with_int8=with_int8), encoding="utf-8")
    way = cheapest(report, with_int8=with_int8).way if adopt else None
    if way is not None:
        _adopt(folder, report, way)
    digest = seal_package(folder)
    own = report.find(way_of(load_package(folder, weights=False).segmentation, EngineSettings(device="cpu")))
    if way is not None:
        digest = _answer_stored_case(folder) or digest
    return Written(digest, way, own is not None and own.passed)


def inference_of(way: Way, reference: Way) -> dict[str, Any]:
    """The keys of ``inference`` in ``model.yaml`` that make a way the default, but for the precision."""
    fewer = way.mirror_axes != reference.mirror_axes
    return {
        "step": way.step,
        "mirror_axes": list(way.mirror_axes),
        **({"trained_mirror_axes": list(reference.mirror_axes)} if fewer and reference.mirror_axes else {}),
        **({"window": way.window} if way.window != "patch" else {}),
    }


def _adopt(folder: Path, report: Report, way: Way) -> None:
    tree = yaml.safe_load((folder / DESCRIPTION).read_bytes())
    kept = {key: value for key, value in tree["inference"].items() if key not in ("trained_mirror_axes", "window")}
    reference = next(variant.way for variant in report.variants if variant.name == REFERENCE)
    precision = {**kept.get("precision", {}), "cpu": way.precision}
    tree["inference"] = {**kept, **inference_of(way, reference), "precision": precision}
    _write_tree(folder, tree)


def _answer_stored_case(folder: Path) -> str | None:
    """Let the package answer its stored case by its new default; the new digest, None without such a case."""
    from ai_engine.engine import Engine
    from ai_engine.selftest import self_test

    package = load_package(folder)
    if package.segmentation.self_test is None:
        return None
    settings = EngineSettings(device="cpu", threads=1, measuring=True)
    result = self_test(package, Engine(package, settings).run)
    if result is None or result.found == result.expected:
        return None
    tree = yaml.safe_load((folder / DESCRIPTION).read_bytes())
    tree["self_test"]["voxels"] = dict(result.found)
    _write_tree(folder, tree)
    return seal_package(folder)


def _write_tree(folder: Path, tree: dict[str, Any]) -> None:
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
