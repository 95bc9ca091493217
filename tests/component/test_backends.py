"""One package through every backend: the same mask, the precision read back, what is missing named."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from fixtures_packages import make_keras_package

from ai_engine.backends import NetworkOptions, chosen_device, open_network
from ai_engine.backends.openvino import check_quantised
from ai_engine.engine import Engine
from ai_engine.evaluation.accuracy import Evidence, GateRequest, run_gate
from ai_engine.evaluation.datasets import open_dataset
from ai_engine.faults import MemoryExceeded, ModelFault
from ai_engine.geometry import Affine
from ai_engine.packages import load_package, seal_package
from ai_engine.packages.accuracy import canonical, cheapest, report_of
from ai_engine.packages.store import GATE
from ai_engine.prediction import EngineSettings, InputVolume
from dicom_node.refusals import RefusalCode, Refused

pytestmark = pytest.mark.component

AXIAL = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def _brain(seed: int = 0) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Two sequences with a bright ball in a ball, 40 x 44 x 36, and the truth."""
    s, r, c = np.mgrid[:40, :44, :36].astype(np.float64)
    brain = ((s - 20) / 17) ** 2 + ((r - 22) / 19) ** 2 + ((c - 18) / 15) ** 2 < 1
    lesion = (s - 22) ** 2 + (r - 18) ** 2 + (c - 20) ** 2 < 36
    noise = np.random.default_rng(seed).normal(0, 4, (2, *brain.shape))
    pictures = {
        "t1c": brain * (100 + 60 * lesion + noise[0]),
        "flair": brain * (100 + 90 * lesion + noise[1]),
    }
    return {role: picture.astype(np.float32) for role, picture in pictures.items()}, lesion.astype(np.uint8)


