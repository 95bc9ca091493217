"""Importing a Keras .h5 file: what comes out answers as Keras does, and what a hostile file can do (nothing)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import yaml
from fixtures_packages import ABNORMAL, BRAIN, LESION
from typer.testing import CliRunner

from ai_engine.backends import NetworkOptions
from ai_engine.faults import ModelFault
from ai_engine.packages import load_package
from ai_engine.packages.import_child import convert_keras
from ai_engine.packages.importing import import_keras
from ai_engine.runners.keras_unet import KerasRunner
from ai_engine.runners.scores import RunnerOptions

pytestmark = pytest.mark.component

KNOWN_BY_PEOPLE: dict[str, Any] = {
    "title": "Imported",
    "axes": "SPL",
    "inputs": [
        {
            "role": role,
            "modality": ["MR"],
            "spacing_in_plane_mm": [0.5, 2.0],
            "slice_step_mm": [0.5, 6.0],
            "min_slices": 4,
        }
        for role in ("t1c", "flair")
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
    "preparation": {"patch": [16, 16, 16], "normalisation": "minmax", "crop": "none"},
    "intended_use": "Tests.",
    "limits": ["Random weights."],
    "training_data": "None.",
    "licence": "Apache-2.0",
}


def _model() -> Any:
    """A small attention U-Net as people write it: functional, named layers, softmax at the end."""
    layers = keras.layers
    keras.utils.set_random_seed(3)
    picture = layers.Input((16, 16, 16, 2))
    down = layers.Conv3D(4, 3, padding="same", activation="relu", name="enc_one")(picture)
    down = layers.BatchNormalization(epsilon=1e-4)(down)
    small = layers.MaxPooling3D(2)(down)
    small = layers.LeakyReLU(negative_slope=0.1)(layers.Conv3D(8, 3, padding="same", use_bias=False)(small))
    small = layers.GroupNormalization(groups=-1)(layers.SpatialDropout3D(0.2)(small))
    up = layers.Conv3DTranspose(4, 2, strides=2, padding="same")(small)
    gate = layers.Conv3D(1, 1, activation="sigmoid")(layers.UpSampling3D(2)(small))
    joined = layers.Concatenate()([up, layers.Multiply()([down, gate])])
    joined = layers.PReLU(shared_axes=[1, 2, 3])(layers.Conv3D(4, 3, padding="same")(joined))
    return keras.Model(picture, layers.Conv3D(3, 1, activation="softmax", name="answer")(joined))


@pytest.fixture(scope="module")
def model() -> Any:
    made = _model()
    random = np.random.default_rng(0)
    for variable in made.weights:
        if "moving_variance" not in variable.name:
            variable.assign(random.normal(0, 0.3, tuple(variable.shape)))
    return made


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "unet.h5"
    model.save(path)
    return path


def test_an_imported_model_answers_as_keras_does(model: Any, saved: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    given.write_text(yaml.safe_dump(json.loads(json.dumps(KNOWN_BY_PEOPLE))))
    done = import_keras(saved, tmp_path / "models", "imported", description=given)
    assert done.missing == ""
    assert done.facts["softmax_removed"] is True
    package = load_package(done.folder, pinned_sha256=done.digest_sha256)
    assert set(package.files) == {"model.yaml", "network.json", "weights.safetensors"}
    picture = np.random.default_rng(1).uniform(0, 1, (2, 16, 16, 16)).astype(np.float32)
    picture -= picture.min((1, 2, 3), keepdims=True)
    picture /= picture.max((1, 2, 3), keepdims=True)
    runner = KerasRunner(package, NetworkOptions(device="cpu", backend="torch", threads=1), RunnerOptions())
    scores = runner.run(picture, (1.0, 1.0, 1.0))
    expected = np.asarray(model.predict(np.moveaxis(picture, 0, -1)[None], verbose=0))[0]
    assert np.array_equal(scores.mask, expected.argmax(-1))
    assert np.abs(scores.probability[2].astype(np.float32) - expected[..., 2]).max() < 1e-3  # float16 travels


def test_sequential_and_older_spellings_are_understood(tmp_path: Path) -> None:
    """Keras 2 wrote lists where Keras 3 writes tensors, and the input's shape into the first layer."""
    layers = keras.layers
    sequential = keras.Sequential(
        [layers.Input((8, 8, 8, 1)), layers.Conv3D(2, 3, padding="same"), layers.ReLU(), layers.Conv3D(2, 1)]
    )
    sequential.save(tmp_path / "sequential.h5")
    facts = convert_keras(tmp_path / "sequential.h5", tmp_path, "float32")
    assert (facts["classes"], facts["input_channels"], facts["softmax_removed"]) == (2, 1, False)
    with h5py.File(tmp_path / "sequential.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        entries = config["config"]["layers"]
        first = entries.pop(0)["config"]
        entries[0]["config"]["batch_input_shape"] = first.get("batch_shape") or first["batch_input_shape"]
        file.attrs["model_config"] = json.dumps(config)
    assert convert_keras(tmp_path / "sequential.h5", tmp_path, "float32") == facts
    with h5py.File(tmp_path / "sequential.h5", "r+") as file:
        names = ["input_1", *(entry["config"]["name"] for entry in entries)]
        for before, entry in zip(names, entries, strict=False):
            entry |= {"name": entry["config"]["name"], "inbound_nodes": [[[before, 0, 0, {}]]]}
        opening = {"class_name": "InputLayer", "name": "input_1", "inbound_nodes": [],
                   "config": {"name": "input_1", "batch_input_shape": [None, 8, 8, 8, 1]}}  # fmt: skip
        inner = {"layers": [opening, *entries], "output_layers": [[names[-1], 0, 0]]}
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": inner})
    assert convert_keras(tmp_path / "sequential.h5", tmp_path, "float32") == facts


def _changed(saved: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    target.write_bytes(saved.read_bytes())
    with h5py.File(target, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config["config"])
        file.attrs["model_config"] = json.dumps(config)
    return target


def _class(config: dict[str, Any], number: int, name: str) -> None:
    config["layers"][number]["class_name"] = name


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: _class(c, 1, "Lambda"), "Lambda"),
        (lambda c: _class(c, 1, "os.system"), "os.system"),
        (lambda c: _class(c, 1, "TFOpLambda"), "TFOpLambda"),
        (lambda c: c["layers"][1]["config"].update(activation="exec"), "exec"),
        (lambda c: c["layers"][1]["config"].update(data_format="channels_first"), "channels_last"),
        (lambda c: c["layers"][1]["config"].update(filters=7), "fit"),
        (lambda c: c["layers"].pop(2), "missing"),
        (lambda c: c.update(output_layers=[["nothing", 0, 0]]), "one output"),
        (lambda c: c["layers"][-1]["config"].update(activation="sigmoid"), "sigmoid"),
        (lambda c: c.update(layers="many"), "list of layers"),
    ],
)
def test_what_is_not_on_the_list_is_refused_by_name(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], word: str
) -> None:
    with pytest.raises(ModelFault, match=word):
        convert_keras(_changed(saved, tmp_path / "changed.h5", change), tmp_path, "float32")


