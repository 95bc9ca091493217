"""The classifier runner: preparation, views, closed-form heat map, batches, what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ai_engine.backends import NetworkOptions
from ai_engine.faults import ModelFault
from ai_engine.packages import ModelPackage, load_package
from ai_engine.runners.classifier import _BACK, VIEWS, ClassifierRunner
from ai_engine.runners.efficientnet import PARTS, EfficientNet, SameConv, build_backbone
from tests.fixtures_classifier import make_tiny_classifier, tiny_classifier_description

pytestmark = pytest.mark.unit

TORCH = NetworkOptions(device="cpu", backend="torch", threads=1)
OPENVINO = NetworkOptions(device="cpu", backend="openvino", threads=1)


def picture(seed: int = 0, rows: int = 90, columns: int = 120) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(make_tiny_classifier(tmp_path_factory.mktemp("tiny")))


def with_network(root: Path, **changes: object) -> ModelPackage:
    network = {**tiny_classifier_description()["network"], **changes}
    return load_package(make_tiny_classifier(root, description={"network": network}))


def test_b1_and_v2_b0_have_the_published_number_of_parameters() -> None:
    head = 1280 * 1000 + 1000
    counts = {name: sum(p.numel() for p in EfficientNet(name).parameters()) + head for name in PARTS}
    assert counts == {"efficientnetv2_b0": 7_139_704, "efficientnet_b1": 7_794_184}


@pytest.mark.parametrize(("side", "kernel", "before", "after"), [(8, 3, 0, 1), (8, 5, 1, 2), (7, 3, 1, 1)])
def test_same_padding_lies_at_the_end(side: int, kernel: int, before: int, after: int) -> None:
    conv = SameConv(1, 1, kernel, stride=2)
    torch.nn.init.ones_(conv.weight)
    pictures = torch.arange(float(side * side)).reshape(1, 1, side, side)
    padded = torch.nn.functional.pad(pictures, (before, after, before, after))
    wanted = torch.nn.functional.conv2d(padded, conv.weight, stride=2)
    assert torch.equal(conv(pictures), wanted)


def test_stochastic_depth_leaves_evaluation_alone() -> None:
    torch.manual_seed(0)
    network = EfficientNet("efficientnetv2_b0", stochastic_depth=0.9).eval()
    tile = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network(tile), network(tile))


def test_logit_is_the_mean_of_the_map_and_the_head_on_the_features(package: ModelPackage) -> None:
    runner = ClassifierRunner(package, TORCH)
    scores = runner.run([picture()])[0]
    member = runner._members[0]
    wanted = member.weight @ scores.features + member.bias
    assert [scores.logits["malignant"], scores.logits["melanoma"]] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert runner.features(picture()) == pytest.approx(scores.features, abs=1e-5)
    assert scores.features.shape == (1280,)


def test_heat_map_is_grad_cam(package: ModelPackage) -> None:
    """The closed form against a backward pass (Selvaraju et al.) through the same network."""
    runner = ClassifierRunner(package, TORCH)
    square = picture(3, 64, 64)
    module = build_backbone("efficientnetv2_b0").eval()
    module.load_state_dict(runner._members[0]._module.state_dict())
    features = module(torch.from_numpy(runner.prepared(square)[None])).detach().requires_grad_(True)
    head = torch.from_numpy(runner._members[0].weight[0]).float()
    (features.mean((2, 3)) @ head).backward()
    weights = features.grad.mean((2, 3), keepdim=True)
    cam = torch.relu((weights * features).sum(1))[0].detach().numpy() * features.shape[2] * features.shape[3]
    heat = runner.run([square])[0].heat_map
    assert heat is not None
    from PIL import Image

    wanted = Image.fromarray(cam / max(float(cam.max()), 1.0)).resize((64, 64), Image.Resampling.BILINEAR)
    assert heat == pytest.approx(np.asarray(wanted), abs=1e-3)


def test_heat_map_lies_on_the_pictures_own_pixels(package: ModelPackage) -> None:
    heat = ClassifierRunner(package, TORCH).run([picture(rows=75, columns=201)])[0].heat_map
    assert heat is not None
    assert heat.shape == (75, 201)
    large = ClassifierRunner(package, TORCH).run([picture(rows=750, columns=2010)])[0].heat_map
    assert large is not None
    assert large.shape == (191, 512)
    assert heat.dtype == np.float32
    assert heat.min() >= 0 and heat.max() <= 1


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_every_view_is_undone(name: str) -> None:
    values = np.arange(2 * 4 * 4).reshape(2, 4, 4)
    assert np.array_equal(VIEWS[_BACK[name]](VIEWS[name](values)), values)


def test_views_are_averaged_and_make_the_answer_blind_to_them(tmp_path: Path) -> None:
    runner = ClassifierRunner(with_network(tmp_path, views=["identity", "flip_lr"]), TORCH)
    one = picture(5, 64, 64)
    there, mirrored = runner.run([one]), runner.run([np.ascontiguousarray(one[:, ::-1])])
    assert there[0].logits == pytest.approx(mirrored[0].logits, abs=1e-4)
    assert there[0].heat_map == pytest.approx(mirrored[0].heat_map[:, ::-1], abs=1e-3)


def test_neighbours_do_not_change_an_answer(package: ModelPackage) -> None:
    runner = ClassifierRunner(package, OPENVINO)
    pictures = [picture(seed) for seed in range(7)]
    alone = [runner.run([one])[0].logits["malignant"] for one in pictures]
    together = [scores.logits["malignant"] for scores in runner.run(pictures)]
    assert together == alone


def test_a_device_that_is_no_cpu_gets_full_batches(package: ModelPackage) -> None:
    runner = ClassifierRunner(package, TORCH)
    alone = [runner.run([picture(seed)])[0].logits["malignant"] for seed in range(3)]
    member = runner._members[0]
    member.network(1).device = "CUDA:0"
    together = [scores.logits["malignant"] for scores in runner.run([picture(seed) for seed in range(3)])]
    assert sorted(member._opened) == [1, 4]
    assert together == pytest.approx(alone, abs=1e-4)


def test_backends_agree(package: ModelPackage) -> None:
    answers = [ClassifierRunner(package, options).run([picture()])[0].logits for options in (TORCH, OPENVINO)]
    assert answers[0] == pytest.approx(answers[1], abs=1e-3)


def test_crop_looks_at_the_middle_only(tmp_path: Path) -> None:
    runner = ClassifierRunner(with_network(tmp_path, resize="crop"), TORCH)
    one, other = picture(1, 64, 128), picture(2, 64, 128)
    other[:, 32:96] = one[:, 32:96]
    assert np.array_equal(runner.prepared(one), runner.prepared(other))
    heat = runner.run([one])[0].heat_map
    assert heat is not None
    assert heat.shape == (64, 128)
    assert heat[:, :32].max() == 0


def test_pad_keeps_proportions_and_fills_with_the_mean(tmp_path: Path) -> None:
    runner = ClassifierRunner(with_network(tmp_path, resize="pad"), TORCH)
    prepared = runner.prepared(picture(1, 32, 64))
    assert np.abs(prepared[:, :16]).max() < 0.01
    assert np.abs(prepared[:, 16:48]).max() > 0.5


def test_preparation_is_the_arithmetic_of_the_package(package: ModelPackage) -> None:
    grey = np.full((64, 64, 3), 191, np.uint8)
    assert ClassifierRunner(package, TORCH).prepared(grey) == pytest.approx((191 / 255 - 0.5) / 0.5)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_classifier(tmp_path)
    other = load_package(folder).classification
    network = other.network.model_copy(update={"architecture": "efficientnet_b1"})
    package = load_package(folder)
    changed = ModelPackage(
        other.model_copy(update={"network": network}),
        package.digest_sha256,
        package.files,
        package.sha256,
        package.folder,
    )
    with pytest.raises(ModelFault, match="efficientnet_b1"):
        ClassifierRunner(changed, TORCH)


def test_a_stored_picture_passes_where_the_network_answers_as_it_did(tmp_path: Path) -> None:
    from ai_engine.selftest import picture_self_test
    from ai_engine.training.skin_package import SkinPackage, SkinWords, write_skin_package
    from ai_engine.training.skin_trainer import SkinHow, SkinNetwork

    state = SkinNetwork(SkinHow()).state_dict()
    described = SkinPackage(SkinWords(), "1.0.0", "efficientnetv2_b0", 64)
    package = load_package(write_skin_package(tmp_path, described, [state], "a card", picture()))
    result = picture_self_test(package, OPENVINO)
    assert result is not None
    assert result.is_passed
    assert not replace(result, found={key: value + 0.06 for key, value in result.found.items()}).is_passed
    assert not replace(result, found=dict.fromkeys(result.found, float("nan"))).is_passed