def _inputs() -> dict[str, InputVolume]:
    affine = Affine.from_axes([0, 0, 0], AXIAL, [1.0, 1.0, 1.0])
    return {role: InputVolume(picture, affine, modality="MR") for role, picture in _brain()[0].items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keras_package(tmp_path_factory.mktemp("models"))


def _run(folder: Path, **settings: Any) -> tuple[np.ndarray[Any, Any], Mapping[str, str]]:
    engine = Engine(load_package(folder), EngineSettings(device="cpu", threads=1, **settings))
    identity = engine.identity
    told = {"backend": identity.backend, "precision": identity.precision, **dict(identity.settings)}
    return engine.run(_inputs()).mask, told


def test_every_backend_answers_the_same_and_says_what_it_was(folder: Path) -> None:
    usual, told = _run(folder, precision="f32")
    assert (told["backend"], told["precision"]) == ("openvino", "f32")
    assert len(np.unique(usual)) > 2
    for backend in ("torch", "tensorflow"):
        mask, told = _run(folder, backend=backend, precision="f32")
        assert (told["backend"], told["precision"]) == (backend, "f32")
        assert (mask != usual).mean() < 1e-4
    for backend in ("torch", "tensorflow"):
        mask, told = _run(folder, backend=backend, precision="bf16")
        assert (told["backend"], told["precision"]) == (backend, "bf16")
        assert (mask != usual).mean() < 0.03


def test_a_picture_of_another_grid_is_resampled_and_the_mask_lies_on_its_own(folder: Path) -> None:
    """2 mm slices: the network sees 1 mm, the mask has the picture's slices, and nothing outside the brain's box."""
    thin = _inputs()
    affine = Affine.from_axes([0, 0, 0], AXIAL, [2.0, 1.0, 1.0])
    thick = {role: InputVolume(v.array[::2].copy(), affine, modality="MR") for role, v in thin.items()}
    engine = Engine(load_package(folder), EngineSettings(device="cpu", precision="f32", threads=1))
    seen, there = engine.prepared(thick), engine.prepared(thin)
    assert abs(seen.shape[1] - there.shape[1]) <= 1 and seen.shape[2:] == there.shape[2:]
    mask = engine.run(thick).mask
    assert mask.shape == thick["t1c"].array.shape
    brain = np.argwhere(thick["t1c"].array != 0)
    box = tuple(slice(low, high + 1) for low, high in zip(brain.min(0), brain.max(0), strict=True))
    outside = mask.copy()
    outside[box] = 0
    assert mask.any() and not outside.any()
    agrees = (mask == engine.run(thin).mask[::2])[thick["t1c"].array != 0].mean()
    assert agrees > 0.7


def test_without_tensorflow_the_package_runs_and_the_backend_is_refused_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorflow" else found(name, *a))
    assert _run(folder, precision="f32")[1]["backend"] == "openvino"
    with pytest.raises(Refused) as caught:
        _run(folder, backend="tensorflow")
    assert caught.value.refusal.code is RefusalCode.BACKEND_MISSING
    assert "[tensorflow]" in caught.value.refusal.expected


def test_a_device_or_arithmetic_that_is_not_there_is_named() -> None:
    import torch

    module = torch.nn.Conv3d(1, 2, 1).eval()
    shape = (1, 1, 8, 8, 8)
    for options, word in (
        (NetworkOptions(device="cpu", backend="tensorflow"), "runner keras"),
        (NetworkOptions(device="cpu", precision_cpu="int8"), "int8"),
        (NetworkOptions(device="cuda"), "CUDA"),
    ):
        if torch.cuda.is_available() and word == "CUDA":
            continue
        with pytest.raises(ModelFault, match=word):
            open_network(module, shape, options)


def test_torch_says_what_it_computed_in_not_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    import torch

    from ai_engine.backends.torch import TorchNetwork

    module = torch.nn.Conv3d(2, 3, 3).eval()
    options = NetworkOptions(device="cpu", backend="torch", precision_cpu="bf16", threads=1)
    assert open_network(module, (1, 2, 8, 8, 8), options).precision == "bf16"
    monkeypatch.setattr(TorchNetwork, "_arithmetic", lambda self: nullcontext())
    assert open_network(module, (1, 2, 8, 8, 8), options).precision == "f32"


def test_openvino_is_the_cpu_wherever_there_is_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device("auto") == "cuda"
    assert chosen_device("auto", "openvino") == chosen_device("cpu", "torch") == "cpu"
    with pytest.raises(ModelFault, match="openvino runs on the CPU"):
        open_network(torch.nn.Conv3d(1, 2, 1), (1, 1, 8, 8, 8), NetworkOptions(device="cuda", backend="openvino"))


def test_a_device_without_memory_is_a_limit_that_was_passed() -> None:
    import torch

    class Greedy(torch.nn.Conv3d):
        """Asks for more than there is once a tile is larger than the first look."""

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            if picture.shape[-1] > 8:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return super().forward(picture)

    options = NetworkOptions(device="cpu", backend="torch", threads=1)
    network = open_network(Greedy(1, 2, 1).eval(), (1, 1, 16, 16, 16), options)
    with pytest.raises(MemoryExceeded, match="not enough memory"):
        network(np.zeros((1, 1, 16, 16, 16), np.float32))


def test_on_cuda_the_answer_is_that_of_the_cpu_and_says_what_it_was(folder: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here")
    usual, _ = _run(folder, precision="f32")
    for precision, differs in (("f32", 1e-3), ("f16", 0.03), ("bf16", 0.03)):
        engine = Engine(load_package(folder), EngineSettings(device="cuda", precision=precision, threads=1))  # type: ignore[arg-type]
        assert (engine.identity.backend, engine.identity.device) == ("torch", "CUDA:0")
        assert (engine.identity.precision, dict(engine.identity.settings)["gate"]) == (precision, "no gate")
        mask = engine.run(_inputs()).mask
        assert (mask != usual).mean() < differs
        assert np.array_equal(mask, engine.run(_inputs()).mask), "the same bytes again"


def _tree(root: Path) -> Path:
    """Three cases as a BraTS tree."""
    for number in range(3):
        pictures, truth = _brain(number)
        case = root / f"case{number}"
        case.mkdir(parents=True)
        for name, array in {
            **{f"case{number}_{r}": p for r, p in pictures.items()},
            f"case{number}_seg": truth,
        }.items():
            image = nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), np.diag([-1.0, -1.0, 1.0, 1.0]))
            image.header.set_xyzt_units("mm")
            nibabel.save(image, case / f"{name}.nii.gz")
    return root


