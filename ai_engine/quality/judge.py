"""The order of questions, and the first no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ai_engine.packages.quality import Limits
from ai_engine.pictures import PictureKind
from ai_engine.quality.measures import Measures, measure_picture
from ai_engine.quality.rule import BARE_SKIN, DERMOSCOPIC, PLAIN, Rule
from dicom_node.refusals import Refusal, RefusalCode, Refused


@dataclass(frozen=True)
class Verdict:
    """Whether a picture may be answered, and why not.

    Attributes
    ----------
    code
        The reason of a refusal; None: the picture may be answered.
    expected, found
        In numbers and standard terms; never anything about a patient.
    kind
        What the picture was taken for: ``dermoscopic``, ``plain``, ``bare-skin``, ``unrelated``; empty where nothing
        looked at features.
    measures
        Every number that was looked at, for the timeline and for whoever wonders.
    """

    code: RefusalCode | None
    expected: str = ""
    found: str = ""
    kind: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_accepted(self) -> bool:
        return self.code is None

    @property
    def refusal(self) -> Refusal | None:
        """The refusal as the rest of the node speaks of it."""
        return None if self.code is None else Refusal(self.code, self.expected, self.found)

    def require(self) -> None:
        """Go on only with a picture that may be answered.

        Raises
        ------
        Refused
            With `code`.
        """
        if self.code is not None:
            raise Refused(self.code, self.expected, self.found)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "accepted": self.is_accepted,
            "code": None if self.code is None else self.code.value,
            "expected": self.expected,
            "found": self.found,
            "kind": self.kind,
            "measures": dict(self.measures),
        }


No = tuple[RefusalCode, str, str]


def judge(
    pixels: npt.NDArray[np.uint8],
    features: npt.NDArray[np.float32] | None,
    declared: PictureKind,
    rule: Rule,
) -> Verdict:
    """Say whether a picture may be answered by a package, before anybody sees what the network said.

    Parameters
    ----------
    pixels
        (rows, columns, 3) uint8, sRGB, as decoded from the archive's object.
    features
        (1280,) pooled features of the package's own network on this picture; None: only the picture itself is measured.
    declared
        What the sender says the picture is; empty: nothing.
    rule
        The package's limits and its model of kinds (`load_rule`).
    """
    return decide(measure_picture(pixels), features, declared, rule)


def decide(measures: Measures, features: npt.NDArray[np.float32] | None, declared: PictureKind, rule: Rule) -> Verdict:
    """The same of a picture that was measured before."""
    numbers = measures.to_json()
    no = _seen(measures, rule.limits)
    if no is not None:
        return Verdict(*no, measures=numbers)
    kind = ""
    if features is not None and rule.kinds is not None:
        scores = rule.kinds.scores(features, measures)
        numbers |= {name: round(value, 4) for name, value in scores.items()}
        kind = rule.kinds.kind(scores, rule.limits)
    no = _of_kind(kind, declared, rule)
    return Verdict(None, kind=kind, measures=numbers) if no is None else Verdict(*no, kind=kind, measures=numbers)


def _seen(m: Measures, limits: Limits) -> No | None:
    """What can be said from the picture alone: size, light, colour, a lesion, focus; the first that is wrong.

    Flatness comes after focus: blur takes the grain away, and who blurred a lesion must not be told that it is none.
    """
    low, high = limits.brightness
    code = RefusalCode
    for no, is_wrong, expected, found in (
        (
            code.IMAGE_TOO_SMALL,
            m.shorter_side < limits.shorter_side,
            f"at least {limits.shorter_side} pixels a side",
            f"{m.shorter_side:g}",
        ),
        (
            code.IMAGE_TOO_SMALL,
            m.elongation > limits.elongation,
            f"one side at most {limits.elongation:g} times the other",
            f"{m.elongation:.1f} times",
        ),
        (
            code.IMAGE_EXPOSURE,
            m.view < limits.view,
            f"at least {100 * limits.view:.0f} % of the picture in view",
            f"{100 * m.view:.0f} %, the rest is black",
        ),
        (
            code.IMAGE_EXPOSURE,
            not low <= m.brightness <= high,
            f"brightness {low:g} to {high:g} of 255",
            f"{m.brightness:.0f}",
        ),
        (
            code.IMAGE_EXPOSURE,
            m.glare > limits.glare,
            f"at most {100 * limits.glare:.0f} % burnt out",
            f"{100 * m.glare:.0f} %",
        ),
        (code.NOT_SKIN, m.colour < limits.colour, f"colour at least {limits.colour:g}", f"{m.colour:.2f}"),
        (
            code.NOT_SKIN,
            m.skin < limits.skin,
            f"at least {100 * limits.skin:.0f} % in colours of skin",
            f"{100 * m.skin:.0f} %",
        ),
        (code.NOT_SKIN, m.detail > limits.detail[1], f"grain at most {limits.detail[1]:g}", f"{m.detail:.1f}"),
        (
            code.NO_LESION_IN_VIEW,
            m.contrast < limits.contrast,
            f"contrast at least {limits.contrast:g}",
            f"{m.contrast:.0f}",
        ),
        (
            code.NO_LESION_IN_VIEW,
            m.lesion < limits.lesion,
            f"something at least {limits.lesion:.1f} CIELAB from the skin around it",
            f"{m.lesion:.1f}",
        ),
        (
            code.IMAGE_TOO_BLURRED,
            m.sharpness < limits.sharpness,
            f"sharpness at least {limits.sharpness:.2f}",
            f"{m.sharpness:.2f}",
        ),
        (
            code.IMAGE_TOO_BLURRED,
            m.detail < limits.detail[0],
            f"grain at least {limits.detail[0]:g}",
            f"{m.detail:.2f}",
        ),
        (
            code.NOT_SKIN,
            m.flatness > limits.flatness,
            f"at most {100 * limits.flatness:.0f} % without any grain, as in drawings",
            f"{100 * m.flatness:.0f} %",
        ),
    ):
        if is_wrong:
            return no, expected, found
    return None


def _of_kind(kind: str, declared: PictureKind, rule: Rule) -> No | None:
    """What the network's features say about the kind, against what was declared and what the package accepts."""
    if kind == BARE_SKIN:
        return RefusalCode.NO_LESION_IN_VIEW, "skin with a lesion", "skin"
    if kind and kind not in (DERMOSCOPIC, PLAIN):
        return RefusalCode.NOT_SKIN, "a picture like those the model was trained on", "another kind of picture"
    if kind and declared and kind != declared:
        return RefusalCode.PICTURE_KIND_CONTRADICTED, f"a {declared} picture, as declared", f"a {kind} picture"
    seen = kind or declared
    if seen and seen not in rule.accepts:
        return RefusalCode.PICTURE_KIND_UNSUPPORTED, f"a {' or '.join(rule.accepts)} picture", f"a {seen} picture"
    return None
