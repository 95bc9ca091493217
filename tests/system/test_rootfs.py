"""The container's root file system, built by the image's own steps without a container engine, runs the node.

Needs root, debootstrap, a Debian mirror and a package registry: minutes and 3 GB, therefore only in `make test-long`.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.demo.site import free_ports

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(2400)]

REPOSITORY = Path(__file__).resolve().parents[2]
USER = 10001
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
BUILD_S, START_S, STOP_S = 2000.0, 120.0, 40.0


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("debootstrap and root are needed to build a root file system")
    folder = tmp_path_factory.mktemp("image")
    root = folder / "root"
    done = subprocess.run(
        ["sh", str(REPOSITORY / "docker" / "rootfs.sh"), str(root)],
        env={name: value for name, value in os.environ.items() if name != "MODELS"},  # those that are shipped
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    try:
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.splitlines()[-1] == str(root)
        yield root
    finally:
        # never delete below something that is still mounted
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
        assert not [place for place in mounts if place.startswith(str(root))]
        shutil.rmtree(folder)


def test_what_builds_is_not_in_the_result(rootfs: Path) -> None:
    assert not [name for name in ("gcc", "cc", "make", "pip3", "uv") if (rootfs / "usr/bin" / name).exists()]
    assert not (rootfs / "steps").exists() and not (rootfs / "src").exists() and not (rootfs / "opt/uv").exists()
    data = (rootfs / "var/lib/ai-node").stat()
    assert (data.st_uid, stat.S_IMODE(data.st_mode)) == (USER, 0o700)


def test_nothing_that_runs_may_be_changed_by_its_user(rootfs: Path) -> None:
    for top in ("opt/ai-node", "opt/models", "etc/ai-node"):
        for path in (rootfs / top).rglob("*"):
            found = path.lstat()
            assert found.st_uid != USER, path
            assert stat.S_ISLNK(found.st_mode) or not found.st_mode & stat.S_IWOTH, path


def test_the_node_lives_in_it_as_the_unprivileged_user(rootfs: Path) -> None:
    web, door = free_ports(2)
    secret = rootfs / "run" / "secrets" / "orthanc_password"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("not used\n", encoding="utf-8")
    os.chown(secret, USER, USER)
    secret.chmod(0o400)
    environment = {
        "PATH": "/opt/ai-node/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "AI_NODE_CONFIG": "/etc/ai-node/node.yaml",
        "AI_NODE__WEB__HOST": "127.0.0.1",
        "AI_NODE__WEB__PORT": str(web),
        "AI_NODE__DOOR__HOST": "127.0.0.1",
        "AI_NODE__DOOR__PORT": str(door),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(["mount", "-t", "proc", "proc", str(rootfs / "proc")], check=True)
    log = rootfs.parent / "node.log"
    try:
        with log.open("wb") as output:
            node = subprocess.Popen(
                [CHROOT, f"--userspec={USER}:{USER}", str(rootfs), "/opt/ai-node/bin/ai-node", "serve"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until_it_lives(node, web, log)
            assert os.stat(f"/proc/{node.pid}").st_uid == USER
            checked = subprocess.run(
                [CHROOT, f"--userspec={USER}:{USER}", str(rootfs), "/opt/ai-node/bin/ai-node", "health"],
                env=environment,
                check=False,
                timeout=60,
            )
            assert checked.returncode == 0, "the image's health check"
        finally:
            node.send_signal(signal.SIGTERM)
            try:
                node.wait(STOP_S)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()
        assert node.returncode == 0, log.read_text(encoding="utf-8")[-3000:]
        records = rootfs / "var/lib/ai-node/records.sqlite"
        assert records.stat().st_uid == USER
    finally:
        subprocess.run(["umount", str(rootfs / "proc")], check=True)


def wait_until_it_lives(node: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and node.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/livez", timeout=5.0, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"/livez did not answer; the log ends: {log.read_text(encoding='utf-8')[-3000:]}")
