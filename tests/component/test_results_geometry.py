"""I16: a mask comes back where it was, whatever the axes, through readers that are not ours."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fixtures_results import (
    PRODUCER,
    asymmetric_phantom,
    enhanced_volume,
    findings_of,
    plain_volume,
    run_identity,
    write_enhanced,
    write_series,
)
from pydicom import dcmread

from ai_engine.geometry import Affine
from dicom_node.results import build, check
from dicom_node.words import Volume

pytestmark = pytest.mark.component

SHAPE = (7, 15, 18)
SPACING = (3.0, 1.3, 0.8)
EVERY_ORDER = [
    (axes, signs, descending)
    for axes in itertools.permutations(range(3), 2)
    for signs in itertools.product((1, -1), repeat=2)
    for descending in (False, True)
]
"""48: every ordered pair of signed patient axes for columns and rows, files ascending and descending."""


def tool(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        pytest.fail(f"{name} is missing: make setup-test installs dcmqi")
    return found


def centroid_mm(volume: Volume, mask: np.ndarray, label: int) -> np.ndarray:
    return np.asarray(volume.affine.to_patient(np.argwhere(mask == label)).mean(axis=0))


def read_with_dcmqi(data: bytes, folder: Path) -> dict[int, np.ndarray]:
    """Every voxel centre of each segment in LPS millimetres, as dcmqi and SimpleITK see them."""
    folder.mkdir()
    (folder / "seg.dcm").write_bytes(data)
    subprocess.run(
        [tool("segimage2itkimage"), "-t", "nrrd", "-p", "s", "--outputDirectory", ".", "--inputDICOM", "seg.dcm"],
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=True,
    )
    points = {}
    for path in sorted(folder.glob("s-*.nrrd")):
        image = sitk.ReadImage(str(path))
        direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        found = np.argwhere(sitk.GetArrayFromImage(image) > 0)[:, ::-1]
        points[int(path.stem.split("-")[-1])] = found @ direction.T + np.array(image.GetOrigin())
    return points


def cross_check(data: bytes, volume: Volume, mask: np.ndarray, folder: Path) -> None:
    """Voxel by voxel: the set of marked voxel centres is the same in patient space."""
    seen = read_with_dcmqi(data, folder)
    for label in (1, 2):
        wanted = np.asarray(volume.affine.to_patient(np.argwhere(mask == label)))
        found = seen[label]
        assert len(found) == len(wanted)
        index = np.rint(volume.affine.to_index(found)).astype(int)
        assert (mask[tuple(index.T)] == label).all() and len(np.unique(index, axis=0)) == len(wanted)
        off = np.abs(volume.affine.to_index(found) - index).max()
        assert off < 0.05
        half = min(volume.affine.spacing_mm) / 2
        assert np.linalg.norm(found.mean(axis=0) - centroid_mm(volume, mask, label)) < half


def directions(axes: tuple[int, int], signs: tuple[int, int]) -> np.ndarray:
    """Rows (slice, row, column): unit vectors; the slice direction is column direction x row direction."""
    column, row = np.zeros(3), np.zeros(3)
    column[axes[0]], row[axes[1]] = signs
    return np.array([np.cross(column, row), row, column])


@pytest.mark.parametrize(("axes", "signs", "descending"), EVERY_ORDER)
def test_every_axis_order_comes_back(tmp_path, axes, signs, descending):
    array, mask = asymmetric_phantom(SHAPE)
    affine = Affine.from_axes((-20.0, 35.0, 50.0), directions(axes, signs), SPACING)
    order = range(SHAPE[0])[::-1] if descending else None
    volume = plain_volume(write_series(tmp_path, array, affine, file_order=order))
    assert volume.affine.close_to(affine)
    findings = findings_of(mask, volume.affine)
    result = build(run_identity(), volume, mask, findings, PRODUCER)
    check(result, volume, mask, findings)
    if not descending:
        cross_check(result.objects[0].data, volume, mask, tmp_path / "dcmqi")


@pytest.mark.parametrize("seed", range(6))
def test_random_obliques_come_back(tmp_path, seed):
    random = np.random.default_rng(seed)
    q, _ = np.linalg.qr(random.normal(size=(3, 3)))
    if np.linalg.det(q) < 0:
        q[0] *= -1
    column, row = q[0], q[1]
    spacing = tuple(float(v) for v in random.uniform(0.5, 5.0, size=3))
    affine = Affine.from_axes(random.uniform(-100, 100, size=3).tolist(), [np.cross(column, row), row, column], spacing)
    array, mask = asymmetric_phantom(SHAPE)
    order = random.permutation(SHAPE[0]).tolist()
    volume = plain_volume(write_series(tmp_path, array, affine, file_order=order))
    findings = findings_of(mask, volume.affine)
    result = build(run_identity(), volume, mask, findings, PRODUCER)
    check(result, volume, mask, findings)
    cross_check(result.objects[0].data, volume, mask, tmp_path / "dcmqi")


def test_enhanced_source_names_its_frames(tmp_path):
    array, mask = asymmetric_phantom(SHAPE)
    affine = Affine.from_axes((-20.0, 35.0, 50.0), directions((1, 2), (1, -1)), SPACING)
    frame_order = [3, 0, 6, 1, 5, 2, 4]
    path = write_enhanced(tmp_path, array, affine, frame_order)
    volume = enhanced_volume(path, array, affine, frame_order)
    findings = findings_of(mask, affine)
    result = build(run_identity(), volume, mask, findings, PRODUCER)
    check(result, volume, mask, findings)
    cross_check(result.objects[0].data, volume, mask, tmp_path / "dcmqi")
    seg = dcmread(BytesIO(result.objects[0].data))
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    for frame in seg.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        slice_index = round(float(affine.to_index(position)[0]))
        assert frame_order[int(reference.ReferencedFrameNumber) - 1] == slice_index


def test_a_wrong_affine_is_noticed(tmp_path):
    """The volume says it lies elsewhere than its images: the check refuses, so no shifted overlay can leave."""
    from dicom_node.refusals import Refused

    array, mask = asymmetric_phantom(SHAPE)
    affine = Affine.from_axes((-20.0, 35.0, 50.0), directions((0, 1), (1, 1)), SPACING)
    volume = plain_volume(write_series(tmp_path, array, affine))
    for flips in ((True, False, False), (False, True, False), (False, False, True)):
        turned = dataclasses.replace(volume, affine=affine.rearranged((0, 1, 2), flips, SHAPE))
        findings = findings_of(mask, turned.affine)
        with pytest.raises((Refused, KeyError, ValueError)):
            check(build(run_identity(), turned, mask, findings, PRODUCER), turned, mask, findings)


def test_dcmqi_reads_the_report(tmp_path):
    array, mask = asymmetric_phantom(SHAPE)
    affine = Affine.from_axes((-20.0, 35.0, 50.0), directions((0, 1), (1, 1)), SPACING)
    volume = plain_volume(write_series(tmp_path, array, affine))
    findings = findings_of(mask, volume.affine)
    result = build(run_identity(), volume, mask, findings, PRODUCER)
    (tmp_path / "sr.dcm").write_bytes(result.objects[-1].data)
    subprocess.run(
        [
            tool("tid1500reader"),
            "--inputDICOM",
            str(tmp_path / "sr.dcm"),
            "--outputMetadata",
            str(tmp_path / "sr.json"),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    read = json.loads((tmp_path / "sr.json").read_text())
    by_key = {group["TrackingIdentifier"]: group for group in read["Measurements"]}
    for region in findings.regions[:2]:
        group = by_key[region.key]
        volumes = [i for i in group["measurementItems"] if i["quantity"]["CodeValue"] == "118565006"]
        assert float(volumes[0]["value"]) == pytest.approx(region.measurements[0].value, rel=1e-6)
        assert volumes[0]["units"]["CodeValue"] == "cm3"
