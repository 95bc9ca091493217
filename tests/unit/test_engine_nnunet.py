"""The runner against nnU-Net's own predictor on the same weights, and what it refuses in a package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_packages import dataset, make_random_package, plans, tiny_description, write_package

from ai_engine.backends import NetworkOptions
from ai_engine.faults import ModelFault, OutputNotFinite
from ai_engine.packages import load_package
from ai_engine.runners.nnunet import NnunetRunner, RunnerOptions, check_plans
from ai_engine.runners.tiles import Plan, sliding_window_logits

pytestmark = pytest.mark.unit


def _image(shape: tuple[int, ...], seed: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Smooth random picture with a black border, so that nnU-Net's crop has something to do."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=shape)
    image = gaussian_filter(noise, (0, 1, 2, 2)) * 500 + 300
    image[..., :3] = 0
    image[..., -5:, :] = 0
    return image.astype(np.float32)


@pytest.fixture
def float32_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net add its windows up in float32, as we do, instead of half precision."""
    import torch
    from nnunetv2.inference import predict_from_raw_data

    theirs = predict_from_raw_data.compute_gaussian
    monkeypatch.setattr(torch, "half", torch.float32)
    monkeypatch.setattr(
        predict_from_raw_data,
        "compute_gaussian",
        lambda *args, **named: theirs(*args, **{**named, "dtype": torch.float32}),
    )


def _predictor(package_folder: Path, mirror: tuple[int, ...], heads: int = 0) -> Any:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from safetensors.torch import load

    package = load_package(package_folder)
    manager = PlansManager(package.json("plans.json"))
    configuration = manager.get_configuration(package.description.inference.configuration)
    heads = heads or len(package.description.labels) + 1
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(package.description.inputs),
        heads,
        deep_supervision=False,
    )
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=bool(mirror), device=torch.device("cpu"), allow_tqdm=False
    )
    states = [load(package.files[name]) for name in package.description.weights]
    predictor.manual_initialization(
        network, manager, configuration, states, package.json("dataset.json"), "nnUNetTrainer", mirror or None
    )
    return predictor


@pytest.mark.usefixtures("float32_sums")
@pytest.mark.parametrize("backend", ["openvino", "torch"])
@pytest.mark.parametrize(
    ("patch", "shape", "spacing", "mirror", "folds"),
    [
        ((48, 40), (5, 60, 70), (4.0, 1.3, 1.3), (), 1),
        ((48, 40), (4, 44, 52), (4.0, 1.0, 1.0), (0, 1), 2),
        ((16, 32, 32), (20, 40, 44), (1.5, 1.1, 1.1), (), 1),
        ((16, 32, 32), (12, 30, 50), (1.0, 1.0, 1.0), (0, 1, 2), 1),
    ],
)
def test_equals_nnunets_own_predictor(
    tmp_path: Path,
    backend: Any,
    patch: tuple[int, ...],
    shape: tuple[int, ...],
    spacing: tuple[float, float, float],
    mirror: tuple[int, ...],
    folds: int,
) -> None:
    folder = make_random_package(tmp_path, patch=patch, channels=2, folds=folds)
    image = _image((2, *shape))
    theirs = _predictor(folder, mirror).predict_single_npy_array(image.copy(), {"spacing": list(spacing)})

    description = {
        "inference": {"configuration": "2d" if len(patch) == 2 else "3d_fullres", "mirror_axes": list(mirror)}
    }
    folder = make_random_package(tmp_path / "ours", patch=patch, channels=2, folds=folds, description=description)
    runner = NnunetRunner(
        load_package(folder), NetworkOptions(device="cpu", backend=backend, threads=1), RunnerOptions(batch=3)
    )
    ours = runner.run(image, spacing)

    assert runner.networks[0].precision == "f32"
    assert ours.mask.shape == shape
    assert len(np.unique(theirs)) == 3, "the comparison needs every class"
    assert np.mean(ours.mask == theirs) >= 0.9999


