"""Small parts of the prediction API: buckets of calls, kinds by content, label maps, the count of weights."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from ai_engine.packages.parameters import count_parameters
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.spool import Spool
from dicom_node.stages.inputs import refuse_label_map
from dicom_node.stages.kinds import kind_of, role_of_name
from dicom_node.volume import nifti_guard
from portal.api.limits import Buckets, retry_after
from tests.support.api import head, nifti

pytestmark = pytest.mark.unit


def test_a_bucket_refills_with_time_and_each_caller_has_one() -> None:
    now = [0.0]
    buckets = Buckets(60, clock=lambda: now[0])
    assert all(buckets.take("a") == 0.0 for _ in range(60))
    assert buckets.take("a") == pytest.approx(1.0)
    assert buckets.take("b", 60) == 0.0
    now[0] += 1.0
    assert buckets.take("a") == 0.0 and buckets.take("a") > 0.9
    now[0] += 1000.0
    assert buckets.take("a", 500) == 0.0  # more than a bucket holds: let through when it is full
    assert (retry_after(0.2), retry_after(3.2)) == ("1", "4")


def test_a_kind_is_found_by_content(tmp_path: Path) -> None:
    image = nifti(head(), tmp_path / "a.nii").read_bytes()
    for data, kind in {
        image: "nifti",
        gzip.compress(image): "nifti",
        b"PK\x03\x04" + bytes(600): "zip",
        bytes(128) + b"DICM" + bytes(400): "dicom",
        b"\xff\xd8\xff\xe0" + bytes(600): "",
        gzip.compress(b"tarball" * 200): "",
        b"\x1f\x8bdamaged": "nifti",
        b"": "",
    }.items():
        (tmp_path / "file").write_bytes(data)
        assert kind_of(tmp_path / "file") == kind


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("BraTS-GLI-00000-000-t1c.nii.gz", "t1c"), ("Brats18_x_t1ce.nii.gz", "t1c"), ("a_flair.nii", "flair"),
        ("BraTS-GLI-1-t2f.nii.gz", "flair"), ("BraTS-GLI-1-t2w.nii.gz", "t2"), ("BraTS-GLI-1-t1n.nii.gz", "t1"),
        ("a_T1.NII.GZ", "t1"), ("flair.nii.gz", ""), ("scan.nii.gz", ""), ("t1c.png", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_role_is_read_from_the_end_of_a_name(name: str, role: str) -> None:
    assert role_of_name(name) == role


def test_a_label_map_is_no_image() -> None:
    labels = np.zeros((4, 50, 50), np.float32)
    labels[2, 10:20, 10:20] = 4
    with pytest.raises(Refused) as refused:
        refuse_label_map(labels)
    assert refused.value.refusal.code is RefusalCode.IMAGE_IS_LABEL_MAP
    refuse_label_map(labels + np.float32(0.5))
    refuse_label_map(np.arange(10_000, dtype=np.float32).reshape(4, 50, 50))
    rare = np.zeros((4, 50, 50), np.float32)
    rare[3, 0, :9] = np.arange(9)  # nine grey values, eight of them rare
    refuse_label_map(rare)


def test_a_reader_that_misbehaves_is_a_refusal(tmp_path: Path) -> None:
    path = nifti(head(), tmp_path / "a.nii")
    for program in ("import time; time.sleep(60)", "import os; os.abort()", "print('x' * 100)", "pass"):
        with pytest.raises(Refused) as refused:
            nifti_guard.read_nifti_guarded(
                path,
                limits=nifti_guard.Limits(child_wall_s=1.0),
                command=(*nifti_guard.COMMAND[:2], "-c", program),
            )
        assert refused.value.refusal.code is RefusalCode.NIFTI_HEADER_INVALID


def test_an_upload_lies_under_its_digest(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    part = spool.part()
    part.write(b"abc")
    upload = spool.keep(part)
    assert spool.path(upload.sha256).read_bytes() == b"abc" and upload.size_bytes == 3
    begun = spool.part()
    begun.discard()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [upload.sha256[2:]]
    for name in ("../x", "A" * 64, "", "a" * 63):
        with pytest.raises(ValueError, match="sha256"):
            spool.path(name)
    assert spool.sweep({upload.sha256}, -1) == 0
    assert spool.sweep(set(), 3600) == 0
    assert spool.sweep(set(), -1) == 1


def test_weights_are_counted_without_being_loaded(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(
        {
            "encoder.stages.0.conv.weight": torch.zeros(4, 1, 3, 3),
            "encoder.stages.0.all_modules.0.weight": torch.zeros(4, 1, 3, 3),
            "decoder.encoder.stages.0.conv.weight": torch.zeros(4, 1, 3, 3),
            "encoder.stages.0.norm.weight": torch.zeros(4),
            "encoder.stages.0.norm.running_mean": torch.zeros(4),
        },
        tmp_path / "w.safetensors",
    )
    assert count_parameters(tmp_path / "w.safetensors") == 36 + 4
    (tmp_path / "no").write_bytes(b"x" * 100)
    assert count_parameters(tmp_path / "no") is None
