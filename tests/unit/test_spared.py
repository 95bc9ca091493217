"""A model child starts without the libraries that nnU-Net imports for reading files and training, and can have them."""

import subprocess
import sys

import pytest

UNUSED = ("pandas.core", "SimpleITK.SimpleITK", "blosc2.blosc2_ext", "nibabel", "skimage.io")


def said(program: str) -> str:
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


IMPORTS = """
import sys
from ai_engine.spared import spare
spare()
import inspect
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
inspect.getmodule(compute_gaussian.__wrapped__)
"""


def test_nnunet_is_imported_without_what_a_run_never_uses() -> None:
    assert said(IMPORTS + f"print([name for name in {UNUSED!r} if name in sys.modules])") == "[]"


@pytest.mark.parametrize(
    ("touch", "expected"),
    [
        ("import numpy, pandas; print(pandas.unique(numpy.array([2, 2, 1])).tolist())", "[2, 1]"),
        ("import SimpleITK as sitk; print(sitk.Image(2, 3, 4, sitk.sitkUInt8).GetSize())", "(2, 3, 4)"),
        ("import blosc2, numpy; print(blosc2.asarray(numpy.arange(3))[:].tolist())", "[0, 1, 2]"),
        ("import pandas.testing; print(pandas.testing.__name__)", "pandas.testing"),
        (
            "from nnunetv2.utilities.plans_handling import plans_handler as p;"
            "print(p.recursive_find_reader_writer_by_name('SimpleITKIO').__name__)",
            "SimpleITKIO",
        ),
        (
            "from nnunetv2.preprocessing.preprocessors import default_preprocessor as d;"
            "print(d.nnUNetDatasetBlosc2.__name__, d.comp_blosc2_params((1, 64, 64, 64), (64, 64, 64))[0][0])",
            "nnUNetDatasetBlosc2 1",
        ),
    ],
)
def test_what_is_touched_after_all_is_there(touch: str, expected: str) -> None:
    assert said(IMPORTS + touch) == expected