def test_differs_from_nnunet_as_shipped_only_by_its_half_precision_sums(tmp_path: Path) -> None:
    """Random weights leave voxels undecided; where the classes are apart, every voxel agrees.

    Not at the volume's rim: there a window's Gaussian weight (10 exp -24 in a corner) is below half precision.
    """
    folder = make_random_package(tmp_path, patch=(16, 32, 32), channels=2)
    image = _image((2, 20, 40, 44))
    theirs, scores = _predictor(folder, ()).predict_single_npy_array(
        image.copy(), {"spacing": [1.5, 1.1, 1.1]}, save_or_return_probabilities=True
    )
    runner = NnunetRunner(load_package(folder), NetworkOptions(device="cpu", threads=1), RunnerOptions())
    ours = runner.run(image, (1.5, 1.1, 1.1))
    inner = (slice(3, -3), slice(4, -9), slice(7, -4))
    ordered = np.sort(scores[:, *inner], axis=0)
    decided = ordered[-1] - ordered[-2] > 0.002
    assert decided.mean() > 0.99
    assert np.array_equal(ours.mask[inner][decided], theirs[inner][decided])
    assert np.mean(ours.mask == theirs) >= 0.999
    assert np.abs(ours.probability[1][inner].astype(np.float32) - scores[1][inner]).max() < 0.003


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = make_random_package(tmp_path, patch=(32, 32))
    runner = NnunetRunner(load_package(folder), NetworkOptions(device="cpu", threads=2), RunnerOptions(batch=2))
    image = _image((1, 4, 50, 60))
    first, second = (runner.run(image, (5.0, 1.0, 1.0)) for _ in range(2))
    assert first.mask.tobytes() == second.mask.tobytes()
    assert all(first.probability[label].tobytes() == second.probability[label].tobytes() for label in first.probability)


@pytest.mark.usefixtures("float32_sums")
def test_transposed_plans_come_back_in_place(tmp_path: Path) -> None:
    """A plan may move the slice axis; the mask still lies where the picture was."""
    plan = plans(patch=(16, 32, 32))
    plan["transpose_forward"], plan["transpose_backward"] = [1, 0, 2], [1, 0, 2]
    folder = make_random_package(tmp_path, patch=(16, 32, 32), channels=2, plan=_with_channels(plan, 2))
    image = _image((2, 24, 36, 30))
    theirs = _predictor(folder, ()).predict_single_npy_array(image.copy(), {"spacing": [1.2, 1.0, 1.0]})
    runner = NnunetRunner(load_package(folder), NetworkOptions(device="cpu", threads=1), RunnerOptions())
    assert np.mean(runner.run(image, (1.2, 1.0, 1.0)).mask == theirs) >= 0.9999


def _with_channels(plan: dict[str, Any], channels: int) -> dict[str, Any]:
    (configuration,) = plan["configurations"].values()
    configuration["normalization_schemes"] = ["ZScoreNormalization"] * channels
    configuration["use_mask_for_norm"] = [False] * channels
    plan["foreground_intensity_properties_per_channel"] = {str(channel): {} for channel in range(channels)}
    return plan


def test_step_and_mirroring_can_be_set_against_the_package(tmp_path: Path) -> None:
    inference = {"configuration": "2d", "mirror_axes": [0, 1]}
    folder = make_random_package(tmp_path, patch=(32, 32), description={"inference": inference})
    package, options = load_package(folder), NetworkOptions(device="cpu", threads=1)
    image = _image((1, 4, 64, 64))
    passes = [
        NnunetRunner(package, options, RunnerOptions(step=step, mirroring=mirroring)).run(image, (5.0, 1.0, 1.0)).passes
        for step, mirroring in ((None, None), (None, False), (1.0, False))
    ]
    assert passes == [4 * 9 * 4, 4 * 9, 4 * 4], "59 x 61 pixels are three by three windows at step 0.5, two by two at 1"


@pytest.mark.usefixtures("float32_sums")
def test_a_region_model_keeps_nnunets_class_order(tmp_path: Path) -> None:
    """Overlapping regions are sigmoid channels; later entries of regions_class_order win, as in nnU-Net."""
    folder = make_random_package(tmp_path, patch=(32, 32), channels=1, classes=3)
    data = dataset(1, 3)
    data["labels"] = {"background": 0, "whole": [1, 2], "core": 2}
    data["regions_class_order"] = [1, 2]
    from safetensors.torch import load

    state = load((folder / "fold_0.safetensors").read_bytes())
    state = {key: value[1:] if "seg_layers" in key else value for key, value in state.items()}
    package = load_package(folder)
    description = tiny_description(name="tiny-random", intensity="none", labels=(1, 2))
    description["weights"] = ["fold_0.safetensors"]
    regions = tmp_path / "regions"
    write_package(regions, description, package.json("plans.json"), data, [state])
    image = _image((1, 4, 40, 40))
    theirs = _predictor(regions, (), heads=2).predict_single_npy_array(image.copy(), {"spacing": [5.0, 1.0, 1.0]})
    runner = NnunetRunner(load_package(regions), NetworkOptions(device="cpu", threads=1), RunnerOptions())
    ours = runner.run(image, (5.0, 1.0, 1.0))
    assert np.mean(ours.mask == theirs) >= 0.9999
    assert set(ours.probability) == {1, 2}
    assert float(ours.probability[2][ours.mask == 2].min()) >= 0.499


