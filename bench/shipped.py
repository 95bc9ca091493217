"""A full-size nnU-Net (31 M parameters, random weights) as `nnUNetv2_predict` ships it, and as we call it: same tiles.

    python -m bench.shipped [--case FOLDER] [--mirroring on|off|both] [--patch 128] [--threads 2]

The weights are random and never shipped: speed does not depend on them, accuracy is not claimed.  Both arms read the
same four NIfTI files of one skull-stripped, co-registered 240 x 240 x 155 case, crop to what is not zero, and use tiles
of the trained patch at step 0.5; only the engine differs.  *Cold* is from the start of the process to the mask on disk;
*warm* has the model loaded.  Agreement is between the two masks, voxel by voxel; random weights exaggerate differences.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil

from bench.machine import about, machine, memory_of, peak_rates, resident_peak_mb, save, table

FEATURES = (32, 64, 128, 256, 320, 320)
CHANNELS = ("t1", "t1c", "t2", "flair")
BRATS = {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair"}
CLASSES = 4
FULL = (240, 240, 155)
DATASET, TRAINER = "Dataset999_FullSize", "nnUNetTrainer__nnUNetPlans__3d_fullres"


def plan(patch: int) -> dict[str, Any]:
    """nnU-Net's default 3d_fullres plan for four co-registered 1 mm sequences."""
    stages = len(FEATURES)
    common = {"order_z": 0, "force_separate_z": None}
    resample = "resample_data_or_seg_to_shape"
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(FEATURES),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {str(number): {} for number in range(len(CHANNELS))},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [patch] * 3,
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"] * len(CHANNELS),
                "use_mask_for_norm": [True] * len(CHANNELS),
                "resampling_fn_data": resample,
                "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **common},
                "resampling_fn_seg": resample,
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **common},
                "resampling_fn_probabilities": resample,
                "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **common},
                "architecture": architecture,
            }
        },
    }


def write_results(root: Path, patch: int) -> tuple[Path, int, float]:
    """A results folder with random weights; the folder, the number of parameters, and TFLOP of one pass."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    told = plan(patch)
    architecture = told["configurations"]["3d_fullres"]["architecture"]
    names = architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"]
    torch.manual_seed(42)
    network = get_network_from_plans(*names, len(CHANNELS), CLASSES, deep_supervision=True)
    data = {
        "channel_names": {str(number): role for number, role in enumerate(CHANNELS)},
        "labels": {"background": 0, "necrotic core": 1, "oedema": 2, "enhancing tumour": 3},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    folder = root / DATASET / TRAINER
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(data), encoding="utf-8")
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": "3d_fullres"},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder, sum(p.numel() for p in network.parameters()), tera_operations(network, patch)


def tera_operations(network: Any, patch: int) -> float:
    """Multiplications and additions of the convolutions of one pass without deep supervision, in 1e12."""
    import torch

    total = 0

    def count(module: Any, _inputs: Any, output: Any) -> None:
        nonlocal total
        kernel = int(np.prod(module.kernel_size))
        if isinstance(module, torch.nn.ConvTranspose3d):  # every input voxel is spread once
            stride = int(np.prod(module.stride))
            total += 2 * kernel * module.in_channels * output.numel() // stride
        else:
            total += 2 * kernel * module.in_channels * output.numel()

    kinds = (torch.nn.Conv3d, torch.nn.ConvTranspose3d)
    seen: set[int] = set()
    hooks = []
    for module in network.modules():
        if isinstance(module, kinds) and id(module) not in seen:
            seen.add(id(module))
            hooks.append(module.register_forward_hook(count))
    supervision = network.decoder.deep_supervision
    network.decoder.deep_supervision = False
    small = 64 if patch % 64 == 0 else patch
    with torch.inference_mode():
        network.eval()(torch.zeros(1, len(CHANNELS), small, small, small))
    network.decoder.deep_supervision = supervision
    for hook in hooks:
        hook.remove()
    return total * (patch / small) ** 3 / 1e12


def write_case(case: Path, target: Path) -> dict[str, Path]:
    """Four NIfTI files of 240 x 240 x 155, named as nnU-Net wants them; the collection's crop is pasted back."""
    start = _crop_start(case)
    target.mkdir(parents=True)
    written = {}
    for number, role in enumerate(CHANNELS):
        image = nibabel.load(case / f"{case.name}_{BRATS[role]}.nii.bz2")
        whole = np.zeros(FULL, np.float32)
        data = np.asarray(image.dataobj, np.float32)
        whole[tuple(slice(low, low + size) for low, size in zip(start, data.shape, strict=True))] = data
        new = nibabel.Nifti1Image(whole, np.diag([-1.0, -1.0, 1.0, 1.0]))
        new.header.set_xyzt_units("mm")
        written[role] = target / f"case_{number:04d}.nii.gz"
        nibabel.save(new, written[role])
    return written