def test_the_gate_measures_quantises_reports_and_holds_the_engine_to_it(tmp_path: Path) -> None:
    """From calibration to refusal: int8 is made, measured beside the others, and offered only as the report says."""
    from ai_engine.training.quantise import PATCHES, quantise_package

    assert PATCHES >= 50, "what the performance reference asks of a calibration; fewer here, for the time it takes"
    folder = make_keras_package(tmp_path / "models")
    dataset = open_dataset(_tree(tmp_path / "data"))
    words = quantise_package(folder, dataset.cases[1:], lambda _: None, patches=8)
    seal_package(folder)
    assert "8 windows" in words and "2 cases" in words
    with pytest.raises(Refused):
        _run(folder, precision="int8")  # no report yet
    request = GateRequest(
        folder,
        dataset,
        (Evidence(folder, ("case0",)),),
        variants=("f32", "int8", "box-f32"),
        reference_axes=(2,),
        threads=1,
        calibration=words,
    )
    report = run_gate(request, lambda _: None)
    by_name = {variant.name: variant for variant in report.variants}
    assert list(by_name) == ["reference", "f32", "box-f32", "int8"]
    assert by_name["reference"].cost.passes == 2 * by_name["f32"].cost.passes
    assert by_name["box-f32"].cost.passes == 1
    assert by_name["int8"].precision == "int8" and by_name["f32"].precision == "f32"
    assert by_name["f32"].cost.tflop and by_name["f32"].cost.peak_mb > 100
    assert by_name["reference"].regions["whole_tumour"].agreement == 1.0
    assert set(report.files) >= {"weights.safetensors", "network.json", "int8.bin"}
    passed = {name: variant.model_copy(update={"passed": name != "box-f32"}) for name, variant in by_name.items()}
    (folder / GATE).write_bytes(canonical(report.model_copy(update={"variants": tuple(passed.values())})))
    seal_package(folder)
    mask, told = _run(folder, precision="int8")
    assert (told["precision"], told["gate"]) == ("int8", "passed")
    usual, _ = _run(folder, precision="f32")
    assert (mask != usual).mean() < 0.2
    with pytest.raises(Refused) as caught:
        _run(folder, precision="f32", window="box")
    assert caught.value.refusal.code is RefusalCode.VARIANT_NOT_OFFERED


def test_what_is_measured_is_not_calibrated_on(tmp_path: Path) -> None:
    from ai_engine.training.quantise import quantise_networks

    folder, dataset = make_keras_package(tmp_path / "models"), open_dataset(_tree(tmp_path / "data"))
    every = [case.name for case in dataset.cases]
    with pytest.raises(ValueError, match="none is left"):
        quantise_networks(folder, dataset.cases, {folder: every}, lambda _: None, patches=8)
    assert not (folder / "int8.xml").exists()


def test_the_command_adopts_the_cheapest_way_that_passed(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from dicom_node.cli import app

    folder = make_keras_package(tmp_path / "models", description={"title": "To be gated"})
    data = _tree(tmp_path / "data")
    base = ["models", "gate", str(folder), "--data", str(data), "--case", "case0", "--threads", "1"]
    before = load_package(folder).digest_sha256
    dry = CliRunner().invoke(app, [*base, "--variant", "bf16", "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    assert load_package(folder).digest_sha256 == before
    run = CliRunner().invoke(app, [*base, "--variant", "bf16", "--adopt", "--table", str(tmp_path / "t.md"), "--json"])
    assert run.exit_code == 0, run.output
    package = load_package(folder)
    report = report_of(package)
    assert report is not None
    assert [variant.name for variant in report.variants] == ["reference", "bf16"]
    assert report.variants[0].way.mirror_axes == ()  # Keras' own procedure mirrors nothing
    assert package.description.inference.precision.cpu == cheapest(report).way.precision
    assert "Ways of running it" in package.files["CARD.md"].decode()
    assert (tmp_path / "t.md").read_text().startswith("| variant |")
    assert _run(folder)[1]["gate"] == "passed"
    assert CliRunner().invoke(app, base[:5]).exit_code == 2  # no case named


def test_a_quantised_network_may_hold_known_operations_only() -> None:
    with pytest.raises(ModelFault, match="Loop"):
        check_quantised(b'<net><layers><layer type="Loop"/></layers></net>')
    with pytest.raises(ModelFault, match="declarations"):
        check_quantised(b'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "b">]><net/>')
    with pytest.raises(ModelFault, match="not XML"):
        check_quantised(b"\x00\x01")
    with pytest.raises(ModelFault):
        check_quantised(b"<other/>")