def test_foreground_threshold_grows_with_a_lower_value(tmp_path: Path) -> None:
    image = _image((1, 4, 40, 40))
    counts = []
    for value in (0.9, 0.5, 0.1):
        folder = make_random_package(
            tmp_path / str(value), patch=(32, 32), description={"threshold": {"rule": "foreground", "value": value}}
        )
        runner = NnunetRunner(load_package(folder), NetworkOptions(device="cpu", threads=1), RunnerOptions())
        counts.append(int(np.count_nonzero(runner.run(image, (5.0, 1.0, 1.0)).mask)))
    assert counts[0] < counts[1] < counts[2]


class _Broken:
    backend, device, precision, batch = "test", "CPU", "f32", 1

    def __call__(self, tiles: Any) -> Any:
        answer = np.zeros((1, 2, *tiles.shape[2:]), dtype=np.float32)
        answer[0, 1, 3, 3] = np.nan
        return answer


def test_nan_in_the_output_fails(tmp_path: Path) -> None:
    with pytest.raises(OutputNotFinite):
        sliding_window_logits([_Broken()], np.ones((1, 2, 16, 16), dtype=np.float32), Plan((8, 8), 0.5), 2)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"preprocessor_name": "os.system"}, "preprocessor_name"),
        ({"resampling_fn_data": "system"}, "resampling_fn_data"),
        ({"normalization_schemes": ["Evil"]}, "normalization_schemes"),
        ({"previous_stage": "3d_lowres"}, "cascades"),
        ({"inherits_from": "2d"}, "circle"),
        ({"inherits_from": "nothing"}, "inherit"),
    ],
)
def test_plans_may_name_only_what_is_known(change: dict[str, Any], word: str) -> None:
    plan = plans(patch=(32, 32))
    plan["configurations"]["2d"].update(change)
    with pytest.raises(ModelFault, match=word):
        check_plans(plan, "2d")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network_class_name", "os.system"),
        ("network_class_name", "subprocess.Popen"),
        ("network_class_name", "torch.nn.Module"),
        ("network_class_name", "dynamic_network_architectures.architectures.primus.Primus"),
        ("conv_op", "os.system"),
        ("nonlin", "torch.nn.Module"),
        ("nonlin", "torch.hub.load"),
    ],
)
def test_no_class_named_in_a_file_is_imported(tmp_path: Path, key: str, value: str) -> None:
    plan = plans(patch=(32, 32))
    architecture = plan["configurations"]["2d"]["architecture"]
    (architecture if key in architecture else architecture["arch_kwargs"])[key] = value
    folder = make_random_package(tmp_path, patch=(32, 32))
    good = load_package(folder)
    from safetensors.torch import load

    bad = tmp_path / "bad"
    description = tiny_description(name="tiny-random", intensity="none", labels=(1, 2))
    description["weights"] = ["fold_0.safetensors"]
    write_package(bad, description, plan, good.json("dataset.json"), [load(good.files["fold_0.safetensors"])])
    with pytest.raises(ModelFault, match=r"not allowed|outside"):
        NnunetRunner(load_package(bad), NetworkOptions(device="cpu", threads=1), RunnerOptions())


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = make_random_package(tmp_path, patch=(32, 32))
    package = load_package(folder)
    from safetensors.torch import load

    state = load(package.files["fold_0.safetensors"])
    options = NetworkOptions(device="cpu", threads=1)
    description = tiny_description(name="tiny-random", intensity="none", labels=(1, 2))
    description["weights"] = ["fold_0.safetensors"]
    name = next(key for key in sorted(state) if "seg_layers" in key)  # a tensor that no other name shares
    for case, broken in {
        "missing": {key: value for key, value in state.items() if key != name},
        "extra": {**state, "stranger": state[name]},
        "shape": {**state, name: state[name][..., :1]},
        "nan": {**state, name: state[name] * float("nan")},
    }.items():
        folder = tmp_path / case
        write_package(folder, description, package.json("plans.json"), package.json("dataset.json"), [broken])
        with pytest.raises(ModelFault):
            NnunetRunner(load_package(folder), options, RunnerOptions())


def test_labels_and_channels_must_agree_with_the_training(tmp_path: Path) -> None:
    options = NetworkOptions(device="cpu", threads=1)
    description = tiny_description(name="tiny-random", intensity="none", labels=(1,))
    package = load_package(make_random_package(tmp_path, patch=(32, 32)))
    from safetensors.torch import load

    state = load(package.files["fold_0.safetensors"])
    folder = tmp_path / "labels"
    write_package(folder, description, package.json("plans.json"), package.json("dataset.json"), [state])
    with pytest.raises(ModelFault, match="labels"):
        NnunetRunner(load_package(folder), options, RunnerOptions())
    folder = tmp_path / "channels"
    description = tiny_description(name="tiny-random", intensity="none", labels=(1, 2))
    write_package(folder, description, package.json("plans.json"), dataset(2, 3), [state])
    with pytest.raises(ModelFault, match="inputs"):
        NnunetRunner(load_package(folder), options, RunnerOptions())
