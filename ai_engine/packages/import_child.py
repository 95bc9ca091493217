"""The child that opens a foreign checkpoint: ``python -m ai_engine.packages.import_child`` (hardening section 5).

The only place where a pickle or a Keras file is looked at.  torch reads the pickle with ``weights_only`` and numpy's
scalar and dtype as the only additions, h5py the Keras file (`ai_engine.packages.keras_file`); the network is built from
the allow-list and the tensors must fit it exactly; what leaves is safetensors, JSON and one line of JSON.  The process
has limits on time, files and core dumps, no secrets in its environment, and dies with its parent.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_CPU_S = 1800
MAX_FILE_BYTES = 4 * 1024**3


def main() -> int:
    """Arguments: kind, source, target folder, fold names (comma), checkpoint name, dtype, parent's process id.

    For kind ``keras`` the source is a file, and folds and checkpoint are empty.
    """
    kind, source, target, folds, checkpoint, dtype, parent = sys.argv[1:8]
    from ai_engine.children import die_with

    die_with(int(parent))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    from ai_engine.faults import EngineFault

    try:
        if kind == "keras":
            answer = convert_keras(Path(source), Path(target), dtype)
        else:
            answer = convert(Path(source), Path(target), folds.split(","), checkpoint, dtype)
    except EngineFault as fault:
        answer = {"fault": str(fault)}
    except Exception as error:  # a process boundary: the parent must hear why in one line
        answer = {"fault": f"the file could not be read: {type(error).__name__}: {str(error)[:300]}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def convert(source: Path, target: Path, folds: list[str], checkpoint: str, dtype: str) -> dict[str, Any]:
    """Turn the folds of a results folder into safetensors files and say what the checkpoint knows.

    Raises
    ------
    ModelFault
        If something is not allowed or does not fit.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from ai_engine.runners.networks import build_network
    from ai_engine.runners.nnunet import check_plans

    plans = json.loads((source / "plans.json").read_bytes())
    dataset = json.loads((source / "dataset.json").read_bytes())
    facts: dict[str, Any] | None = None
    files = []
    for fold in folds:
        content = _load(source / fold / checkpoint)
        here = _facts(content)
        if facts is not None and here != facts:
            raise _fault("the folds were trained with different configurations or mirroring; import them one by one")
        facts = here
        check_plans(plans, facts["configuration"])
        manager = PlansManager(plans)
        labels = manager.get_label_manager(dataset)
        channels = len(dataset.get("channel_names", dataset.get("modality", {})))
        configuration = manager.get_configuration(facts["configuration"]).configuration
        network = build_network(configuration["architecture"], channels, int(labels.num_segmentation_heads))
        name = f"{fold}.safetensors" if len(folds) > 1 else "weights.safetensors"
        _write(network, content["network_weights"], target / name, dtype)
        files.append(name)
    return {
        **(facts or {}),
        "weights": files,
        "parameters": sum(int(parameter.numel()) for parameter in network.parameters()),
        "labels": _label_names(labels, dataset),
    }


def convert_keras(source: Path, target: Path, dtype: str) -> dict[str, Any]:
    """Turn a Keras ``.h5`` file into ``network.json`` and a safetensors file and say what it knows.

    Raises
    ------
    ModelFault
        If something is not allowed or does not fit.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from ai_engine.packages.keras_file import read_keras_file
    from ai_engine.packages.store import NETWORK
    from ai_engine.runners.keras_torch import build_torch, check_shapes

    network, arrays, facts = read_keras_file(source)
    check_shapes(build_torch(network, arrays), network)
    kept = {}
    for name, value in arrays.items():
        kept[name] = value.astype(np.float16 if dtype == "float16" and value.ndim > 1 else np.float32)
        if not np.isfinite(kept[name]).all():
            raise _fault("weights are not finite in float16; import with float32")
    (target / NETWORK).write_text(network.model_dump_json() + "\n", encoding="utf-8")
    save_file(kept, target / "weights.safetensors")
    return {
        **facts,
        "weights": ["weights.safetensors"],
        "parameters": sum(int(value.size) for name, value in arrays.items() if "/moving_" not in name),
        "multiple": list(network.multiple),
        "input_channels": network.input_channels,
        "classes": network.classes,
    }


def _load(path: Path) -> Mapping[str, Any]:
    import numpy as np
    import torch
    from numpy._core import multiarray

    allowed = [
        multiarray.scalar,
        (multiarray.scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)),
    ]
    with torch.serialization.safe_globals(allowed):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
        raise _fault("an nnU-Net v2 checkpoint with `network_weights` was expected")
    return content


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    try:
        axes = content.get("inference_allowed_mirroring_axes")
        return {
            "configuration": str(content["init_args"]["configuration"])[:64],
            "trainer": str(content.get("trainer_name", ""))[:128],
            "mirror_axes": [int(axis) for axis in axes] if axes is not None else [],
        }
    except (KeyError, TypeError, ValueError):
        raise _fault("the checkpoint does not say which configuration it was trained for (`init_args`)") from None


def _write(network: Any, weights: Mapping[str, Any], path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import save, save_file

    from ai_engine.runners.networks import load_weights, shared_names

    plain = {
        str(name).removeprefix("module.").removeprefix("_orig_mod."): tensor.detach().cpu()
        for name, tensor in weights.items()
    }
    kept: dict[str, Any] = {}
    for names in shared_names(network):
        present = [name for name in names if name in plain]
        for other in present[1:]:
            if not torch.equal(plain[present[0]], plain[other]):
                raise _fault("the checkpoint gives one tensor two values")
            del plain[other]
    for name, tensor in plain.items():
        if tensor.is_floating_point():
            converted = tensor.to(torch.float16 if dtype == "float16" else torch.float32)
            if not bool(torch.isfinite(converted).all()):
                raise _fault("weights are not finite in float16; import with float32")
            kept[name] = converted.contiguous().clone()
        else:
            kept[name] = tensor.contiguous().clone()
    load_weights(network, save(kept))
    save_file(kept, path)


def _label_names(labels: Any, dataset: Mapping[str, Any]) -> dict[str, str]:
    """Mask value to the name that ``dataset.json`` gives it."""
    from ai_engine.runners.nnunet import label_channels

    values = sorted(label_channels(labels))
    if labels.has_regions:
        names = [name for name, value in dataset["labels"].items() if name not in ("background", "ignore")]
        return {str(value): str(name)[:64] for value, name in zip(dataset["regions_class_order"], names, strict=True)}
    given = {int(value): name for name, value in dataset["labels"].items() if name != "ignore"}
    return {str(value): str(given[value])[:64] for value in values}


def _fault(text: str) -> Exception:
    from ai_engine.faults import ModelFault

    return ModelFault(text)


if __name__ == "__main__":
    sys.exit(main())
