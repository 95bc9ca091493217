"""What nnU-Net imports and a run never uses stays unloaded: a model starts sooner and takes less memory.

nnU-Net's preprocessor and plans import the libraries that read pictures from files and training data (pandas, blosc2,
SimpleITK, nibabel, scikit-image's readers).  The model child gets arrays through a pipe, so it would load them for
nothing, and a person at the command line waits for it.  `spare` is for processes that only run models.

Nothing is taken away: what is touched after all is imported then.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

_UNUSED = ("SimpleITK", "blosc2", "pandas")
_NAMES = {
    "nnunetv2.imageio.reader_writer_registry": ("recursive_find_reader_writer_by_name",),
    "nnunetv2.training.dataloading.nnunet_dataset": ("nnUNetDatasetBlosc2", "comp_blosc2_params"),
}
"""Modules of nnU-Net's own, and what others of its modules import from them."""


def spare() -> None:
    """Put off the imports of this process that no run needs; call it before anything imports nnU-Net."""
    for library in _UNUSED:
        sys.modules.setdefault(library, _Library(library))
    if isinstance(blosc2 := sys.modules["blosc2"], _Library):
        vars(blosc2)["ndarray"] = SimpleNamespace(NDArray=_NDArray)
    for module, names in _NAMES.items():
        if module not in sys.modules:
            sys.modules[module] = put_off = ModuleType(module)
            vars(put_off).update({name: _Name(module, name) for name in names})


class _NDArray:
    """Stands for ``blosc2.ndarray.NDArray``, which acvl_utils names in an annotation; no array is one."""


class _Library(ModuleType):
    """A library until somebody touches it.

    `importlib.util.LazyLoader` would load at the touch of any attribute, and `inspect` asks every module of a process
    for its file.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class _Name:
    """A function or class until somebody calls it or asks it for anything."""

    def __init__(self, module: str, name: str) -> None:
        self._wanted = (module, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._found()(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found(), name)

    def _found(self) -> Any:
        module, name = self._wanted
        return getattr(_real(module), name)


def _real(name: str) -> ModuleType:
    """The module itself, imported in the place of ours."""
    if getattr(sys.modules.get(name), "__spec__", None) is None:
        sys.modules.pop(name, None)
    return importlib.import_module(name)
