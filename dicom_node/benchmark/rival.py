"""The design that this product replaces, made again: one lock, first come first served, one resident model.

A segmentation service of the kind that the thesis describes: FastAPI, the model loaded once with PyTorch, nnU-Net's own
predictor with mirroring, one request at a time under one lock, the answer when all is done.  It reads a package of
ours, so that both sides compute with the same weights.  It exists to be measured against and has no safeguards: it
listens on loopback only.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile

from ai_engine.packages import ModelPackage, load_package


def create_rival(package: ModelPackage, threads: int, role: str) -> FastAPI:
    """The service for one package; loading takes place here.

    Parameters
    ----------
    role
        Which sequence the one picture of a request is; the package's other channels are zero.

    Raises
    ------
    ValueError
        If the package prepares its pictures otherwise than nnU-Net does: the two sides would not do the same work.
    """
    roles = [entry.role for entry in package.segmentation.inputs]
    if any(entry.intensity != "none" for entry in package.segmentation.inputs) or role not in roles:
        raise ValueError(f"a package with inputs {role} among its own and intensity none was expected, found {roles}")
    channel = roles.index(role)
    predictor, parameters = _predictor(package, threads)
    lock = threading.Lock()
    labels = {entry.label: entry for entry in package.segmentation.labels}
    app = FastAPI(title="re-created design", openapi_url=None)

    @app.post("/api/v1/predict/nnUNet")
    def predict(image: UploadFile) -> dict[str, Any]:
        asked = time.monotonic()
        with lock, tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            source = Path(folder) / "case_0000.nii.gz"
            source.write_bytes(image.file.read())
            mask = _segment(predictor, source, channel, len(roles))
        counts = {int(value): int(count) for value, count in zip(*np.unique(mask, return_counts=True), strict=True)}
        details = {
            str(value): {
                "sigla": labels[value].abbreviation if value in labels else "BG",
                "pixeles": count,
                "porcentaje": 100.0 * count / mask.size,
            }
            for value, count in counts.items()
        }
        return {
            "success": True,
            "elapsed_time": time.monotonic() - begun,
            "waiting_time": begun - asked,
            "model": package.reference,
            "unique_classes": sorted(counts),
            "num_classes_detected": len(counts),
            "class_details": details,
            "model_info": {
                "output_shape": list(mask.shape),
                "num_classes": len(labels) + 1,
                "total_params": parameters,
            },
        }

    @app.get("/livez")
    def livez() -> dict[str, str]:
        return {"status": "live"}

    return app


def _predictor(package: ModelPackage, threads: int) -> tuple[Any, int]:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from ai_engine.runners.networks import build_network, load_weights

    torch.set_num_threads(threads)
    plans = PlansManager(package.json("plans.json"))
    dataset = package.json("dataset.json")
    configuration = plans.get_configuration(package.segmentation.inference.configuration)
    classes = len(package.segmentation.labels) + 1
    network = build_network(configuration.configuration["architecture"], len(package.segmentation.inputs), classes)
    load_weights(network, package.files[package.segmentation.weights[0]])
    state = network.state_dict()
    axes = tuple(range(len(configuration.patch_size)))
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_mirroring=True,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.manual_initialization(network, plans, configuration, [state], dataset, "nnUNetTrainer", axes)
    return predictor, sum(value.numel() for value in network.parameters())


def _segment(predictor: Any, source: Path, channel: int, channels: int) -> np.ndarray[Any, Any]:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    picture, properties = SimpleITKIO().read_images([str(source)])
    image = np.zeros((channels, *picture.shape[1:]), np.float32)
    image[channel] = picture[0]
    return np.asarray(predictor.predict_single_npy_array(image, properties, None, None, False))


def main() -> None:
    """``python -m dicom_node.benchmark.rival PACKAGE --port N --threads N``."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.benchmark.rival")
    parser.add_argument("package", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--role", default="t1c")
    options = parser.parse_args()
    app = create_rival(load_package(options.package), options.threads, options.role)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
