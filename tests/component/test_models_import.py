"""Importing an nnU-Net results folder: what comes out, and what a hostile checkpoint can do (nothing)."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fixtures_packages import ABNORMAL, BRAIN, LESION, dataset, plans
from typer.testing import CliRunner

from ai_engine.backends import NetworkOptions
from ai_engine.faults import ModelFault
from ai_engine.packages import list_packages, load_package, seal_package
from ai_engine.packages.import_child import convert
from ai_engine.packages.importing import import_nnunet
from ai_engine.runners.nnunet import NnunetRunner, RunnerOptions

pytestmark = pytest.mark.component

KNOWN_BY_PEOPLE: dict[str, Any] = {
    "title": "Imported",
    "axes": "SPL",
    "inputs": [
        {
            "role": "flair",
            "modality": ["MR"],
            "spacing_in_plane_mm": [0.5, 2.0],
            "slice_step_mm": [0.5, 6.0],
            "min_slices": 4,
        }
    ],
    "labels": [
        {
            "label": value,
            "key": f"structure_{value}",
            "name": f"Structure {value}",
            "abbreviation": f"S{value}",
            "category": ABNORMAL,
            "type": LESION,
            "site": BRAIN,
            "color_rgb": [10, 200, 30 * value],
        }
        for value in (1, 2)
    ],
    "intended_use": "Tests.",
    "limits": ["Random weights."],
    "training_data": "None.",
    "licence": "Apache-2.0",
}


def _results(folder: Path, *, folds: int = 1, change: dict[str, Any] | None = None) -> Path:
    """A results folder as nnUNetTrainer.save_checkpoint writes it, optimiser, logging and numpy scalars included."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plan = plans(patch=(32, 32))
    configuration = plan["configurations"]["2d"]
    architecture = configuration["architecture"]
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps(plan))
    (folder / "dataset.json").write_text(json.dumps(dataset(1, 3)))
    for fold in range(folds):
        torch.manual_seed(fold)
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            1,
            3,
            deep_supervision=True,
        )
        optimiser = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True)
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": optimiser.state_dict(),
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)], "ema_fg_dice": [np.float32(0.25)], "lrs": [0.01]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 3,
            "init_args": {"plans": plan, "configuration": "2d", "fold": fold, "dataset_json": dataset(1, 3)},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1),
            **(change or {}),
        }
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def _image() -> np.ndarray[Any, np.dtype[np.float32]]:
    from scipy.ndimage import gaussian_filter

    return (gaussian_filter(np.random.default_rng(3).normal(size=(1, 4, 40, 50)), (0, 1, 2, 2)) * 500).astype(
        np.float32
    )


def test_an_imported_model_answers_as_nnunet_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from nnunetv2.inference import predict_from_raw_data

    results = _results(tmp_path / "results", folds=2)
    given = tmp_path / "given.yaml"
    given.write_text(yaml.safe_dump(json.loads(json.dumps(KNOWN_BY_PEOPLE))))
    done = import_nnunet(results, tmp_path / "models", "imported", description=given)
    assert done.missing == ""
    assert [entry[:2] for entry in list_packages(tmp_path / "models")] == [("imported", "1.0.0")]
    package = load_package(done.folder, pinned_sha256=done.digest_sha256)
    assert package.description.inference.mirror_axes == (0, 1)
    assert package.description.weights == ("fold_0.safetensors", "fold_1.safetensors")

    monkeypatch.setattr(torch, "half", torch.float32)
    predictor = predict_from_raw_data.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(results), (0, 1), "checkpoint_final.pth")
    theirs = predictor.predict_single_npy_array(_image(), {"spacing": [4.0, 1.0, 1.0]})
    runner = NnunetRunner(package, NetworkOptions(device="cpu", threads=1), RunnerOptions())
    ours = runner.run(_image(), (4.0, 1.0, 1.0))
    assert np.mean(ours.mask == theirs) >= 0.999


def _convert(results: Path, target: Path, dtype: str = "float32") -> dict[str, Any]:
    """What the child does, in this process: for cases in which nothing hostile is read."""
    target.mkdir()
    return convert(results, target, ["fold_0"], "checkpoint_final.pth", dtype)


