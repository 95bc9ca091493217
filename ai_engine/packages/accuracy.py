"""The report of the accuracy gate, as it lives in a package (``gate.json``), and what follows from it.

Performance reference section 4: every cheaper way of running a network (fewer mirrored passes, larger steps, one
window, bf16, 8-bit integers, another framework) is measured on held-out real cases, against the shipped procedure
with the same weights and against truth.  A *variant* that fails is not offered: asking for it is refused by name.

Guaranteed: a report belongs to the weights it was made with, whose digests it names; with other weights it is refused.
The rule was fixed before anything was measured: see `Rule`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_engine.packages.common import Window
from ai_engine.packages.store import GATE, INT8, NETWORK
from dicom_node.refusals import RefusalCode, Refused

if TYPE_CHECKING:
    from ai_engine.packages.schema import Description
    from ai_engine.packages.store import ModelPackage
    from ai_engine.prediction import EngineSettings

REFERENCE = "reference"
"""The variant that the others are compared with: the framework's own procedure in float32, step 0.5 (nnU-Net mirrors
every axis that training mirrored, Keras none)."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Strict):
    """What a variant must hold, region by region."""

    mean_loss: float = 0.005
    """Largest loss of mean Dice against truth, compared with the reference."""
    worst_loss: float = 0.05
    """Largest loss in any one case, unless a person has looked at it (`Report.reviewed`)."""
    lesion_ml: float = 1.0
    """No connected part of the truth above this size may be found by the reference and newly missed."""
    hd95_voxels: float = 0.5
    """Mean HD95 may grow by this share of the shortest voxel side: less cannot be told on the grid."""


class Way(_Strict):
    """One way of running the network; None means what the package says."""

    backend: Literal["openvino", "torch", "tensorflow"] | None = None
    precision: Literal["f32", "bf16", "f16", "int8"]
    mirror_axes: tuple[int, ...]
    step: float
    window: Window = "patch"

    def words(self) -> str:
        """In a few words, for tables and refusals."""
        parts: list[str] = [self.precision]
        parts.append(f"{2 ** len(self.mirror_axes)}x mirrored" if self.mirror_axes else "not mirrored")
        parts.append({"box": "one window", "located": "a located window"}.get(self.window, f"step {self.step:g}"))
        return ", ".join([*([self.backend] if self.backend else []), *parts])


class RegionOutcome(_Strict):
    """One region over all held-out cases."""

    dice: float
    """Mean against truth."""
    loss: float
    """Mean Dice of the reference minus this one."""
    loss_ci95: tuple[float, float]
    """Paired bootstrap over cases."""
    worst_loss: float
    agreement: float
    """Mean Dice against the reference's own answer."""
    hd95_mm: float | None
    hd95_change_mm: float | None
    newly_missed: int
    """Lesions above the rule's size that the reference finds and this variant does not."""


class Cost(_Strict):
    """What one case costs, mean over the held-out ones; `wall_s` is worth something on a quiet machine only."""

    wall_s: float
    cpu_s: float
    cpu_median_s: float | None = None
    """Median over the held-out cases; None in reports from before it was kept."""
    passes: float
    tflop: float | None = None
    peak_mb: float


class CaseDice(_Strict):
    """One case: Dice against truth and against the reference, by region."""

    case: str
    dice: dict[str, float]
    agreement: dict[str, float]


class Variant(_Strict):
    """One way, what it costs and whether it passed."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    way: Way
    precision: str
    """Read back from the network that ran."""
    backend: str
    passed: bool
    reasons: tuple[str, ...] = ()
    """Why it failed; empty when it passed."""
    cost: Cost
    regions: dict[str, RegionOutcome]
    cases: tuple[CaseDice, ...]


class Report(_Strict):
    """A whole ``gate.json``."""

    format: Literal[1] = 1
    files: dict[str, str]
    """sha256 of the weights and plans that were measured."""
    evidence: tuple[str, ...]
    """Which network was measured on which cases, in words; whoever ran the gate named them as held out."""
    same_weights: bool
    """Whether the measured networks are this package's, or folds of the same recipe."""
    rule: Rule = Rule()
    reviewed: dict[str, str] = {}
    """Case to what a person saw, for cases that lost more than `Rule.worst_loss`."""
    machine: str
    calibration: str = ""
    """How 8-bit integers were calibrated."""
    variants: tuple[Variant, ...]

    def find(self, way: Way) -> Variant | None:
        """The measured variant that is run this way; the backend counts only where a variant names one."""
        for variant in self.variants:
            measured = variant.way
            if measured.backend not in (None, way.backend):
                continue
            if measured.model_copy(update={"backend": None}) == way.model_copy(update={"backend": None}):
                return variant
        return None


