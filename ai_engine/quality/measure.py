"""What the gate does, in numbers.

``python -m ai_engine.quality.measure --package FOLDER --data DERMOSCOPY --pictures FOLDER --out FOLDER``

Four questions, each answered with counts and Wilson's 95 % intervals:

1. How many validation dermoscopy pictures are refused, and for which reason?  (None of them was fitted on.)
2. How many pictures that are no dermoscopy are refused, by kind?  The package's own model was fitted on all of them, so
   the question is put to models fitted in the same way without them: on the sources of part ``fit``, judged on those
   of part ``test``; and with every kind left out in turn.
3. Which step of blur, darkness, glare, compression, occlusion and crop is refused, and what does the network's AUC do
   on the pictures that pass?
4. What was wrongly refused or accepted?  Contact sheets, to be looked at.

``--card`` writes the figures into the package's ``CARD.md`` and seals the package again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ai_engine.evaluation.skin_scores import auc
from ai_engine.packages import load_package, seal_package
from ai_engine.quality.degrade import WAYS, degraded
from ai_engine.quality.fit import (
    TRAIN_PICTURES,
    Listed,
    Seen,
    dermoscopy_pictures,
    fit_kinds,
    listed_pictures,
    look,
    look_once,
    open_runner,
    read_picture,
    rows_by_name,
)
from ai_engine.quality.judge import Verdict, decide
from ai_engine.quality.rule import FEATURES, Rule, load_rule

if TYPE_CHECKING:
    from ai_engine.runners.classifier import ClassifierRunner

Pixels = npt.NDArray[np.uint8]
HEADING = "## Quality gate"
DEGRADED_PICTURES = 60


@dataclass(frozen=True)
class Share:
    """So many of so many, with Wilson's 95 % interval."""

    hits: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        if self.of == 0:
            return 0.0, 1.0
        z, share = 1.959964, self.hits / self.of
        middle = (share + z * z / (2 * self.of)) / (1 + z * z / self.of)
        half = z / (1 + z * z / self.of) * (share * (1 - share) / self.of + z * z / (4 * self.of**2)) ** 0.5
        return max(middle - half, 0.0), min(middle + half, 1.0)

    def __str__(self) -> str:
        low, high = self.interval
        share = 100 * self.hits / max(self.of, 1)
        return f"{self.hits} of {self.of} = {share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"hits": self.hits, "of": self.of, "ci95": [round(value, 4) for value in self.interval]}


def verdicts(seen: Seen, rule: Rule) -> list[Verdict]:
    """What the gate says about pictures that were looked at."""
    return [decide(m, row[:FEATURES], "", rule) for m, row in zip(seen.measures, seen.rows, strict=True)]


def refused(found: Sequence[Verdict]) -> Share:
    """How many were refused."""
    return Share(sum(not verdict.is_accepted for verdict in found), len(found))


def reasons(found: Sequence[Verdict]) -> dict[str, int]:
    """Refusals by code."""
    return dict(Counter(v.code.value for v in found if v.code is not None).most_common())


