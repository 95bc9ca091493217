"""A decoded picture as (rows, columns, 3) sRGB, upright: what every kind of file but an untouched JPEG becomes.

Runs in the decoding child.  Grey is repeated, a palette looked up, sixteen bits keep their upper eight, transparency
lies on white, a colour profile is applied and CMYK needs one; EXIF's orientation is applied last.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from dicom_node.refusals import RefusalCode, Refused

_TURNS: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}


def upright_srgb(image: Image.Image, profile: bytes, orientation: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Pixels of a loaded picture, and what was done to them beyond copying, in words.

    Raises
    ------
    Refused
        image-mode-unsupported: CMYK without a profile, or a kind of pixel that is not read.
    """
    notes: list[str] = []
    image = _eight_bits(image)
    image = _on_white(image, notes)
    image = _in_srgb(image, profile, notes)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
        notes.append("turned upright as EXIF says")
    return np.array(image, dtype=np.uint8), notes


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        values = np.asarray(image).astype(np.int64)
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            raise Refused(RefusalCode.IMAGE_MODE_UNSUPPORTED, "samples of at most 16 bits", "larger ones")
        return Image.fromarray((values >> 8).astype(np.uint8))
    return image


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    """RGB, L or CMYK; whatever was transparent shows white."""
    if image.mode in ("RGB", "L", "CMYK") and "transparency" not in image.info:
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode not in ("RGB", "L", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX"):
        raise Refused(RefusalCode.IMAGE_MODE_UNSUPPORTED, "grey, palette, RGB or CMYK", "another kind of pixels")
    if image.mode in ("P", "RGBX") and "transparency" not in image.info:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    if seen.getchannel("A").getextrema() != (255, 255):
        notes.append("transparent parts laid on white")
    white = Image.new("RGBA", seen.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, seen).convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    source = read_profile(profile)
    is_fitting = source is not None and _space(source) == _PROFILE_SPACES[image.mode]
    if image.mode == "CMYK" and not is_fitting:
        raise Refused(RefusalCode.IMAGE_MODE_UNSUPPORTED, "RGB, or CMYK with its colour profile", "CMYK without one")
    if profile and not is_fitting:
        notes.append("a colour profile that does not fit was left aside")
    if source is None or not is_fitting or is_srgb(describe(source)):
        return image.convert("RGB")
    try:
        changed = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError):
        changed = None
    if changed is None:
        raise Refused(RefusalCode.IMAGE_MODE_UNSUPPORTED, "a colour profile that can be applied", "another")
    notes.append("colours of its profile converted to sRGB")
    return changed


def read_profile(profile: bytes) -> ImageCms.ImageCmsProfile | None:
    """The profile, if it is one."""
    if not profile:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (ImageCms.PyCMSError, OSError):
        return None


def describe(profile: ImageCms.ImageCmsProfile) -> str:
    """What a profile calls itself; empty when it does not say."""
    try:
        return ImageCms.getProfileDescription(profile).strip()
    except ImageCms.PyCMSError:
        return ""


def is_srgb(description: str) -> bool:
    """Whether a profile's own description says that it is sRGB."""
    return description.lower().startswith("srgb")


def profile_facts(profile: bytes) -> dict[str, Any] | None:
    """What the object says about the profile of an untouched picture; None when it is no profile of RGB."""
    source = read_profile(profile)
    if source is None or _space(source) != "RGB":
        return None
    description = describe(source)
    return {"color_space": next((term for word, term in _TERMS if word in description.lower()), "")}


_TERMS = (("srgb", "SRGB"), ("adobe rgb", "ADOBERGB"), ("romm", "ROMMRGB"), ("prophoto", "ROMMRGB"))
"""Color Space (0028,2002), defined terms of PS3.3 C.11.15.1.2."""


def _space(profile: ImageCms.ImageCmsProfile) -> str:
    return str(profile.profile.xcolor_space).strip()
