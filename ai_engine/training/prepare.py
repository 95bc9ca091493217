"""From NIfTI pairs to nnU-Net's preprocessed folder.

Grey values are standardised by a named pure function, then nnU-Net's own ``DefaultPreprocessor`` crops and resamples in
plane; between slices nothing is ever resampled (2D configuration). The plan is compact: one 2D configuration, patch
256 x 256, our network class in place of nnU-Net's.

Beside each case go copies (:mod:`ai_engine.training.copies`), so that a tilted acquisition, a reformatted series or
another slice thickness is nothing new to the network: *oblique* and *tilted* ones are the same head cut along tilted
planes, *stripped* ones are a native head without its skull.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ai_engine.geometry import Affine
from ai_engine.phantom import draw_lesion, synthesise_head
from ai_engine.runners.intensity import STANDARDISATIONS
from ai_engine.training.cases import Case, Pair, Split, read_pair
from ai_engine.training.copies import (
    OBLIQUE_MARK,
    STRIPPED_MARK,
    TILTED_MARK,
    oblique_copy,
    rotation,
    stripped_copy,
    tilted_copy,
)

PLANS_NAME = "nnUNetPlans"
CONFIGURATION = "2d"
PHANTOM_SOURCE = "phantom"
PHANTOM_SEED = 2000
"""Training heads count from here; demonstration and tests use smaller seeds."""

Progress = Callable[[str], None]


def compact_plans(
    dataset_name: str,
    *,
    spacing_mm: tuple[float, float] = (0.95, 0.95),
    step_mm: float = 5.0,
    patch: tuple[int, int] = (256, 256),
    batch_size: int = 16,
    drop_path: float = 0.15,
) -> dict[str, Any]:
    """Plan for one 2D configuration, as nnU-Net's planner writes it.

    Parameters
    ----------
    spacing_mm
        In-plane spacing (row, column) that every picture is resampled to.
    step_mm
        Recorded as the usual slice step; nothing depends on it.
    patch
        Height and width that one call of the network sees; multiples of 32.
    """
    resampling = {
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    configuration = {
        "data_identifier": f"{PLANS_NAME}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(size) for size in patch],
        "spacing": list(spacing_mm),
        "normalization_schemes": ["NoNormalization"],
        "use_mask_for_norm": [False],
        **resampling,
        "architecture": {
            "network_class_name": "ai_engine.runners.efficientnet_unet.EfficientNetV2UNet",
            "arch_kwargs": {"decoder_widths": [128, 64, 48, 32], "drop_path": drop_path},
            "_kw_requires_import": [],
        },
        "batch_dice": True,
    }
    return {
        "dataset_name": dataset_name,
        "plans_name": PLANS_NAME,
        "original_median_spacing_after_transp": [step_mm, *spacing_mm],
        "original_median_shape_after_transp": [30, *patch],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "compact_plans",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
    }


def dataset_description(channel: str, label: str, cases: int) -> dict[str, Any]:
    """nnU-Net's ``dataset.json`` for one channel and one label; "noNorm" because the volume is standardised before."""
    return {
        "channel_names": {"0": "noNorm"},
        "channel_roles": {"0": channel},
        "labels": {"background": 0, label: 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }


def phantom_name(number: int) -> str:
    """Name of the synthetic head ``number`` among the cases."""
    return f"{PHANTOM_SOURCE}_{PHANTOM_SEED + number}"


def phantom_pair(seed: int) -> Pair:
    """Draw a synthetic FLAIR: every other head with a lesion, half of them on a tilted grid."""
    random = np.random.default_rng((seed, 3))
    head = synthesise_head(
        seed,
        shape=(28, 256, 256),
        spacing_mm=(float(random.uniform(3, 6)), 0.95, 0.95),
        lesion=draw_lesion(seed) if seed % 2 else None,
    )
    matrix = head.affine.matrix.copy()
    if random.random() < 0.5:
        tilt, nod, turn = random.uniform(-20, 20, 3)
        middle = matrix @ np.array([*(np.array(head.shape) - 1) / 2, 1.0])
        matrix[:3, :3] = rotation((turn, nod, tilt)) @ matrix[:3, :3]
        matrix[:3, 3] = middle[:3] - matrix[:3, :3] @ ((np.array(head.shape) - 1) / 2)
    grid = Affine(matrix)
    image = head.render("flair", grid, noise=float(random.uniform(0.01, 0.06)), bias=float(random.uniform(0.05, 0.3)))
    return Pair(image, head.truth(grid), head.affine.spacing_mm)


def dataset_folder(work: Path, dataset_name: str) -> Path:
    """Where the preprocessed data set lies within the working folder."""
    return work / "preprocessed" / dataset_name


def prepare(
    cases: Iterable[Case],
    split: Split,
    work: Path,
    plans: Mapping[str, Any],
    description: Mapping[str, Any],
    *,
    intensity: str,
    oblique: Mapping[str, int] | None = None,
    tilted: Mapping[str, int] | None = None,
    stripped: Mapping[str, int] | None = None,
    phantoms: int = 0,
    seed: int = 0,
    progress: Progress = lambda line: None,
) -> None:
    """Write plan, split and preprocessed cases; what is there already is kept, so it can be called again.

    Parameters
    ----------
    intensity
        A name of :data:`ai_engine.runners.intensity.STANDARDISATIONS`.
    oblique
        For each collection, how many oblique copies to make of every case that is not for the test.
    tilted, stripped
        The same for tilted copies and for copies without skull.
    phantoms
        How many synthetic heads join the training side, as collection ``phantom``.
    """
    folder = dataset_folder(work, str(plans["dataset_name"]))
    synthetic = {phantom_name(number): PHANTOM_SEED + number for number in range(phantoms)}
    sides = {"train": [*split.train, *synthetic], "validation": list(split.validation), "test": list(split.test)}
    store = folder / str(plans["configurations"][CONFIGURATION]["data_identifier"])
    store.mkdir(parents=True, exist_ok=True)
    for name, content in (
        (f"{PLANS_NAME}.json", plans),
        ("dataset.json", description),
        ("split.json", sides),
    ):
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    held_out = set(split.test)
    in_plane_mm = float(plans["configurations"][CONFIGURATION]["spacing"][0])
    for number, case in enumerate(cases):
        if case.name in held_out:
            continue
        wanted: dict[str, Callable[[Pair], Pair]] = {case.name: _as_it_is}
        wanted |= _copies(
            case, number, seed, in_plane_mm, {OBLIQUE_MARK: oblique, TILTED_MARK: tilted, STRIPPED_MARK: stripped}
        )
        missing = {name: make for name, make in wanted.items() if not (store / f"{name}.pkl").exists()}
        if not missing:
            continue
        pair = read_pair(case)
        for name, make in missing.items():
            save_case(make(pair), name, store, plans, description, intensity)
        progress(f"prepared {case.name}")
    for name, number in synthetic.items():
        if not (store / f"{name}.pkl").exists():
            save_case(phantom_pair(number), name, store, plans, description, intensity)
            progress(f"prepared {name}")


def _as_it_is(pair: Pair) -> Pair:
    return pair


def _copies(
    case: Case, number: int, seed: int, in_plane_mm: float, counts: Mapping[str, Mapping[str, int] | None]
) -> dict[str, Callable[[Pair], Pair]]:
    """Names of the copies of a case, and how each is made; what is drawn depends on the name's place alone."""
    makers: dict[str, Callable[[Pair], Pair]] = {}
    random = np.random.default_rng((seed, number))
    for copy in range((counts[OBLIQUE_MARK] or {}).get(case.source, 0)):
        tilt, nod, turn = (float(angle) for angle in random.uniform(-25, 25, 3))
        share = float(random.uniform(0, 1)) if case.spacing_mm is None else 0.0
        makers[f"{case.name}{OBLIQUE_MARK}{copy}"] = _oblique((0.2 * tilt, nod, turn), share, in_plane_mm)
    for mark, make in ((TILTED_MARK, tilted_copy), (STRIPPED_MARK, stripped_copy)):
        for copy in range((counts[mark] or {}).get(case.source, 0)):
            name = f"{case.name}{mark}{copy}"
            makers[name] = partial(
                make, random=np.random.default_rng((seed, number, len(mark), copy)), in_plane_mm=in_plane_mm
            )
    return makers


def _oblique(angles_deg: tuple[float, float, float], share: float, in_plane_mm: float) -> Callable[[Pair], Pair]:
    def make(pair: Pair) -> Pair:
        step = 3 + 3 * share if pair.spacing_mm[0] < 2 else pair.spacing_mm[0]
        return oblique_copy(pair, angles_deg, step, in_plane_mm)

    return make


def save_case(
    pair: Pair, name: str, store: Path, plans: Mapping[str, Any], description: Mapping[str, Any], intensity: str
) -> None:
    """Standardise, run nnU-Net's preprocessor and store in its format."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(json.loads(json.dumps(plans)))
    configuration = manager.get_configuration(CONFIGURATION)
    image = STANDARDISATIONS[intensity](pair.image)
    data, segmentation, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image[None],
        pair.mask[None].astype(np.int8),
        {"spacing": list(pair.spacing_mm)},
        manager,
        configuration,
        json.loads(json.dumps(description)),
    )
    blocks, chunks = comp_blosc2_params(data.shape, tuple(configuration.patch_size), data.itemsize)
    nnUNetDatasetBlosc2.save_case(
        data.astype(np.float32),
        segmentation.astype(np.int8),
        properties,
        str(store / name),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks,
        blocks_seg=blocks,
    )
