"""How a decoding child gives up its powers before it sees a hostile byte (invariant I8, requirement S20).

Standard library only, so that a child can lock itself down early.  Three layers: rlimits everywhere on POSIX; on Linux
the child dies with its parent (PR_SET_PDEATHSIG); on Linux with seccomp it can, from then on, open nothing, connect to
nothing, start nothing and signal nobody.  It keeps the pipes that it was given.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_RETURN_ALLOW = 0x7FFF0000
_RETURN_ERRNO = 0x00050000
_RETURN_KILL_PROCESS = 0x80000000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32_SYSCALLS = 0x40000000

# By architecture: its audit number, and the numbers of the system calls that are refused: opening, making, renaming or
# removing files; sockets; new processes and threads; signals; tracing; namespaces; changing limits.
_ARCHITECTURES: dict[str, tuple[int, frozenset[int]]] = {
    "x86_64": (
        0xC000003E,
        frozenset(
            {2, 85, 257, 437, 41, 42, 49, 53, 50, 56, 57, 58, 59, 322, 435, 62, 200, 234, 424, 101, 310, 311}
            | {76, 82, 264, 316, 83, 258, 84, 86, 265, 87, 263, 88, 266, 90, 268, 92, 94, 260, 133, 259, 80, 161}
            | {155, 165, 166, 272, 308, 160, 302, 319, 425, 426, 427, 321, 323, 298, 434, 438, 248, 249, 250}
        ),
    ),
    "aarch64": (
        0xC00000B7,
        frozenset(
            {56, 437, 198, 199, 200, 201, 203, 220, 221, 281, 435, 129, 130, 131, 424, 117, 270, 271}
            | {45, 33, 34, 35, 36, 37, 38, 276, 53, 54, 49, 51}
            | {41, 40, 39, 97, 268, 164, 261, 279, 425, 426, 427, 280, 282, 241, 434, 438, 217, 218, 219}
        ),
    ),
}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jump_true", ctypes.c_ubyte),
        ("jump_false", ctypes.c_ubyte),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def limit_resources(memory_bytes: int, cpu_s: int) -> None:
    """Bound address space, CPU time, written files, open files, processes and core dumps, for good."""
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        # At the soft bound of CPU time comes SIGXCPU, which names the cause; SIGKILL a second later.
        limits = [bound, bound + 1 if kind == resource.RLIMIT_CPU else bound]
        if hard != resource.RLIM_INFINITY:
            limits = [min(limit, hard) for limit in limits]
        resource.setrlimit(kind, (limits[0], limits[1]))


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends; leave at once when it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def forbid_system_calls() -> bool:
    """Install the seccomp filter for the rest of this process's life.

    Returns
    -------
    bool
        False where the platform has no such filter; the rlimits then stand alone.
    """
    known = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or known is None:
        return False
    audit, refused = known
    numbers = sorted(refused)
    program = [
        _Instruction(_LOAD_WORD, 0, 0, 4),
        _Instruction(_JUMP_EQUAL, 1, 0, audit),
        _Instruction(_RETURN, 0, 0, _RETURN_KILL_PROCESS),
        _Instruction(_LOAD_WORD, 0, 0, 0),
        _Instruction(_JUMP_GREATER_EQUAL, len(numbers) + 1, 0, _X32_SYSCALLS),
    ]
    for place, number in enumerate(numbers):
        program.append(_Instruction(_JUMP_EQUAL, len(numbers) - place, 0, number))
    program.append(_Instruction(_RETURN, 0, 0, _RETURN_ALLOW))
    program.append(_Instruction(_RETURN, 0, 0, _RETURN_ERRNO | errno.EPERM))
    array = (_Instruction * len(program))(*program)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(
        libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(program), array)), 0, 0) == 0
    )