def picked(items: Sequence[Any], keep: Sequence[bool]) -> list[Any]:
    """Those items where `keep`."""
    return [item for item, is_kept in zip(items, keep, strict=True) if is_kept]


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that went through the network once.

    Attributes
    ----------
    train, val, others
        Dermoscopy of both splits; pictures that are no dermoscopy.
    malignant
        Of `val`.
    listed
        Of `others`.
    """

    train: Seen
    val: Seen
    malignant: list[bool]
    others: Seen
    listed: list[Listed]

    def fitted_on(self, keep: Sequence[bool], rule: Rule) -> Rule:
        """The rule with a model of kinds fitted on some of the others only."""
        kept = {one.file for one, is_kept in zip(self.listed, keep, strict=True) if is_kept}
        rows = rows_by_name(self.others, self.listed, lambda one: one.file in kept)
        kinds, odds = fit_kinds(self.train.rows, rows)
        return Rule(rule.limits.model_copy(update={"dermoscopic": odds}), rule.accepts, kinds)


def left_out(study: Study, rule: Rule) -> list[Verdict]:
    """What is said of every picture that is no dermoscopy by a model that was fitted without its whole kind."""
    found: dict[int, Verdict] = {}
    for kind in sorted({one.kind for one in study.listed}):
        others = [one.kind != kind for one in study.listed]
        unlike = study.fitted_on(others, rule)
        mine = ~np.array(others)
        found |= dict(zip(np.flatnonzero(mine).tolist(), verdicts(study.others.part(mine), unlike), strict=True))
    return [found[number] for number in range(len(study.listed))]


def measured(study: Study, rule: Rule) -> dict[str, Any]:
    """Questions 1 and 2, as JSON values."""
    val = verdicts(study.val, rule)
    by_source = verdicts(study.others, study.fitted_on([one.part == "fit" for one in study.listed], rule))
    is_test = [one.part == "test" for one in study.listed]
    tested = picked(by_source, is_test)
    unlike = left_out(study, rule)
    kinds: dict[str, Any] = {}
    for kind in sorted({one.kind for one in study.listed}):
        mine = [one.kind == kind for one in study.listed]
        here = [is_mine and is_held for is_mine, is_held in zip(mine, is_test, strict=True)]
        kinds[kind] = {
            "test": refused(picked(by_source, here)).to_json(),
            "left_out": refused(picked(unlike, mine)).to_json(),
            "reasons": reasons(picked(unlike, mine)),
        }
    picture_only = Rule(rule.limits, rule.accepts, None)
    return {
        "dermoscopy_val": refused(val).to_json() | {"reasons": reasons(val)},
        "dermoscopy_val_malignant": refused(picked(val, study.malignant)).to_json(),
        "dermoscopy_val_picture_only": refused(verdicts(study.val, picture_only)).to_json(),
        "dermoscopy_train": refused(verdicts(study.train, rule)).to_json(),
        "unrelated_test": refused(tested).to_json(),
        "unrelated_picture_only": refused(verdicts(study.others, picture_only)).to_json(),
        "unrelated_left_out": refused(unlike).to_json(),
        "kinds": kinds,
    }


def degrading(runner: ClassifierRunner, rule: Rule, pictures: Sequence[Pixels], truth: Sequence[bool]) -> list[Any]:
    """Question 3: a row per way and step, the untouched pictures first."""
    rows = []
    whole = look(runner, pictures)
    rows.append({"way": "none", "unit": "", "step": 0, **_passed(whole, rule, truth)})
    for way in WAYS:
        for step, strength in enumerate(way.steps):
            seen = look(runner, [degraded(picture, way, step, number) for number, picture in enumerate(pictures)])
            rows.append({"way": way.name, "unit": way.unit, "step": strength, **_passed(seen, rule, truth)})
    return rows


def _passed(seen: Seen, rule: Rule, truth: Sequence[bool]) -> dict[str, Any]:
    found = verdicts(seen, rule)
    passed = np.array([verdict.is_accepted for verdict in found])
    is_true, scores = np.array(truth), seen.logits[:, 0].astype(np.float64)
    whole = auc(is_true, scores)
    few = min(int((is_true & passed).sum()), int((~is_true & passed).sum())) < 5
    return {
        "refused": refused(found).to_json(),
        "reasons": reasons(found),
        "auc_all": round(whole, 3),
        "auc_passed": None if few else round(auc(is_true[passed], scores[passed]), 3),
    }


def balanced(truth: Sequence[bool], count: int) -> list[int]:
    """The first pictures, as many malignant as benign."""
    places = {value: [i for i, is_so in enumerate(truth) if is_so is value][: count // 2] for value in (True, False)}
    return sorted(places[True] + places[False])


def sheet(pictures: Sequence[Pixels], captions: Sequence[str], path: Path) -> None:
    """A contact sheet of at most 60 pictures with what was said about them."""
    wide, tall = 10, max(1, -(-min(len(pictures), 60) // 10))
    page = Image.new("RGB", (wide * 150, tall * 176), (255, 255, 255))
    pen = ImageDraw.Draw(page)
    for number, (picture, caption) in enumerate(list(zip(pictures, captions, strict=True))[:60]):
        left, top = number % wide * 150, number // wide * 176
        page.paste(Image.fromarray(picture).resize((146, 146)), (left, top))
        pen.text((left, top + 147), caption, fill=(0, 0, 0))
    page.save(path)


def card_section(told: Mapping[str, Any]) -> str:
    """The figures as Markdown for the card."""
    val, kinds = told["dermoscopy_val"], told["kinds"]
    lines = [
        HEADING,
        "",
        "Before anything is answered the picture is judged: size, light, focus, colours of skin, a lesion in view;",
        "and by a small linear model on the network's own features, whether it is dermoscopy at all. A refused",
        "picture has no probability. Shares with Wilson's 95 % intervals:",
        "",
        f"- validation dermoscopy refused: {_text(val)}",
        f"- malignant validation dermoscopy refused: {_text(told['dermoscopy_val_malignant'])}",
        f"- reasons: {', '.join(f'{code} {count}' for code, count in val['reasons'].items()) or 'none'}",
        f"- pictures that are no dermoscopy refused, origins not fitted on: {_text(told['unrelated_test'])}",
        f"- the same, every kind left out of the fit in turn: {_text(told['unrelated_left_out'])}",
        f"- without the model of kinds, by the picture alone: {_text(told['unrelated_picture_only'])}",
        "",
        "| kind | refused, other origins fitted | refused, kind left out of the fit |",
        "| --- | --- | --- |",
        *(f"| {kind} | {_text(row['test'])} | {_text(row['left_out'])} |" for kind, row in kinds.items()),
        "",
        f"Good validation pictures made worse ({told['degraded_pictures']}, half of them malignant); AUC of the first",
        "output, from one view, on all of them, and on those that passed:",
        "",
        "| way | step | refused | AUC, all | AUC, passed |",
        "| --- | --- | --- | --- | --- |",
        *(_degraded_line(row) for row in told["degraded"]),
        "",
        "**No data here prove the gate on real phone pictures.** The plain photographs it was fitted and measured on",
        "are simulated (a lesion of a dermoscopy picture, shrunk, on drawn skin) and windows of two portraits;",
        "textures and drawings are drawn. Skin is almost always light in the data: dermoscopy of darker skin, and of",
        "other cameras, may be refused more often, as too dark above all. Fundus photographs and stained tissue are",
        "the kinds that pass most often. A refused picture is no negative result.",
    ]
    return "\n".join(lines) + "\n"


def _text(share: Mapping[str, Any]) -> str:
    return str(Share(share["hits"], share["of"]))


def _degraded_line(row: Mapping[str, Any]) -> str:
    passed = "too few" if row["auc_passed"] is None else f"{row['auc_passed']:.3f}"
    share = Share(row["refused"]["hits"], row["refused"]["of"])
    return f"| {row['way']} ({row['unit']}) | {row['step']:g} | {share} | {row['auc_all']:.3f} | {passed} |"


def put_into_card(package: Path, section: str) -> str:
    """Replace the section in ``CARD.md``, or add it, and seal the package.

    Returns
    -------
    The new model digest.
    """
    card = (package / "CARD.md").read_text(encoding="utf-8")
    found = re.search(rf"^{HEADING}\n.*?(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    kept = card[: found.start()] + card[found.end() :] if found else card
    place = found.start() if found else len(kept)
    joint = kept[:place].rstrip("\n") + "\n\n" + section + ("\n" + kept[place:] if kept[place:] else "")
    (package / "CARD.md").write_text(joint, encoding="utf-8")
    return seal_package(package)


def run_study(
    package: Path, data: Path, pictures: Path, out: Path, degraded_count: int, sources: Sequence[str] = ()
) -> dict[str, Any]:
    """All four questions; contact sheets and ``quality.json`` below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    runner, rule = open_runner(package), load_rule(load_package(package))
    listed = listed_pictures(pictures)
    others = [read_picture(pictures / one.file) for one in listed]
    dermoscopy, truth = dermoscopy_pictures(data, "val", None, sources=sources)
    train = dermoscopy_pictures(data, "train", TRAIN_PICTURES, sources=sources)[0]
    seen = [look_once(package, runner, some, out) for some in (train, dermoscopy, others)]
    study = Study(seen[0], seen[1], truth, seen[2], listed)
    told = measured(study, rule)
    wrong = [(p, v) for p, v in zip(dermoscopy, verdicts(study.val, rule), strict=True) if not v.is_accepted]
    sheet([p for p, _ in wrong], [str(v.code.value) if v.code else "" for _, v in wrong], out / "wrongly-refused.png")
    let = [(p, o) for p, o, v in zip(others, listed, left_out(study, rule), strict=True) if v.is_accepted]
    sheet([p for p, _ in let], [o.source for _, o in let], out / "wrongly-accepted.png")
    chosen = balanced(truth, degraded_count)
    told["degraded_pictures"] = len(chosen)
    told["degraded"] = degrading(runner, rule, [dermoscopy[i] for i in chosen], [truth[i] for i in chosen])
    (out / "quality.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ai_engine.quality.measure", description=__doc__.split("\n")[0])
    parser.add_argument("--package", type=Path, required=True, help="folder of one version of a classifier's package")
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv and the dermoscopy pictures")
    parser.add_argument("--pictures", type=Path, required=True, help="what ai_engine.quality.assemble wrote")
    parser.add_argument(
        "--out", type=Path, required=True, help="contact sheets and quality.json; outside the repository"
    )
    parser.add_argument("--degraded", type=int, default=DEGRADED_PICTURES, help="pictures that are made worse")
    parser.add_argument("--source", action="append", default=[], help="only dermatoscope pictures of this source")
    parser.add_argument("--card", action="store_true", help="write the figures into the package's card and seal it")
    chosen = parser.parse_args(arguments)
    told = run_study(chosen.package, chosen.data, chosen.pictures, chosen.out, chosen.degraded, chosen.source)
    section = card_section(told)
    sys.stdout.write(section)
    if chosen.card:
        sys.stdout.write(f"sealed as {put_into_card(chosen.package, section)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