def test_tensors_that_are_one_are_stored_once(tmp_path: Path) -> None:
    """nnU-Net's decoder holds the encoder again, and each block its layers twice: a quarter is enough."""
    results = _results(tmp_path / "results")
    facts = _convert(results, tmp_path / "full")
    size = (tmp_path / "full/weights.safetensors").stat().st_size
    assert size < 4 * facts["parameters"] * 1.1
    _convert(results, tmp_path / "half", "float16")
    assert (tmp_path / "half/weights.safetensors").stat().st_size < 0.6 * size


def test_a_draft_says_what_is_missing_and_is_no_model_yet(tmp_path: Path) -> None:
    done = import_nnunet(_results(tmp_path / "results"), tmp_path / "models", "imported")
    assert done.digest_sha256 == ""
    for word in ("title", "axes", "intended_use", "licence", "labels.0.type", "inputs.0.spacing_in_plane_mm"):
        assert word in done.missing
    assert list_packages(tmp_path / "models") == []
    tree = yaml.safe_load((done.folder / "model.yaml").read_text())
    assert [entry["name"] for entry in tree["labels"]] == ["structure_1", "structure_2"]
    tree.update(KNOWN_BY_PEOPLE)
    (done.folder / "model.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(tree))))
    assert load_package(done.folder, pinned_sha256=seal_package(done.folder)).reference == "imported@1.0.0"


class _Bomb:
    """Unpickles into a call that leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return open, (self.path, "w")


def test_a_pickle_that_calls_something_is_not_opened(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    results = _results(tmp_path / "results", change={"logging": _Bomb(trace)})
    with pytest.raises(ModelFault):
        import_nnunet(results, tmp_path / "models", "imported")
    assert not trace.exists()
    assert list((tmp_path / "models" / "imported").iterdir()) == [], "nothing half-made stays behind"
    (results / "fold_0" / "checkpoint_final.pth").write_bytes(pickle.dumps({"network_weights": _Bomb(trace)}))
    with pytest.raises(pickle.UnpicklingError):
        _convert(results, tmp_path / "target")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"init_args": {}}, "init_args"),
        ({"network_weights": {}}, "fit"),
        ({"network_weights": None}, "network_weights"),
        ({"init_args": {"configuration": "3d_fullres"}}, "configuration"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_words(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelFault, match=word):
        _convert(_results(tmp_path / "results", change=change), tmp_path / "target")


def test_plans_that_name_code_are_refused_before_nnunet_sees_them(tmp_path: Path) -> None:
    results = _results(tmp_path / "results")
    plan = json.loads((results / "plans.json").read_text())
    plan["configurations"]["2d"]["architecture"]["network_class_name"] = "os.system"
    (results / "plans.json").write_text(json.dumps(plan))
    with pytest.raises(ModelFault, match=r"plans\.json"):
        _convert(results, tmp_path / "target")


def test_the_command_imports_lists_shows_and_verifies(tmp_path: Path) -> None:
    from dicom_node.cli.models import app

    given = tmp_path / "given.yaml"
    given.write_text(yaml.safe_dump(json.loads(json.dumps(KNOWN_BY_PEOPLE))))
    models = ["--models", str(tmp_path / "models"), "--json"]
    call = CliRunner().invoke
    results = str(_results(tmp_path / "results"))
    done = call(app, ["import", "nnunet", results, "--name", "imported", "--description", str(given), *models])
    assert done.exit_code == 0, done.output
    digest = json.loads(done.stdout)["digest"]
    assert json.loads(call(app, ["list", *models]).stdout)["models"][0]["digest"] == digest
    assert json.loads(call(app, ["show", "imported", *models]).stdout)["description"]["title"] == "Imported"
    assert call(app, ["verify", "imported@1.0.0", "--digest", digest, *models]).exit_code == 0
    again = call(app, ["import", "nnunet", results, "--name", "imported", "--description", str(given), *models])
    assert again.exit_code == 2, "a version never changes"
    weights = tmp_path / "models/imported/1.0.0/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00" if weights.read_bytes()[-1] else b"\x01")
    refused = call(app, ["verify", "imported", *models])
    assert refused.exit_code == 3
    assert json.loads(refused.stdout)["refusal"]["code"] == "model-hash-mismatch"
    assert json.loads(call(app, ["list", *models]).stdout)["models"][0]["state"] == "model-hash-mismatch"
    assert call(app, ["import", "nnunet", results, "--name", "../up", *models]).exit_code == 2
