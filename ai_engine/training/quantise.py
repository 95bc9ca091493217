"""The 8-bit variant of a package, made when the package is built: NNCF's post-training quantisation of OpenVINO.

Calibrated on real windows of cases that the network may know (training cases), never on those that the gate measures.
``nncf`` is of the optional extra ``[train]``; a node that runs a package does not need it.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_engine.evaluation.datasets import LabelledCase, read_image
from ai_engine.packages import load_package, seal_package
from ai_engine.packages.store import INT8
from dicom_node.refusals import RefusalCode, Refused

Say = Callable[[str], None]
Windows = list[npt.NDArray[np.float32]]

PATCHES = 64
"""Windows that calibration looks at; the performance reference asks for 50 at least."""


def quantise_package(folder: Path, cases: Sequence[LabelledCase], say: Say, *, patches: int = PATCHES) -> str:
    """Write ``int8.xml`` and ``int8.bin`` into a package's folder; it must be sealed again afterwards.

    Parameters
    ----------
    cases
        Cases to calibrate on, each with every role of the package.

    Returns
    -------
    What was done, in words, for the report.

    Raises
    ------
    Refused
        ``backend-missing`` without nncf.
    ValueError
        If the package has several folds or there are no cases.
    """
    if importlib.util.find_spec("nncf") is None:
        raise Refused(RefusalCode.BACKEND_MISSING, expected="the optional extra [train]", found="nncf is not installed")
    import nncf
    import openvino as ov

    from ai_engine.backends.openvino import check_quantised, converted
    from ai_engine.runners.modules import torch_module

    package = load_package(folder)
    if len(package.description.weights) != 1 or not cases:
        raise ValueError("an 8-bit variant is made of one network, calibrated on one case or more")
    module, window = torch_module(package)
    size = tuple(max(32, -(-side // 2 // 32) * 32) for side in window)
    found = calibration_windows(folder, cases, size, patches)
    say(f"calibrating on {len(found)} windows of {' x '.join(str(side) for side in size)} from {len(cases)} cases")
    model = converted(module, (1, len(package.description.inputs), *size))
    quantised = nncf.quantize(model, nncf.Dataset(found), preset=nncf.QuantizationPreset.MIXED, subset_size=len(found))
    with tempfile.TemporaryDirectory() as scratch:
        ov.save_model(quantised, Path(scratch) / INT8[0], compress_to_fp16=True)
        check_quantised((Path(scratch) / INT8[0]).read_bytes())
        for name in INT8:
            (folder / name).write_bytes((Path(scratch) / name).read_bytes())
    return (
        f"NNCF {nncf.__version__} post-training quantisation, {len(found)} windows of "
        f"{'x'.join(str(side) for side in size)} voxels from {len(cases)} cases, none measured with that network"
    )


def quantise_networks(
    folder: Path, dataset: Sequence[LabelledCase], held_out: Mapping[Path, Sequence[str]], say: Say, *, patches: int
) -> str:
    """Make the 8-bit variant of a package and of the networks it is measured by, and seal them.

    Parameters
    ----------
    dataset
        All cases there are.
    held_out
        Folder of each measured network to the cases it is measured on.  None of those calibrates that network, and none
        of all of them the package's own.

    Returns
    -------
    What was done, in words, for the report.

    Raises
    ------
    ValueError
        If a measured network has no case left to be calibrated on.
    """
    apart = {place: set(names) for place, names in held_out.items()}
    apart[folder] = set().union(*apart.values())
    words = ""
    for place, names in apart.items():
        cases = [case for case in dataset if case.name not in names]
        if not cases and place in held_out:
            raise ValueError("8-bit integers are calibrated on cases that are not held out: none is left")
        cases = cases or list(dataset)  # the package itself is not measured where its folds are
        words = quantise_package(place, cases, say, patches=patches)
        seal_package(place)
    return words


def calibration_windows(folder: Path, cases: Sequence[LabelledCase], size: tuple[int, ...], count: int) -> Windows:
    """Windows ``(1, channel, *size)`` as the network would see them, as many from every case; fixed by a seed."""
    from ai_engine.engine import Engine
    from ai_engine.prediction import EngineSettings

    settings = EngineSettings(device="cpu", precision="f32", threads=1, window="patch", measuring=True)
    engine = Engine(load_package(folder), settings)
    roles = [entry.role for entry in engine.package.description.inputs]
    random = np.random.default_rng(42)
    windows: Windows = []
    for number, case in enumerate(cases):
        data = engine.prepared({role: read_image(case.images[role], case.spacing_mm) for role in roles})
        share = count // len(cases) + (number < count % len(cases))
        slices = data.shape[1:][: 3 - len(size)]
        spatial = data.shape[1:][len(slices) :]
        if any(have < want for have, want in zip(spatial, size, strict=True)):
            margins = [(0, max(0, want - have)) for have, want in zip(spatial, size, strict=True)]
            data = np.pad(data, [(0, 0), *((0, 0) for _ in slices), *margins])
            spatial = data.shape[1:][len(slices) :]
        for _ in range(share):
            corner = [int(random.integers(0, have - want + 1)) for have, want in zip(spatial, size, strict=True)]
            where: list[slice] = [slice(at, at + want) for at, want in zip(corner, size, strict=True)]
            fixed = [int(random.integers(0, have)) for have in slices]
            place: tuple[slice | int, ...] = (slice(None), *fixed, *where)
            windows.append(np.ascontiguousarray(data[place])[None])
    return windows
