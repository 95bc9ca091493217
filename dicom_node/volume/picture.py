"""Stored photographs as pictures: the colours that a model sees come from the archived object and from nothing else.

PS3.3 A.32.4 (VL Photographic), A.32.11 (Dermoscopic Photography), A.8.1 (Secondary Capture); C.11.15 (ICC profile).
Headers are judged here, pixels are decoded in the guarded child, all of one call in one child.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from ai_engine.findings import Code
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.colour import ColourFormat, colour_format
from dicom_node.volume.decode import Array, EncodedFrame, decode_frames
from dicom_node.volume.header import StoredObject, read_object
from dicom_node.volume.limits import Limits
from dicom_node.words import Picture

_DISTRIBUTIONS = {"pillow": "pillow", "gdcm": "python-gdcm", "charls": "pyjpegls", "openjpeg": "pylibjpeg-openjpeg"}


def read_picture(paths: Path | str | Sequence[Path | str], *, limits: Limits = Limits()) -> Picture:
    """Decode one stored photograph.

    Parameters
    ----------
    paths
        One DICOM Part 10 file of class VL Photographic, Dermoscopic Photography or Secondary Capture; or a sequence of
        one such file.

    Returns
    -------
    Picture
        (rows, columns, 3) uint8 sRGB, as viewers show it; its notes name the decoder.

    Raises
    ------
    Refused
        As `read_pictures`; series-mixed for another number of files than one.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if len(files) != 1:
        raise Refused(RefusalCode.SERIES_MIXED, "one photograph", f"{len(files)} files")
    return read_pictures(files, limits=limits)[0]


def read_pictures(paths: Sequence[Path | str], *, limits: Limits = Limits()) -> tuple[Picture, ...]:
    """Decode stored photographs in the order given, in one guarded child.

    Raises
    ------
    Refused
        As `read_header`; and sop-class-unsupported, image-animated (several frames), pixel-format-unsupported (grey,
        16 bits), photometric-unsupported (palette, subsampled native pixels), transfer-syntax-unsupported,
        image-too-large, pixel-data-missing, pixel-data-length, pixel-decode-failed (damage; a codestream that
        contradicts the header in size, depth or colours; a colour profile that cannot be read).
    """
    if len(paths) > limits.max_files:
        raise Refused(RefusalCode.TOO_LARGE, f"at most {limits.max_files} files", str(len(paths)))
    stored = [read_object(path, limits=limits) for path in paths]
    formats = [colour_format(one.header, limits) for one in stored]
    if sum(form.frame_bytes for form in formats) > limits.max_decoded_bytes:
        raise Refused(RefusalCode.TOO_LARGE, f"at most {limits.max_decoded_bytes} bytes of pixels", "more")
    frames = [_encoded(one, form, limits) for one, form in zip(stored, formats, strict=True)]
    arrays: list[Array] = [np.empty(0, dtype=np.uint8)] * len(frames)
    decode_frames(frames, arrays.__setitem__, limits=limits)
    return tuple(
        _picture(one, frame, form, array)
        for one, frame, form, array in zip(stored, frames, formats, arrays, strict=True)
    )


def _encoded(stored: StoredObject, form: ColourFormat, limits: Limits) -> EncodedFrame:
    if stored.pixels is None:
        raise Refused(RefusalCode.PIXEL_DATA_MISSING, "pixel data", "none")
    if stored.pixels.icc_profile[1] > limits.max_icc_bytes:
        raise Refused(
            RefusalCode.TOO_LARGE,
            f"a colour profile of at most {limits.max_icc_bytes} bytes",
            f"{stored.pixels.icc_profile[1]} bytes",
        )
    return EncodedFrame(form, stored.pixels, has_profile=_has_foreign_profile(stored))


def _has_foreign_profile(stored: StoredObject) -> bool:
    """Whether colours are to be converted: a profile is there, and Color Space (0028,2002) does not say sRGB."""
    has_profile = stored.pixels is not None and stored.pixels.icc_profile[1] > 0
    return has_profile and stored.header.get("ColorSpace") != "SRGB"


def _picture(stored: StoredObject, frame: EncodedFrame, form: ColourFormat, pixels: Array) -> Picture:
    header = stored.header
    return Picture(
        pixels=pixels,
        sop_class_uid=header["SOPClassUID"],
        sop_instance_uid=header["SOPInstanceUID"],
        series_uid=header["SeriesInstanceUID"],
        study_uid=header["StudyInstanceUID"],
        modality=str(header.get("Modality", "")),
        path=str(frame.location.path),
        declared=cast(Literal["dermoscopic", "plain", ""], header.get("DeclaredPicture", "")),
        body_site=_body_site(header),
        laterality=str(header.get("ImageLaterality") or header.get("Laterality") or ""),
        attributes=dict(header),
        notes=_notes(header, frame, form),
    )


def _body_site(header: Mapping[str, Any]) -> Code | None:
    value = header.get("AnatomicRegionCode")
    if not value:
        return None
    return Code(value, header["AnatomicRegionScheme"], header.get("AnatomicRegionMeaning", ""))


def _notes(header: Mapping[str, Any], frame: EncodedFrame, form: ColourFormat) -> tuple[str, ...]:
    distribution = _DISTRIBUTIONS.get(form.decoder)
    decoder = f"{distribution} {importlib.metadata.version(distribution)}" if distribution else f"own ({form.decoder})"
    notes = [f"decoder {decoder}"]
    if frame.has_profile:
        notes.append("colours of an ICC profile read as sRGB")
    if header.get("LossyImageCompression") == "01":
        notes.append("the source images were compressed with loss")
    return tuple(notes)
