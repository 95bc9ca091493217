"""Small packages with known behaviour, for tests that need a model that runs in a second.

`make_tiny_package` builds a real nnU-Net package (PlainConvUNet, plans, safetensors, manifest) whose weights are set by
hand: a voxel is labelled where it is brighter than `threshold` after the intensity preprocessing.  With
``standardise_flair`` the unit is a third of the head's tissue median above it (0 = median tissue, 3 = twice as bright);
a FLAIR lesion lies between 0.5 and 3.

`make_random_package` has random weights, for comparisons with nnU-Net's own predictor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ai_engine.packages import seal_package

LESION = {"value": "301766008", "scheme": "SCT", "meaning": "Lesion of Brain"}
ABNORMAL = {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"}
BRAIN = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}


def make_tiny_package(
    root: Path,
    *,
    name: str = "tiny-bright",
    version: str = "1.0.0",
    role: str = "flair",
    threshold: float = 1.5,
    intensity: str = "standardise_flair",
    patch: Sequence[int] = (96, 96),
    description: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``root/name/version`` and give its folder.

    Parameters
    ----------
    description
        Keys of ``model.yaml`` to set or replace.
    """
    import torch

    network = _network(plans(patch=patch, norm=False), channels=1, classes=2)
    state = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
    _copy_bright_and_dark(state, threshold)
    folder = root / name / version
    values = tiny_description(name=name, version=version, role=role, intensity=intensity)
    values.update(description or {})
    write_package(folder, values, plans(patch=patch, norm=False), dataset(1, 2), [state])
    return folder


def make_random_package(
    root: Path,
    *,
    patch: Sequence[int],
    channels: int = 1,
    classes: int = 3,
    seed: int = 0,
    folds: int = 1,
    plan: Mapping[str, Any] | None = None,
    description: Mapping[str, Any] | None = None,
) -> Path:
    """A package with random weights: 2D for a patch of two numbers, 3D for three."""
    import torch

    torch.manual_seed(seed)
    plan = dict(plan or plans(patch=patch, channels=channels))
    states = []
    for _ in range(folds):
        network = _network(plan, channels=channels, classes=classes)
        network.apply(network.initialize)
        states.append(network.state_dict())
    values = tiny_description(name="tiny-random", intensity="none", labels=range(1, classes))
    first = values["inputs"][0]
    values["inputs"] = [{**first, "role": role} for role in ("flair", "t1", "t1c", "t2")[:channels]]
    values["inference"]["configuration"] = configuration_name(patch)
    values["weights"] = [f"fold_{index}.safetensors" for index in range(folds)]
    values.update(description or {})
    folder = root / "tiny-random" / "1.0.0"
    write_package(folder, values, plan, dataset(channels, classes), states)
    return folder