def _crop_start(case: Path) -> tuple[int, ...]:
    with (case.parent / "cases.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["case"] == case.name:
                return tuple(int(part) for part in row["crop_start_ijk_in_240x240x155"].split("/"))
    raise SystemExit(f"{case.name} is not in cases.csv: a folder of the BraTS set was expected")


def package(results: Path, root: Path) -> str:
    """Import the results folder as anybody would; the reference of the package."""
    from ai_engine.packages.importing import import_nnunet

    def code(value: str, meaning: str) -> dict[str, str]:
        return {"value": value, "scheme": "SCT", "meaning": meaning}

    brain, abnormal = code("12738006", "Brain"), code("49755003", "Morphologically Abnormal Structure")
    about = {
        "title": "Full-size nnU-Net, random weights",
        "axes": "SPL",
        "inputs": [
            {
                "role": role,
                "modality": ["MR"],
                "spacing_in_plane_mm": [0.5, 2.0],
                "slice_step_mm": [0.5, 2.0],
                "min_slices": 32,
            }
            for role in CHANNELS
        ],
        "labels": [
            {
                "label": number,
                "key": key,
                "name": name,
                "abbreviation": key[:3].upper(),
                "category": abnormal,
                "type": code("108369006", "Neoplasm"),
                "site": brain,
                "color_rgb": [200, 50 * number, 60],
            }
            for number, (key, name) in enumerate(
                (("necrotic_core", "Necrotic core"), ("oedema", "Oedema"), ("enhancing", "Enhancing tumour")), 1
            )
        ],
        "measurements": ["volume"],
        "intended_use": "Measuring speed. Its answers mean nothing.",
        "limits": ["The weights are random."],
        "training_data": "None.",
        "licence": "Apache-2.0",
    }
    told = root / "about.yaml"
    told.parent.mkdir(parents=True, exist_ok=True)
    told.write_text(json.dumps(about), encoding="utf-8")
    done = import_nnunet(results, root / "models", "full-size", description=told)
    if not done.digest_sha256:
        raise SystemExit(f"the import did not seal the package: {done.missing}")
    return "full-size@1.0.0"


def timed(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Run a command; wall and CPU seconds with all children, peak of the summed proportional set sizes in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    with memory_of(process.pid) as memory:
        said, _ = process.communicate()
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}:\n{said[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": memory.proportional_peak_mb}


def ours(reference: str, models: Path, case: Mapping[str, Path], out: Path, *, mirroring: bool) -> list[str]:
    """Our command line on the same files."""
    return [
        sys.executable,
        "-m",
        "dicom_node.cli",
        "predict",
        *(f"{role}={path}" for role, path in case.items()),
        "--model",
        reference,
        "--out",
        str(out),
        "--precision",
        "bf16",
        *([] if mirroring else ["--no-mirroring"]),
    ]


def theirs(case: Path, out: Path, *, mirroring: bool) -> list[str]:
    """nnU-Net's own command line, with one worker to read and one to write."""
    command = [str(Path(sys.executable).parent / "nnUNetv2_predict"), "-i", str(case), "-o", str(out), "-d", "999"]
    command += ["-c", "3d_fullres", "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1"]
    return command if mirroring else [*command, "--disable_tta"]


def warm(folder: Path, case: Mapping[str, Path], *, mirroring: bool) -> dict[str, Any]:
    """Our engine with the model loaded: the second case, from arrays in memory to the mask."""
    from ai_engine.evaluation.datasets import read_image
    from ai_engine.host import HostSettings, ModelHost
    from ai_engine.prediction import EngineSettings

    settings = EngineSettings(device="cpu", precision="bf16", mirroring=None if mirroring else False)
    inputs = {role: read_image(path) for role, path in case.items()}
    with ModelHost(folder, settings, HostSettings(job_timeout_s=3600)) as host:
        host.start()
        before, begun = psutil.Process(host.pid).cpu_times(), time.monotonic()
        prediction = host.predict(inputs)
        wall, after = time.monotonic() - begun, psutil.Process(host.pid).cpu_times()
        return {
            "wall_s": wall,
            "cpu_s": sum(after[:2]) - sum(before[:2]),
            "peak_mb": resident_peak_mb(host.pid),
            "passes": prediction.passes,
            "precision": host.identity["precision"],
            "stages_s": prediction.timings_s,
        }


def agreement(first: Path, second: Path) -> dict[str, float]:
    """Share of equal voxels, in the brain and all over, and Dice per label."""
    a, b = (np.asarray(nibabel.load(path).dataobj) for path in (first, second))
    dice = {
        str(label): 2
        * float(((a == label) & (b == label)).sum())
        / max(1.0, float((a == label).sum() + (b == label).sum()))
        for label in range(1, CLASSES)
    }
    labelled = (a > 0) | (b > 0)
    return {"equal": float((a == b).mean()), "equal_where_labelled": float((a == b)[labelled].mean()), **dice}


def compare(case_folder: Path, patch: int, mirrorings: Sequence[bool], say: Callable[[str], None]) -> dict[str, Any]:
    """Both arms, each mirroring, in one run."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        results, parameters, tera = write_results(root / "results", patch)
        reference = package(results, root)
        case = write_case(case_folder, root / "case")
        folder = root / "models" / "full-size" / "1.0.0"
        environment = {"nnUNet_results": str(root / "results"), "nnUNet_raw": name, "nnUNet_preprocessed": name}
        environment["AI_NODE__ENGINE__MODELS"] = str(root / "models")
        rates, rows = peak_rates(), []
        for mirroring in mirrorings:
            tag = "mirrored" if mirroring else "plain"
            say(f"{tag}: ours, cold")
            mine = timed(ours(reference, root / "models", case, root / f"ours-{tag}", mirroring=mirroring), environment)
            say(f"  {mine['wall_s']:.1f} s; ours, warm")
            second = warm(folder, case, mirroring=mirroring)
            say(f"  {second['wall_s']:.1f} s; nnUNetv2_predict")
            shipped = timed(theirs(root / "case", root / f"theirs-{tag}", mirroring=mirroring), environment)
            say(f"  {shipped['wall_s']:.1f} s")
            network_s = second["stages_s"].get("network", second["wall_s"])
            rows.append(
                {
                    "mirroring": mirroring,
                    "passes": second["passes"],
                    "tflop": second["passes"] * tera,
                    "ours_cold": mine,
                    "ours_warm": second,
                    "nnunetv2_predict": shipped,
                    "ratio_cold": shipped["wall_s"] / mine["wall_s"],
                    "ratio_warm": shipped["wall_s"] / second["wall_s"],
                    "share_of_peak": second["passes"] * tera * 1000 / network_s / rates["bf16"],
                    "agreement": agreement(
                        root / f"ours-{tag}" / "mask.nii.gz", root / f"theirs-{tag}" / "case.nii.gz"
                    ),
                }
            )
        return {"parameters": parameters, "tflop_per_pass": tera, "peak_gflops": rates, "patch": patch, "rows": rows}


def markdown(found: Mapping[str, Any]) -> str:
    """A row for each of the three ways, with mirroring off and on; ratios are of seconds, nnU-Net's over ours."""
    head = [
        "mirroring",
        "way",
        "passes",
        "TFLOP",
        "wall s",
        "CPU s",
        "ratio",
        "peak MB",
        "share of peak",
        "equal voxels",
    ]
    lines = []
    for row in found["rows"]:
        usual = row["nnunetv2_predict"]
        for way, key in (
            ("nnUNetv2_predict, f32", ""),
            ("ours, cold, bf16", "ours_cold"),
            ("ours, warm, bf16", "ours_warm"),
        ):
            here = row[key or "nnunetv2_predict"]
            share = f"{100 * row['share_of_peak']:.0f} %" if key == "ours_warm" else "-"
            equal = f"{row['agreement']['equal']:.3f}, labelled {row['agreement']['equal_where_labelled']:.3f}"
            cells = ["on" if row["mirroring"] else "off", way, str(row["passes"]), f"{row['tflop']:.1f}"]
            cells += [f"{here['wall_s']:.1f}", f"{here['cpu_s']:.1f}", f"{usual['wall_s'] / here['wall_s']:.2f}"]
            lines.append([*cells, f"{here['peak_mb']:.0f}", share, equal if key else "-"])
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in found["peak_gflops"].items())
    return table(
        f"Full-size network ({found['parameters'] / 1e6:.1f} M parameters, random weights: no Dice), same tiles and "
        f"mirroring; measured peak in GFLOP/s: {rates}",
        head,
        lines,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("AI_NODE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--case", type=Path, default=data / "brain" / "brats" / "Brats18_2013_3_1")
    parser.add_argument("--mirroring", choices=("on", "off", "both"), default="both")
    parser.add_argument("--patch", type=int, default=128, help="smaller only to try the command out")
    options = parser.parse_args(arguments)
    facts = machine()
    mirrorings = {"on": [True], "off": [False], "both": [False, True]}[options.mirroring]
    found = compare(options.case, options.patch, mirrorings, lambda line: print(line, flush=True))
    print(markdown(found))
    print(about(facts))
    save("shipped", facts, found)


if __name__ == "__main__":
    main()
