"""A node whose web process answers in this process and whose jobs run on a thread: the API without a network.

Everything but the transport is the product itself: portal, record, spool, stages, a real model in its child process.
"""

from __future__ import annotations

import gzip
import struct
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi.testclient import TestClient
from pydicom.uid import generate_uid

from ai_engine.geometry import Affine
from dicom_node.cli import web
from dicom_node.durable import Put
from dicom_node.record import keys
from dicom_node.volume import write_nifti
from tests.support import slices
from tests.support.node import Node

SLICE_S, REST_S = 600.0, 0.01
"""Of the engine's own clock; of the world's, after which what was postponed is looked at again."""


class ApiNode(Node):
    """A node that is asked over HTTP."""

    def __init__(self, folder: Path, models: Path, *, works: bool = True, **sections: Any) -> None:
        api = {"aliases": {"nnUNet": {"model": "tiny-bright", "default_role": "t1c"}}, **sections.pop("api", {})}
        data = {"folder": folder / "data", "min_free_gb": 0.0, "min_free_share": 0.0}
        super().__init__(folder, models, api=api, data=data, **sections)
        self.key = keys.create(self.database, "clinic", ["predict:run", "docs:read"])
        self.other_key = keys.create(self.database, "another", ["predict:run"])
        self.app = web.make_app(self.settings, self.database, self._put)
        self._some = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        if works:
            self._thread.start()

    def client(self, *, key: str | None = None, local: bool = True) -> TestClient:
        headers = {"X-API-Key": self.key if key is None else key}
        address = ("127.0.0.1" if local else "192.0.2.7", 40000)
        return TestClient(self.app, base_url="http://127.0.0.1", headers=headers, client=address)

    def _put(self, item: Put) -> None:
        with self._some:
            self.engine.put(item)
            self._some.notify()

    def _work(self) -> None:
        while not self._stopped:
            with self._some:
                self._some.wait_for(lambda: self.engine.live() or self._stopped, timeout=5.0)
            # In slices: what a person has paused comes back for ever, and must not keep us from being closed.
            self.engine.run(until_s=self.engine.now_s + SLICE_S)
            with self._some:
                self._some.wait(REST_S)

    def close(self) -> None:
        self._stopped = True
        with self._some:
            self._some.notify()
        if self._thread.is_alive():
            self._thread.join(30.0)
        super().close()


def head(*, size: int = 24, seed: int = 7, lesion: bool = True) -> npt.NDArray[np.float32]:
    """(S, R, C) picture: a ball of tissue in air, with a bright ball in it that the tiny model marks."""
    z, y, x = np.mgrid[:size, :48, :40].astype(np.float32)
    rng = np.random.default_rng(seed)
    ball = ((z - size / 2) / (size / 2)) ** 2 + ((y - 24) / 20) ** 2 + ((x - 20) / 17) ** 2 < 1
    picture = np.where(ball, 100 + rng.normal(0, 5, ball.shape), 0)
    if lesion:
        spot = (z - size / 2) ** 2 + (y - 20) ** 2 + (x - 16) ** 2 < 25
        picture = np.where(spot, 190 + rng.normal(0, 5, ball.shape), picture)
    return picture.astype(np.float32)


def nifti(array: npt.NDArray[Any], path: Path, spacing_mm: tuple[float, float, float] = (3.0, 2.0, 2.0)) -> Path:
    """Write a picture as an axial head first supine NIfTI file."""
    step, row, column = spacing_mm
    matrix = np.array([[0, 0, column, -40], [0, row, 0, -48], [step, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
    write_nifti(array, Affine(matrix), path)
    return path


def patched(path: Path, offset: int, form: str, *values: Any) -> bytes:
    """The bytes of an uncompressed NIfTI file with one header field changed."""
    data = path.read_bytes()
    raw = bytearray(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    struct.pack_into(form, raw, offset, *values)
    return bytes(raw)


def dicom(folder: Path, array: npt.NDArray[np.float32] | None = None, **changes: Any) -> list[Path]:
    """The same picture as an MR series in files of a folder; `changes` are attributes of every slice."""
    picture = head() if array is None else array
    study, series = str(generate_uid()), str(generate_uid())
    written = []
    for number, plane in enumerate(picture, start=1):
        ds = slices.slice_of(
            changes.get("StudyInstanceUID", study),
            series,
            number,
            Rows=plane.shape[0],
            Columns=plane.shape[1],
            PixelSpacing=[2.0, 2.0],
            ImagePositionPatient=[40.0 - 78.0, 48.0 - 94.0, 3.0 * number],
            SliceThickness=3.0,
            PixelData=np.clip(plane * 10, 0, 4000).astype(np.uint16).tobytes(),
            **{key: value for key, value in changes.items() if key != "StudyInstanceUID"},
        )
        written.append(slices.write(ds, folder / f"{number:03d}.dcm"))
    return written


def zipped(files: Iterable[Path], path: Path) -> Path:
    """Files in a zip archive, under their own names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return path
