"""The decoding child with its decoder replaced by one that a hostile codestream has taken over.

Run as ``python -I hostile_child.py DEED PARENT_PID``.  Everything else, the giving up of powers included, is the real
child's code.  A deed that succeeds ends the process with status 66.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from dicom_node.volume import child, codecs

SUCCESS = 66


def hang(spec, encoded):
    while True:
        time.sleep(0.05)


def burn(spec, encoded):
    while True:
        pass


def crash(spec, encoded):
    os.kill(os.getpid(), signal.SIGSEGV)  # refused by the filter; then really
    ctypes.string_at(0)


def segfault(spec, encoded):
    ctypes.string_at(0)


def leave(spec, encoded):
    os._exit(3)


def allocate(spec, encoded):
    hoard = []
    while True:
        hoard.append(bytearray(64 << 20))


def fork(spec, encoded):
    os.fork()
    os._exit(SUCCESS)


def thread(spec, encoded):
    threading.Thread(target=time.sleep, args=(1,)).start()
    os._exit(SUCCESS)


def spawn(spec, encoded):
    subprocess.run(["/bin/true"], check=True)
    os._exit(SUCCESS)


def write_file(spec, encoded):
    with open("written", "wb") as file:
        file.write(b"x")
    os._exit(SUCCESS)


def write_elsewhere(spec, encoded):
    descriptor = os.open(sys.argv[0] + ".written", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, b"x")
    os._exit(SUCCESS)


def read_secret(spec, encoded):
    with open("/etc/hostname", "rb") as file:
        file.read()
    os._exit(SUCCESS)


def connect(spec, encoded):
    socket.create_connection(("127.0.0.1", 9), timeout=1)
    os._exit(SUCCESS)


def unix_socket(spec, encoded):
    socket.socket(socket.AF_UNIX)
    os._exit(SUCCESS)


def kill_parent(spec, encoded):
    os.kill(os.getppid(), 0)
    os._exit(SUCCESS)


def raise_limits(spec, encoded):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    os._exit(SUCCESS)


def print_warning(spec, encoded):
    os.write(2, b"warning: damaged data\n")
    return codecs.np.zeros((spec.rows, spec.columns), spec.dtype)


def python_warning(spec, encoded):
    import warnings

    warnings.warn("damaged data", stacklevel=1)
    return codecs.np.zeros((spec.rows, spec.columns), spec.dtype)


def answer_too_much(spec, encoded):
    os.write(1, b"\1" + b"\xff\xff\xff\x7f")
    time.sleep(30)


def answer_little(spec, encoded):
    os.write(1, b"\0abc")
    os._exit(0)


def report_environment(spec, encoded):
    known = {"LANG", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}
    if set(os.environ) - known or os.listdir("/proc/self/cwd"):
        os._exit(SUCCESS)
    raise codecs.DecodeFailure("nothing to find")


if __name__ == "__main__":
    codecs.decode = globals()[sys.argv[1]]
    sys.exit(child.main())