def test_links_and_strange_contents_are_refused(saved: Path, tmp_path: Path) -> None:
    def spoiled(change: Callable[[Any], object]) -> Path:
        target = tmp_path / "spoiled.h5"
        target.write_bytes(saved.read_bytes())
        with h5py.File(target, "r+") as file:
            change(file)
        return target

    def replace(value: Any) -> Callable[[Any], object]:
        def act(file: Any) -> None:
            layer = file["model_weights/answer"]
            path = str(np.asarray(layer.attrs["weight_names"]).astype(str)[0])
            del layer[path]
            layer[path] = value

        return act

    for change, word in (
        (replace(h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "/x")), "link"),
        (replace(h5py.SoftLink("/model_weights")), "link"),
        (replace(np.array([b"text"])), "numbers"),
        (lambda file: file.attrs.pop("model_config"), "model_config"),
        (lambda file: file.__delitem__("model_weights"), "model_weights"),
    ):
        with pytest.raises(ModelFault, match=word):
            convert_keras(spoiled(change), tmp_path, "float32")
    (tmp_path / "no.h5").write_bytes(b"PK not HDF5")
    with pytest.raises(ModelFault, match="HDF5"):
        convert_keras(tmp_path / "no.h5", tmp_path, "float32")


def test_the_command_says_what_is_missing_and_leaves_a_draft(saved: Path, tmp_path: Path) -> None:
    from dicom_node.cli import app

    run = CliRunner().invoke(
        app, ["models", "import", "keras", str(saved), "--name", "mine", "--models", str(tmp_path), "--json"]
    )
    assert run.exit_code == 0, run.output
    answer = json.loads(run.stdout.splitlines()[-1])
    assert answer["digest"] == "" and "title" in answer["missing"]
    assert (tmp_path / "mine" / "1.0.0" / "network.json").is_file()
    again = CliRunner().invoke(
        app, ["models", "import", "keras", str(saved), "--name", "mine", "--models", str(tmp_path)]
    )
    assert again.exit_code == 2
