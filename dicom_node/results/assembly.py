"""The room's verb: from findings to a result set, in sending order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.findings import Findings, ModelIdentity
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results.capture import build_capture
from dicom_node.results.encapsulated import build_encapsulated
from dicom_node.results.heat import as_png, reading_picture
from dicom_node.results.ko import build_ko
from dicom_node.results.objects import Job
from dicom_node.results.page import build_page
from dicom_node.results.page_picture import build_picture_page
from dicom_node.results.phrases import words
from dicom_node.results.pictures import montage
from dicom_node.results.producer import Producer
from dicom_node.results.quiet import quietly
from dicom_node.results.seg import build_seg
from dicom_node.results.sources import read_sources, read_study
from dicom_node.results.sr import build_picture_sr, build_sr
from dicom_node.words import Picture, ResultObject, ResultSet, RunIdentity, SliceSource, Volume


def build(
    identity: RunIdentity,
    volume: Volume,
    mask: npt.NDArray[np.uint8],
    findings: Findings,
    producer: Producer,
    *,
    data_root: Path | None = None,
    further_sources: Sequence[SliceSource] = (),
    language: str = "en",
) -> ResultSet:
    """Build every object of a run: SEG (if a region is present), PDF, SR, in the order in which they are sent.

    Parameters
    ----------
    volume
        The reference volume: the series that the mask is drawn on.
    mask
        (S, R, C) uint8 on the volume's own grid; values are the `label` of the findings' regions, 0 elsewhere.
    data_root
        Folder to which the paths of `SliceSource` are relative; absolute paths are used as they are.
    further_sources
        Images of other series of the same study that the model read as well.
    language
        Of the page: ``en`` or ``es``.  The structured report is always written in English.

    Raises
    ------
    Refused
        `patient-conflict` when sources disagree on patient or study; `patient-unidentified`, `uid-mismatch`,
        `uid-invalid`, `dicom-malformed` and `geometry-missing` for sources that cannot be quoted;
        `result-check-failed` when mask and findings do not belong together.
    """
    say = words(language)
    _belong_together(volume, mask, findings)
    banner = f"{say['unreviewed']} · {say['banner']}. {say['not_clinical']}"
    # pictures need no segmentation object, and most of their time is compression, which lets the other thread run
    with quietly(), ThreadPoolExecutor(1, thread_name_prefix="pictures") as drawing:
        sources = read_sources(identity, volume, further_sources, data_root)
        job = Job(identity, producer, findings, sources, language)
        page = drawing.submit(build_page, job, volume, mask)
        overlay = drawing.submit(montage, volume, mask, findings.regions, banner, say["slice"])
        seg = build_seg(job, volume, mask)
        report = build_sr(job, volume, mask, seg, ())
        pdf = build_encapsulated(job, page.result(), seg)
        return ResultSet(
            run_key=identity.run_key,
            study_uid=identity.study_uid,
            objects=tuple(o for o in (seg, pdf, report) if o is not None),
            pdf=page.result(),
            overlay_png=overlay.result(),
        )


def build_picture(
    identity: RunIdentity,
    picture: Picture,
    heat_map: npt.NDArray[np.uint8] | None,
    findings: Findings,
    producer: Producer,
    *,
    data_root: Path | None = None,
    language: str = "en",
) -> ResultSet:
    """Build every object of a run on one photograph: heat map (if there is one), PDF, SR, the order of sending.

    Parameters
    ----------
    picture
        The photograph, as it was decoded from the archive's object.
    heat_map
        (rows, columns) uint8 over the whole picture, of any size.
    data_root, language
        As for `build`.

    Raises
    ------
    Refused
        As `build`; `result-check-failed` when the findings are none about a picture.
    """
    words(language)
    if findings.regions or not findings.observations:
        raise _mismatch("observations about a picture, and no regions", "findings of another kind")
    source = SliceSource(picture.sop_class_uid, picture.sop_instance_uid, picture.path)
    with quietly():
        job = Job(identity, producer, findings, read_study(identity, source, data_root), language)
        pixels = reading_picture(job, picture.pixels, heat_map)
        capture = None if heat_map is None else build_capture(job, picture, pixels)
        page = build_picture_page(job, picture, heat_map)
        pdf = build_encapsulated(job, page, capture)
        report = build_picture_sr(job, picture, [capture] if capture is not None else [])
    return ResultSet(
        run_key=identity.run_key,
        study_uid=identity.study_uid,
        objects=tuple(o for o in (pdf, capture, report) if o is not None),
        pdf=page,
        overlay_png=as_png(pixels),
    )


def build_rejection(
    identity: RunIdentity,
    predecessor: Sequence[Mapping[str, Any]],
    source: SliceSource,
    model: ModelIdentity,
    producer: Producer,
    *,
    data_root: Path | None = None,
    because: str = "",
) -> ResultObject:
    """The key object selection that rejects a result set: one that a new run supersedes, or one that is withdrawn.

    Parameters
    ----------
    identity, model
        Of the *new* run: its UIDs, its study, and the model that speaks.
    predecessor
        ``{"kind", "sop_class_uid", "sop_instance_uid", "series_uid"}`` per old object.
    source
        Any image of the study, for the patient and study attributes.
    because
        Of a withdrawn result set: why nothing takes its place, in a sentence.

    Raises
    ------
    Refused
        As `build` for the source image, and `validation` when there is nothing to reject.
    """
    with quietly():
        sources = read_study(identity, source, data_root)
        return build_ko(Job(identity, producer, Findings(model), sources), predecessor, because)


def _belong_together(volume: Volume, mask: npt.NDArray[np.uint8], findings: Findings) -> None:
    """Refuse a mask on another grid, with labels nobody named, or with other counts than the findings say."""
    if mask.shape != volume.array.shape or mask.dtype != np.uint8:
        raise _mismatch(f"a uint8 mask of shape {volume.array.shape}", f"{mask.dtype} of shape {mask.shape}")
    if len(volume.slices) != mask.shape[0]:
        raise _mismatch("one source per slice", f"{len(volume.slices)} sources for {mask.shape[0]} slices")
    counts = np.bincount(mask.reshape(-1), minlength=256)
    named = [r.label for r in findings.regions if r.label is not None]
    if len(set(named)) != len(named) or not all(0 < label < 256 for label in named):
        raise _mismatch("distinct labels from 1 to 255", "labels that are not")
    unknown = sorted(set(np.flatnonzero(counts).tolist()) - {0, *named})
    if unknown:
        raise _mismatch("only labels that the findings name", f"labels {unknown}")
    for region in findings.regions:
        labels = region.composite_of if region.label is None else (region.label,)
        if region.voxels != int(sum(counts[label] for label in labels)):
            raise _mismatch(f"{region.voxels} voxels of region {region.key}", "another number in the mask")


def _mismatch(expected: str, found: str) -> Refused:
    return Refused(RefusalCode.RESULT_CHECK_FAILED, expected, found)
