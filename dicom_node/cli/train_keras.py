"""`ai-node train brain-tumour-tf`: repeat the training of the shipped Keras package."""

from __future__ import annotations

from pathlib import Path

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, out, stop
from dicom_node.cli.train import DATA, MINUTES, OUT, RESUME, VERSION
from dicom_node.cli.train import app as app


@app.command("brain-tumour-tf")
def brain_tumour_tf(
    data: Path = DATA,
    out_folder: Path = OUT,
    resume: bool = RESUME,
    minutes: float | None = MINUTES,
    version: str = VERSION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Train the Keras network on brats in TensorFlow, test it on the three patients kept apart, write the package.

    Minutes are of processor time. Needs the optional extra [tensorflow].

    Example: ai-node train brain-tumour-tf --data data/brain --out training-tf
    """
    from ai_engine.evaluation.datasets import DatasetError
    from ai_engine.training.cases import TrainingDataError
    from ai_engine.training.keras_finish import finish_keras
    from ai_engine.training.keras_recipe import BRAIN_TUMOUR_TF, train_keras

    def say(line: str) -> None:
        err.print(line, markup=False, soft_wrap=True)

    with answering(as_json=as_json):
        try:
            train_keras(BRAIN_TUMOUR_TF, data, out_folder, resume=resume, minutes=minutes, say=say)
            folder = finish_keras(BRAIN_TUMOUR_TF, data, out_folder, version, say)
        except (TrainingDataError, DatasetError, FileExistsError) as trouble:
            stop(Exit.USAGE, str(trouble))
    emit({"folder": str(folder)}) if as_json else out.print(str(folder), markup=False)
