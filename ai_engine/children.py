"""What every child process of the engine does first, and what it may know."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1

_KEPT = ("PATH", "LANG", "LC_ALL", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")


def die_with(parent: int) -> None:
    """End with the parent (PR_SET_PDEATHSIG, Linux); at once if it is gone already.

    The kernel watches the *thread* that started the child, so that thread must live as long as the parent means to.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def processors() -> int:
    """How many processors this process may use: fewer than the machine has where it is kept to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clean_environment(threads: int) -> dict[str, str]:
    """Where programs and this package are, and how many threads to use.  No secrets, no home.

    Parameters
    ----------
    threads
        0: as many as there are `processors`.
    """
    count = str(threads or processors())
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": os.devnull,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",
    }
