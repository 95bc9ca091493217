"""The evaluation as one self-contained page, and as a section of a model card."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ai_engine.evaluation.study import CaseAgreement, Study, summarise
from ai_engine.inline import png_uri

WORST = 12
BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"


def page(study: Study) -> str:
    """HTML with tables, plots and the worst cases' pictures inside."""
    environment = Environment(
        loader=PackageLoader("ai_engine.evaluation", "templates"), autoescape=True, undefined=StrictUndefined
    )
    ordered = sorted(study.cases, key=lambda entry: entry.lowest_dice)
    return environment.get_template("study.html").render(
        study=study,
        summary={key: summarise(study.cases, key) for key in study.regions},
        cases=ordered,
        refused=[entry for entry in study.cases if entry.refusal is not None],
        plots=[_dice_plot(study), _volume_plot(study)],
        worst=[(entry, png_uri(entry.picture.read_bytes())) for entry in ordered[:WORST] if entry.picture is not None],
    )


def card_section(study: Study) -> str:
    """The same figures as Markdown between two marks, so that they can be put into a card again and again."""
    lines = [
        BEGIN,
        f"`ai-node evaluate --model {study.model}` on a dataset of kind {study.dataset}: {len(study.cases)} cases; "
        f"{study.identity['backend']}, {study.identity['precision']}, inputs {', '.join(study.identity['inputs'])}.",
        "",
        "| region | patients | Dice (95 % interval) | worst | IoU | sensitivity | specificity | HD95 mm "
        "| surface Dice | volume error % (median) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, name in study.regions.items():
        found = summarise(study.cases, key)
        lines.append(
            f"| {name} | {found['patients']} | {_mean(found, 'dice', 3, interval=True)} | {_worst(found)} | "
            f"{_mean(found, 'iou', 3)} | {_mean(found, 'sensitivity', 3)} | {_mean(found, 'specificity', 4)} | "
            f"{_mean(found, 'hd95_mm', 1)} | {_mean(found, 'surface_dice', 3)} | {_median(found)} |"
        )
    lines += ["", "| case | " + " | ".join(study.regions.values()) + " |", "|---" * (1 + len(study.regions)) + "|"]
    for entry in sorted(study.cases, key=lambda entry: entry.lowest_dice):
        cells = [f"{entry.regions[k].dice:.3f}" if k in entry.regions else "refused" for k in study.regions]
        lines.append(f"| {entry.case.name} | " + " | ".join(cells) + " |")
    shares = ", ".join(f"{study.regions[key]} {p:.0%} (truth {t:.0%})" for key, (p, t) in study.shares.items())
    lines += ["", f"Share of all labelled voxels: {shares}." if shares else "", END]
    return "\n".join(lines) + "\n"


def put_into_card(card: str, section: str) -> str:
    """The card with its evaluation section replaced, or added at its end."""
    if BEGIN in card and END in card:
        head, _, rest = card.partition(BEGIN)
        return head + section.rstrip("\n") + rest.partition(END)[2]
    return card.rstrip("\n") + "\n\n## Evaluation\n\n" + section


def _mean(found: dict[str, Any], measure: str, digits: int, *, interval: bool = False) -> str:
    if measure not in found:
        return "-"
    value = found[measure]
    text = f"{value['mean']:.{digits}f}"
    return f"{text} ({value['low']:.{digits}f} to {value['high']:.{digits}f})" if interval else text


def _median(found: dict[str, Any]) -> str:
    return f"{found['volume_error_percent']['median']:+.0f}" if "volume_error_percent" in found else "-"


def _worst(found: dict[str, Any]) -> str:
    return f"{found['dice']['min']:.3f}" if "dice" in found else "-"


def _dice_plot(study: Study) -> str:
    """Every case as a point, by region."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 1.4 * len(study.regions), 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, key in enumerate(study.regions):
        values = [entry.regions[key].dice for entry in study.cases if key in entry.regions]
        axes.scatter([place + 0.06 * ((n % 5) - 2) for n in range(len(values))], values, s=18, alpha=0.7)
        if values:
            axes.hlines(sum(values) / len(values), place - 0.3, place + 0.3, color="black", linewidth=1.5)
    axes.set_xticks(range(len(study.regions)), list(study.regions.values()), rotation=20, ha="right")
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("Dice (line: mean)")
    return _png(figure)


def _volume_plot(study: Study) -> str:
    """Found against true volume."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    top = 1.0
    for key, name in study.regions.items():
        pairs = _volumes(study.cases, key)
        axes.scatter([t for t, _ in pairs], [p for _, p in pairs], s=18, alpha=0.7, label=name)
        top = max([top, *(value for pair in pairs for value in pair)])
    axes.plot([0, top], [0, top], color="grey", linewidth=1)
    axes.set_xlabel("true volume, mL")
    axes.set_ylabel("found volume, mL")
    axes.legend(fontsize=8)
    return _png(figure)


def _volumes(cases: Sequence[CaseAgreement], key: str) -> list[tuple[float, float]]:
    return [(entry.regions[key].truth_ml, entry.regions[key].predicted_ml) for entry in cases if key in entry.regions]


def _png(figure: Any) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return png_uri(buffer.getvalue())