def measured_files(sha256: Mapping[str, str], description: Description) -> dict[str, str]:
    """The files of a package that decide what a network answers, with their digests."""
    names = {*description.weights, "plans.json", "dataset.json", NETWORK, *INT8}
    return {name: digest for name, digest in sorted(sha256.items()) if name in names}


def parse_report(data: bytes) -> Report:
    """Read the bytes of a ``gate.json``.

    Raises
    ------
    Refused
        ``model-untrusted`` if it is not one.
    """
    try:
        return Report.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(
            RefusalCode.MODEL_UNTRUSTED, expected=f"a valid {GATE}", found=f"{where}: {first['msg']}"
        ) from error


def report_of(package: ModelPackage) -> Report | None:
    """The package's gate report; None if it has none.

    Raises
    ------
    Refused
        ``model-untrusted`` if it was made with other weights.
    """
    data = package.files.get(GATE)
    if data is None:
        return None
    report = parse_report(data)
    here = measured_files(package.sha256, package.segmentation)
    left_out = {name for name in INT8 if name not in here}  # measured, but a command can make them again
    if {name: digest for name, digest in report.files.items() if name not in left_out} != here:
        raise Refused(RefusalCode.MODEL_UNTRUSTED, expected=f"{GATE} of these weights", found=f"{GATE} of others")
    return report


def way_of(description: Description, settings: EngineSettings, *, on_cuda: bool = False) -> Way:
    """How a package is run under some settings."""
    inference = description.inference
    own = inference.precision.cuda if on_cuda else inference.precision.cpu
    mirror = inference.mirror_axes if settings.mirror_axes is None else tuple(settings.mirror_axes)
    return Way(
        backend=None if settings.backend == "auto" else settings.backend,
        precision=own if settings.precision == "package" else settings.precision,
        mirror_axes=() if settings.mirroring is False else mirror,
        step=settings.step or inference.step,
        window=settings.window or inference.window,
    )


def refuse_unless_offered(package: ModelPackage, settings: EngineSettings, *, on_cuda: bool = False) -> str:
    """Hold a package to its report before anything is computed.

    Returns
    -------
    ``passed``, ``not measured`` or ``no gate``, for the result.

    Raises
    ------
    Refused
        ``variant-not-offered`` for a way of running that failed, and for one that was never measured where that is
        needed: 8-bit integers, one window over the box, and a located one.
    """
    report = report_of(package)
    way = way_of(package.segmentation, settings, on_cuda=on_cuda)
    found = report.find(way) if report is not None else None
    if way.precision == "int8" and not holds_int8(package):
        _refuse(report, f"{way.words()}: the package does not hold its 8-bit network (ai-node models gate --int8)")
    if found is not None and found.passed:
        return "passed"
    if settings.measuring:
        return "being measured"
    if found is not None:
        _refuse(report, f"{way.words()}: {'; '.join(found.reasons)}")
    if way.precision == "int8" or way.window != "patch":
        _refuse(report, f"{way.words()}: {'never measured' if report else 'the package has no accuracy gate report'}")
    return "not measured" if report is not None else "no gate"


def holds_int8(package: ModelPackage) -> bool:
    """Whether the package has its network in 8-bit integers, too."""
    return set(INT8) <= set(package.sha256)


def _refuse(report: Report | None, found: str) -> None:
    passed = [variant.way.words() for variant in report.variants if variant.passed] if report is not None else []
    raise Refused(
        RefusalCode.VARIANT_NOT_OFFERED, expected=" or ".join(passed) or "a measured way of running", found=found[:500]
    )


def cheapest(report: Report, *, with_int8: bool = False) -> Variant:
    """The variant that passed at the least processor time; the reference where none did.

    A larger step that saved no window on the measured cases was not put to the test, so it is not chosen.

    Parameters
    ----------
    with_int8
        Whether the package holds its 8-bit network, so that it may be chosen.
    """
    passed = [
        variant
        for variant in report.variants
        if variant.passed and variant.way.backend is None and (with_int8 or variant.way.precision != "int8")
    ]
    tested = [variant for variant in passed if not any(_same_windows(other, variant) for other in passed)]
    return min(tested, key=lambda variant: variant.cost.cpu_s)


def _same_windows(other: Variant, variant: Variant) -> bool:
    """Whether another variant laid the same windows at a smaller step."""
    alike = other.way.model_copy(update={"step": variant.way.step}) == variant.way
    return alike and other.way.step < variant.way.step and other.cost.passes <= variant.cost.passes


