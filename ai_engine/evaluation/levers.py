"""Levers: the cheaper ways of running a network, by name, and what the framework's own procedure is.

A name says what is changed against the package: ``mirrored-`` (every axis that training mirrored), ``one-axis-`` (the
last, left and right in an axial volume) or ``mirror-02-`` (those axes of the patch), else nothing is mirrored; then
``step-0.75-`` (other steps), ``box-`` (one window over everything) or ``located-`` (one window where a look at half the
resolution saw something); then the arithmetic.  ``tensorflow`` runs a
Keras package through its own framework.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

from ai_engine.packages import Description, ModelPackage
from ai_engine.packages.accuracy import REFERENCE, Way
from ai_engine.packages.common import Window

LEVERS = (
    "f32",
    "bf16",
    "mirrored-bf16",
    "one-axis-bf16",
    "mirror-0-bf16",
    "mirror-1-bf16",
    "mirror-01-bf16",
    "mirror-02-bf16",
    "mirror-12-bf16",
    "step-0.75-bf16",
    "step-1.0-bf16",
    "mirrored-step-0.75-bf16",
    "mirrored-step-1.0-bf16",
    "box-f32",
    "box-bf16",
    "mirrored-box-bf16",
    "located-bf16",
    "int8",
    "mirrored-int8",
    "tensorflow",
)
"""What ``--levers`` measures, besides the reference; other combinations can be named one by one."""
OFFERED = ("f32", "bf16", "int8")
"""The ways that a gate measures when it is not told which."""

_NAME = re.compile(
    r"(?:(?P<mirror>mirrored|one-axis|mirror-(?P<axes>(?=\d)0?1?2?))-)?"
    r"(?:step-(?P<step>0\.[1-9]\d?|1\.0)-|(?P<window>box|located)-)?"
    r"(?P<precision>f32|bf16|int8)"
)


def reference_axes_of(package: ModelPackage) -> tuple[int, ...]:
    """What the shipped procedure of a package's framework mirrors.

    nnU-Net mirrors the axes that training mirrored: those that the package names, else every axis of its patch.  Keras'
    ``model.predict`` mirrors nothing.
    """
    inference = package.segmentation.inference
    if package.segmentation.runner == "keras":
        return inference.mirror_axes
    return inference.trained_mirror_axes or inference.mirror_axes or tuple(range(patch_axes_of(package)))


def patch_axes_of(package: ModelPackage) -> int:
    """Two for a network that reads slices, three for one that reads volumes."""
    if package.segmentation.runner == "keras":
        return 3
    entries = package.json("plans.json")["configurations"]
    name: str | None = package.segmentation.inference.configuration
    while name is not None:
        if "patch_size" in entries[name]:
            return len(entries[name]["patch_size"])
        name = entries[name].get("inherits_from")
    return 3


def fits(package: ModelPackage, name: str) -> bool:
    """Whether a lever means something here: a network that reads slices has two axes to mirror and no box to fill, and
    the nnU-Net runner has no localiser.

    Raises
    ------
    ValueError
        For a name that is no lever.
    """
    axes = patch_axes_of(package)
    way = _way(name, reference_axes_of(package) or tuple(range(axes)), package.segmentation.inference.step)
    if way.window == "located" and package.segmentation.runner != "keras":
        return False
    return max(way.mirror_axes, default=0) < axes and (axes == 3 or way.window == "patch")


def ways(
    description: Description, reference_axes: tuple[int, ...], wanted: Sequence[str], patch_axes: int = 3
) -> dict[str, Way]:
    """The reference and the wanted levers as ways of running this package; each way once, under its first name.

    Parameters
    ----------
    reference_axes
        Patch axes that the reference mirrors.
    patch_axes
        How many axes the patch has.

    Raises
    ------
    ValueError
        For a name that is no lever, or one that mirrors an axis that the patch does not have.
    """
    every = reference_axes or tuple(range(patch_axes))
    found = {REFERENCE: Way(precision="f32", mirror_axes=reference_axes, step=0.5)}
    order = {name: number for number, name in enumerate(LEVERS)}
    for name in sorted(wanted, key=lambda name: order.get(name, len(LEVERS))):
        way = _way(name, every, description.inference.step)
        if max(way.mirror_axes, default=0) >= patch_axes:
            raise ValueError(f"{name}: a patch of {patch_axes} axes was expected to have axis {max(way.mirror_axes)}")
        if way not in found.values():
            found[name] = way
    return found


def _way(name: str, every: tuple[int, ...], step: float) -> Way:
    if name == "tensorflow":
        return Way(backend="tensorflow", precision="f32", mirror_axes=(), step=step)
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise ValueError(f"variants like {', '.join(LEVERS)} were expected, found {name[:40]}")
    axes = {"mirrored": every, "one-axis": every[-1:]}.get(
        parts["mirror"] or "", tuple(int(axis) for axis in parts["axes"] or "")
    )
    return Way(
        precision=parts["precision"],
        mirror_axes=axes,
        step=float(parts["step"]) if parts["step"] else step,
        window=cast(Window, parts["window"] or "patch"),
    )
