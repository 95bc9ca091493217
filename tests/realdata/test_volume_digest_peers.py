"""The content digest survives what archives do to bytes: Orthanc (by C-STORE and by upload) and DCMTK's encodings."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.volume import content_digest, read_header

pytestmark = pytest.mark.realdata

PRIVATE_SEQUENCES = "enhanced-multiframe"
"""Under implicit VR their private sequences of defined length cannot be told from bytes (stated in the module)."""


@pytest.fixture(scope="module")
def samples(data_dir, tmp_path_factory) -> list[Path]:
    """The first file of every series, and every file that shows an encoding."""
    folder = tmp_path_factory.mktemp("dicom")
    for archive in sorted((data_dir / "dicom").glob("*.tar.xz")):
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    first: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*.dcm")):
        key = path if path.parts[-3] in ("transfer-syntaxes", "enhanced-multiframe") else path.parent
        first.setdefault(key, path)
    assert len(first) > 30
    return list(first.values())


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory) -> Iterator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("orthanc")
    http, dicom = port(), port()
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "db"),
                "IndexDirectory": str(folder / "db"),
                "HttpPort": http,
                "DicomPort": dicom,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomAlwaysAllowStore": True,
                "OverwriteInstances": True,
            }
        )
    )
    child = subprocess.Popen(
        ["Orthanc", str(folder / "orthanc.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    base = f"http://127.0.0.1:{http}"
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"{base}/system", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline
                assert child.poll() is None
                time.sleep(0.05)
        yield base, dicom
    finally:
        child.terminate()
        child.wait(timeout=15)


def by_upload(path: Path, base: str, dicom: int) -> None:
    httpx.post(f"{base}/instances", content=path.read_bytes(), timeout=20).raise_for_status()


def by_storescu(path: Path, base: str, dicom: int) -> None:
    subprocess.run(
        ["storescu", "-xf", str(storescu_profile(path)), "Any", "127.0.0.1", str(dicom), str(path)],
        check=True,
        capture_output=True,
        timeout=20,
        env={**os.environ, "TCP_NODELAY": "1"},
    )


def storescu_profile(path: Path) -> Path:
    """A profile that proposes the file's own class in its own syntax, whatever they are."""
    header = read_header(path)
    profile = path.with_suffix(".cfg")
    profile.write_text(
        f"[[TransferSyntaxes]]\n[Own]\nTransferSyntax1 = {header['TransferSyntaxUID']}\n"
        f"[[PresentationContexts]]\n[Contexts]\nPresentationContext1 = {header['SOPClassUID']}\\Own\n"
        "[[Profiles]]\n[Any]\nPresentationContexts = Contexts\n"
    )
    return profile


@pytest.mark.parametrize("send", [by_upload, by_storescu])
def test_by_way_of_orthanc(samples, orthanc, tmp_path, send):
    base, dicom = orthanc
    other_bytes = 0
    for path in samples:
        for old in httpx.get(f"{base}/instances").json():
            httpx.delete(f"{base}/instances/{old}").raise_for_status()
        send(path, base, dicom)
        (one,) = httpx.get(f"{base}/instances").json()
        came = tmp_path / "came.dcm"
        came.write_bytes(httpx.get(f"{base}/instances/{one}/file").content)
        other_bytes += came.read_bytes() != path.read_bytes()
        assert content_digest(came) == content_digest(path), path.name
        theirs, ours = read_header(came), read_header(path)
        assert theirs == ours
    if send is by_storescu:
        assert other_bytes > len(samples) // 2  # else the test shows nothing


@pytest.mark.parametrize(
    "options",
    [("+ti", "-e"), ("+te", "+e"), ("+te", "-e"), ("+tb",), ("+te", "+g"), ("+te", "+p", "2048", "128"), ("+ti", "+e")],
    ids=" ".join,
)
def test_encodings_of_dcmtk(samples, tmp_path, options):
    converted = 0
    for path in samples:
        if options == ("+ti", "+e") and PRIVATE_SEQUENCES in path.parts:
            continue
        came = tmp_path / "came.dcm"
        if subprocess.run(["dcmconv", *options, str(path), str(came)], capture_output=True, timeout=20).returncode:
            continue  # dcmconv does not unpack compressed files
        assert content_digest(came) == content_digest(path), path.name
        converted += 1
    assert converted > 15