def write_package(
    folder: Path,
    description: Mapping[str, Any],
    plan: Mapping[str, Any],
    data: Mapping[str, Any],
    states: Sequence[Mapping[str, Any]],
) -> None:
    """Write the files of a package and seal it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plan))
    (folder / "dataset.json").write_text(json.dumps(data))
    for file, state in zip(description["weights"], states, strict=True):
        save_file({key: value.clone().contiguous() for key, value in state.items()}, folder / file)
    without_aliases = json.loads(json.dumps(description, default=dict))
    (folder / "model.yaml").write_text(yaml.safe_dump(without_aliases, sort_keys=False))
    seal_package(folder)


def configuration_name(patch: Sequence[int]) -> str:
    return "2d" if len(patch) == 2 else "3d_fullres"


def tiny_description(
    *,
    name: str = "tiny-bright",
    version: str = "1.0.0",
    role: str = "flair",
    intensity: str = "standardise_flair",
    labels: Sequence[int] = (1,),
) -> dict[str, Any]:
    """A valid ``model.yaml`` as a tree that a test may change."""
    return {
        "schema_version": 1,
        "name": name,
        "version": version,
        "title": "Bright voxels (test)",
        "task": "segmentation",
        "framework": "nnunetv2",
        "runner": "nnunet",
        "axes": "SPL",
        "inputs": [
            {
                "role": role,
                "modality": ["MR"],
                "spacing_in_plane_mm": [0.3, 4.0],
                "slice_step_mm": [0.3, 10.0],
                "min_slices": 4,
                "intensity": intensity,
            }
        ],
        "labels": [_label(value, name) for value in labels],
        "measurements": ["volume", "long_axis", "short_axis", "diameter_3d", "mean", "sd"],
        "inference": {"configuration": "2d", "batch": 2},
        "weights": ["weights.safetensors"],
        "intended_use": "Tests of this program only.",
        "limits": ["It marks what is bright and knows no anatomy."],
        "training_data": "None: the weights are set by hand.",
        "licence": "Apache-2.0",
    }


def _label(value: int, name: str) -> dict[str, Any]:
    only = name != "tiny-random"
    return {
        "label": value,
        "key": "flair_abnormality" if only else f"structure_{value}",
        "name": "FLAIR signal abnormality" if only else f"Structure {value}",
        "abbreviation": "FLAIR" if only else f"S{value}",
        "category": ABNORMAL,
        "type": LESION,
        "site": BRAIN,
        "color_rgb": [255, 128, 20 * value],
    }


def plans(
    *, patch: Sequence[int] = (96, 96), channels: int = 1, norm: bool = True, spacing: Sequence[float] | None = None
) -> dict[str, Any]:
    """An nnU-Net plan for a PlainConvUNet with two stages (hand-set weights) or three (random weights)."""
    axes = len(patch)
    stages = 3 if norm else 2
    name = configuration_name(patch)
    return {
        "dataset_name": "Dataset999_Tiny",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in range(channels)},
        "configurations": {
            name: {
                "data_identifier": f"nnUNetPlans_{name}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch),
                "spacing": list(spacing or [1.0] * axes),
                "normalization_schemes": ["ZScoreNormalization" if norm else "NoNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                **_resampling(),
                "architecture": _architecture(axes, stages, norm=norm),
            }
        },
    }


def _resampling() -> dict[str, Any]:
    common = {"order_z": 0, "force_separate_z": None}
    return {
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **common},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **common},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **common},
    }


def _architecture(axes: int, stages: int, *, norm: bool) -> dict[str, Any]:
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [8 * 2**stage if norm else 2 for stage in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * stages,
            "strides": [[1] * axes] + [[2] * axes] * (stages - 1),
            "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d" if norm else None,
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU" if norm else "torch.nn.ReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def dataset(channels: int, classes: int) -> dict[str, Any]:
    """A ``dataset.json``."""
    return {
        "channel_names": {str(channel): "MR" for channel in range(channels)},
        "labels": {"background": 0, **{f"structure_{value}": value for value in range(1, classes)}},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }


def _network(plan: Mapping[str, Any], *, channels: int, classes: int) -> Any:
    from ai_engine.runners.networks import build_network

    (configuration,) = plan["configurations"].values()
    return build_network(configuration["architecture"], channels, classes)


def _copy_bright_and_dark(state: dict[str, Any], threshold: float) -> None:
    """First convolution: relu(x - t) and relu(t - x); last ones carry both through the skip to the two classes."""
    for key, value in state.items():
        centre = (slice(None), slice(None), *([1] * (value.ndim - 2)))
        if key.startswith("encoder.stages.0") and value.ndim > 2:
            value[centre][:, 0] = value.new_tensor([1.0, -1.0])
        elif key.startswith("encoder.stages.0"):
            value[:] = value.new_tensor([-threshold, threshold])
        elif "decoder.stages.0" in key and "encoder" not in key.removeprefix("decoder.encoder") and value.ndim > 2:
            value[centre][0, 2] = 1.0
            value[centre][1, 3] = 1.0
        elif "decoder.seg_layers.0" in key and value.ndim > 2:
            value[1, 0] = 20.0
            value[0, 1] = 20.0
    for key in list(state):
        twin = key.removeprefix("decoder.encoder.")
        if twin != key:
            state[key] = state["encoder." + twin].clone()
    for key in list(state):
        if ".all_modules.0." in key:
            state[key] = state[key.replace(".all_modules.0.", ".conv.")].clone()


def make_keras_package(
    root: Path,
    *,
    name: str = "tiny-keras",
    roles: Sequence[str] = ("t1c", "flair"),
    features: Sequence[int] = (4, 8),
    patch: Sequence[int] = (32, 32, 32),
    seed: int = 0,
    description: Mapping[str, Any] | None = None,
) -> Path:
    """A package of runner ``keras`` with random weights and three labels: ``root/name/1.0.0``."""
    import numpy as np
    from safetensors.numpy import save_file

    from ai_engine.runners.keras_layers import multiscale_unet

    network = multiscale_unet(len(roles), 4, tuple(features))
    random = np.random.default_rng(seed)
    weights = random_keras_weights(network, random)
    values = tiny_description(name=name, intensity="none", labels=(1, 2, 3))
    first = values["inputs"][0]
    for label, key in zip(values["labels"], ("necrotic_core", "oedema", "enhancing_tumour"), strict=True):
        label |= {"key": key, "name": key.replace("_", " ")}
    values |= {
        "runner": "keras",
        "inputs": [{**first, "role": role} for role in roles],
        "preparation": {"patch": list(patch), "spacing_mm": [1.0, 1.0, 1.0]},
        "inference": {"configuration": "keras", "step": 0.5},
        "composites": [{**{k: v for k, v in values["labels"][0].items() if k not in ("label", "postprocessing")},
                        "key": "whole_tumour", "name": "Whole tumour", "labels": [1, 2, 3]}],
    }  # fmt: skip
    values.update(description or {})
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.json").write_text(network.model_dump_json())
    save_file(weights, folder / "weights.safetensors")
    (folder / "model.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False))
    seal_package(folder)
    return folder


def random_keras_weights(network: Any, random: Any) -> dict[str, Any]:
    """Weights of the right shapes: every layer's answer stays near unit size."""
    import numpy as np

    channels = {"input": network.input_channels}
    found = {}
    for layer in network.layers:
        inside = [channels[name] for name in layer.inputs]
        channels[layer.name] = sum(inside) if layer.kind == "Concatenate" else max(inside)
        if layer.kind in ("Conv3D", "Conv3DTranspose"):
            channels[layer.name] = layer.filters
            transposed = layer.kind == "Conv3DTranspose"
            pair = (layer.filters, inside[0]) if transposed else (inside[0] // layer.groups, layer.filters)
            scale = 1.4 / np.sqrt(inside[0] * (1 if transposed else np.prod(layer.kernel_size)))
            found[f"{layer.name}/kernel"] = random.normal(0, scale, (*layer.kernel_size, *pair))
        for weight in layer.weights:
            if weight == "kernel":
                continue
            low, high = {"moving_variance": (0.5, 1.5), "gamma": (0.5, 1.5), "alpha": (0.1, 0.4)}.get(
                weight, (-0.3, 0.3)
            )
            found[f"{layer.name}/{weight}"] = random.uniform(low, high, channels[layer.name])
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in found.items()}
