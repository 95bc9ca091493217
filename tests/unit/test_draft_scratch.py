"""What is taken out of an archive that somebody dropped lies where data lie, and never outlives a death for long."""

from __future__ import annotations

import io
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dicom_node.desks import drafts
from dicom_node.refusals import Refused
from dicom_node.spool import Spool

pytestmark = pytest.mark.unit


def test_what_comes_out_of_a_zip_lies_in_the_spool_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, folders, real = Spool(tmp_path), list[Path](), drafts.unpack

    def unpack(path: Path, folder: Path, **limits: Any) -> Any:
        folders.append(folder)
        return real(path, folder, **limits)

    monkeypatch.setattr(drafts, "unpack", unpack)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.dcm", b"no image")
    part = spool.part()
    part.write(made.getvalue())
    with pytest.raises(Refused):
        drafts.Drafts(spool, tmp_path, 1_000_000).make("ana", [drafts.Told("a.zip", spool.keep(part))])
    (folder,) = folders
    assert folder.is_relative_to(tmp_path) and not folder.exists()


def test_what_a_death_leaves_there_is_swept(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.scratch() as old, spool.scratch() as young:
        assert old.stat().st_mode & 0o077 == 0
        for folder in (old, young):
            (folder / "00000").write_bytes(b"an image")
        hour_ago = time.time() - 7200
        os.utime(old, (hour_ago, hour_ago))
        assert spool.sweep(set(), 3600) == 1
        assert not old.exists() and (young / "00000").exists()