def judge(regions: Mapping[str, RegionOutcome], worst_cases: Mapping[str, str], rule: Rule, shortest_mm: float,
          reviewed: Mapping[str, str]) -> tuple[str, ...]:  # fmt: skip
    """Why a variant fails; empty when it passes.

    Parameters
    ----------
    worst_cases
        Region to the case that lost most.
    shortest_mm
        Shortest voxel side of the cases.
    """
    reasons = []
    for key, entry in regions.items():
        if entry.loss > rule.mean_loss:
            reasons.append(f"{key}: mean Dice loss {entry.loss:.4f} over {rule.mean_loss:g}")
        if entry.worst_loss > rule.worst_loss and worst_cases[key] not in reviewed:
            reasons.append(f"{key}: a case lost {entry.worst_loss:.3f}, over {rule.worst_loss:g}")
        if entry.newly_missed:
            reasons.append(f"{key}: {entry.newly_missed} lesion(s) over {rule.lesion_ml:g} ml newly missed")
        if entry.hd95_change_mm is not None and entry.hd95_change_mm > rule.hd95_voxels * shortest_mm:
            reasons.append(f"{key}: HD95 {entry.hd95_change_mm:.2f} mm longer")
    return tuple(reasons)


def as_table(report: Report) -> str:
    """The report as a Markdown table: cost and Dice side by side, in the order of measurement."""
    keys = list(report.variants[0].regions) if report.variants else []
    head = ["variant", "way", "ran as", "passes", "TFLOP", "CPU s", "peak MB"]
    head += [f"{key} Dice, loss (95 % interval)" for key in keys] + ["gate"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant in report.variants:
        cost, is_reference = variant.cost, variant.name == REFERENCE
        cells = [
            variant.name,
            variant.way.words(),
            f"{variant.backend} {variant.precision}",
            f"{cost.passes:.0f}",
            "-" if cost.tflop is None else f"{cost.tflop:.2f}",
            f"{cost.cpu_s if cost.cpu_median_s is None else cost.cpu_median_s:.1f}",
            f"{cost.peak_mb:.0f}",
        ]
        cells += [_dice_and_loss(variant.regions[key], is_reference=is_reference) for key in keys]
        cells.append("reference" if is_reference else "passed" if variant.passed else "**failed**")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _dice_and_loss(found: RegionOutcome, *, is_reference: bool) -> str:
    if is_reference:
        return f"{found.dice:.3f}"
    low, high = found.loss_ci95
    return f"{found.dice:.3f}, {found.loss:+.4f} ({low:+.3f} to {high:+.3f})"


def about(report: Report) -> str:
    """What was measured on what, and how the table is to be read."""
    cases = len(report.variants[0].cases) if report.variants else 0
    kind = "mean" if any(variant.cost.cpu_median_s is None for variant in report.variants) else "median"
    return (
        f"Measured: {'; '.join(report.evidence)} (n = {cases}). {report.machine}. CPU s: processor seconds of one "
        f"case, {kind}; peak MB: of the model's process. Loss is the reference's mean Dice minus the variant's, with "
        "its paired bootstrap interval over cases."
    )


_BEGIN, _END = "<!-- accuracy gate -->", "<!-- end of accuracy gate -->"


def put_into_card(card: str, report: Report, *, with_int8: bool = True) -> str:
    """The text of a card with the report's table in it, in place of an older one.

    Parameters
    ----------
    with_int8
        Whether the package holds its 8-bit network; else that is measured, but not offered.
    """
    good = [variant for variant in report.variants if variant.passed and variant.name != REFERENCE]
    passed = [variant.name for variant in good if with_int8 or variant.way.precision != "int8"]
    left_out = [variant.name for variant in good if variant.name not in passed]
    failed = [f"{variant.name} ({'; '.join(variant.reasons)})" for variant in report.variants if not variant.passed]
    section = "\n\n".join(
        [
            _BEGIN,
            "## Ways of running it, measured",
            about(report),
            as_table(report).strip(),
            f"Offered: {', '.join(passed) or 'the reference only'}. Not offered: {'; '.join(failed) or 'none'}.",
            *([f"Passed, but not in the package: {', '.join(left_out)}."] if left_out else []),
            *([f"8-bit integers: {report.calibration}."] if report.calibration else []),
            _END,
        ]
    )
    before, begin, rest = card.partition(_BEGIN)
    after = rest.partition(_END)[2] if begin else ""
    return f"{before.rstrip()}\n\n{section}\n{after.lstrip()}"


def canonical(report: Report) -> bytes:
    """The bytes of ``gate.json``."""
    tree: dict[str, Any] = report.model_dump(mode="json")
    return (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode()
