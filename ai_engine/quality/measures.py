"""Cheap numbers about a picture, each with a meaning a photographer knows.

Everything is measured on the whole picture squeezed to 256 x 256, which is a little more than a network sees: blur that
vanishes at this size does no harm, and detail that is not there at this size is not judged.  The black frame of a
dermatoscope is left out: dark regions that touch the border are not the *view*.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SIDE = 256
"""Pixels of a side at which pictures are measured."""
FRAME_LEVEL = 28.0
"""Brightness, 0 to 255, up to which a border region counts as a black frame."""
SKIN_MIDDLE = (0.275, -0.036)
SKIN_SPREAD = ((0.0455, -0.0051), (-0.0051, 0.0254))
"""Mean and covariance of ln(red / green) and ln(blue / green) over the pixels of 500 dermoscopy pictures."""
SKIN_REACH = 3.0
"""A colour within so many standard deviations is one that skin and lesions take."""
_SMOOTH = 1.25
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Measures:
    """What was measured.

    Attributes
    ----------
    shorter_side
        Pixels, of the picture as it came.
    elongation
        Longer side by shorter side.
    view
        Share of the picture that is not black frame, 0 to 1.
    brightness
        Median brightness of the view, 0 to 255.
    glare
        Share of the view that is burnt out in all three colours.
    contrast
        Brightness between the 2nd and the 98th percentile of the view.
    sharpness
        Natural logarithm of the energy of detail of 1 pixel against detail of 3 pixels; falls with blur, hardly with
        content.
    detail
        Standard deviation of detail of 1 pixel, in grey values; noise and print have much.
    flatness
        Share of the view whose 3 x 3 neighbourhood is one value: drawn, printed or clipped, not photographed.
    colour
        90th percentile of the distance from grey, as |ln(red / green)| + |ln(blue / green)|; 0 for a grey picture.
    skin
        Share of the view in colours that skin and lesions take in dermoscopy.
    lesion
        How far the smoothed colour of the lesion lies from its surround, in units of CIELAB distance.
    """

    shorter_side: float
    elongation: float
    view: float
    brightness: float
    glare: float
    contrast: float
    sharpness: float
    detail: float
    flatness: float
    colour: float
    skin: float
    lesion: float

    def to_json(self) -> dict[str, float]:
        """Rounded to what is meaningful."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def measure_picture(pixels: Pixels) -> Measures:
    """Measure one picture.

    Parameters
    ----------
    pixels
        (rows, columns, 3) uint8, sRGB.
    """
    rows, columns = pixels.shape[:2]
    small = at_working_size(pixels)
    luma = np.asarray(small @ _LUMA, np.float32)
    view = field_of_view(luma)
    inner = ndimage.minimum_filter(view, 9, mode="nearest")
    if inner.sum() < SIDE:
        inner = view = np.ones_like(view)
    seen = luma[view]
    low, middle, high = np.percentile(seen, (2, 50, 98))
    sharpness, detail = _sharpness(luma, inner)
    ratios = _log_ratios(small)
    return Measures(
        shorter_side=float(min(rows, columns)),
        elongation=max(rows, columns) / max(min(rows, columns), 1),
        view=float(view.mean()),
        brightness=float(middle),
        glare=float((small.min(axis=2)[view] >= 250).mean()),
        contrast=float(high - low),
        sharpness=sharpness,
        detail=detail,
        flatness=float((_range(luma) < 0.5)[inner].mean()),
        colour=float(np.percentile(np.abs(ratios).sum(axis=2)[view], 90)),
        skin=float(_like_skin(ratios)[view].mean()),
        lesion=_lesion(small, inner),
    )


def at_working_size(pixels: Pixels) -> Floats:
    """The whole picture, squeezed to (256, 256, 3) float32, 0 to 255."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0), np.float32)


def field_of_view(luma: Floats) -> Mask:
    """Everything but dark regions that touch the border, the frame of a dermatoscope's round view."""
    labels, _ = ndimage.label(ndimage.uniform_filter(luma, 3) <= FRAME_LEVEL)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.asarray(~np.isin(labels, border[border > 0]))


def _log_ratios(small: Floats) -> Floats:
    """ln(red / green), ln(blue / green); 12 grey values are added so that darkness has no colour."""
    logs = np.log(small + 12.0)
    return np.stack([logs[..., 0] - logs[..., 1], logs[..., 2] - logs[..., 1]], axis=-1)


def _like_skin(ratios: Floats) -> Mask:
    """Which pixels have a colour that skin and lesions take in dermoscopy; brightness does not count."""
    (one, both), (_, other) = np.linalg.inv(np.array(SKIN_SPREAD)).tolist()
    red, blue = ratios[..., 0] - SKIN_MIDDLE[0], ratios[..., 1] - SKIN_MIDDLE[1]
    return np.asarray(one * red * red + 2 * both * red * blue + other * blue * blue <= SKIN_REACH**2)


def _sharpness(luma: Floats, inner: Mask) -> tuple[float, float]:
    first, second, third = (ndimage.gaussian_filter(luma, sigma) for sigma in (0.8, 1.8, 3.6))
    fine, coarse = (luma - first)[inner], (second - third)[inner]
    energy = float(np.mean(fine**2))
    # the floor below is the larger one: what has no detail at all counts as blurred
    return float(np.log((energy + 1e-4) / (float(np.mean(coarse**2)) + 0.02))), float(np.sqrt(energy))


def _range(luma: Floats) -> Floats:
    return np.asarray(ndimage.maximum_filter(luma, 3) - ndimage.minimum_filter(luma, 3), np.float32)


def _lesion(small: Floats, inner: Mask) -> float:
    """Distance in CIELAB between the two classes into which the smoothed view falls best (Otsu along its main axis).

    Light that falls off evenly is no lesion: a plane fitted to brightness is taken off first.
    """
    seen = _shrunk(inner.astype(np.float32))
    parts = [_shrunk(small[..., colour] * inner) for colour in range(3)]
    weight = ndimage.gaussian_filter(seen, _SMOOTH)
    smooth = np.stack([ndimage.gaussian_filter(part, _SMOOTH) for part in parts], axis=-1)
    keep = seen >= 0.5
    colours = _lab((smooth / np.maximum(weight, 1e-3)[..., None])[keep])
    places = np.argwhere(keep).astype(np.float32)
    ground = np.column_stack([places - places.mean(axis=0), np.ones(len(places), np.float32)])
    plane = np.linalg.lstsq(ground, colours, rcond=None)[0]
    plane[2] = 0
    flat = colours - ground @ plane
    centred = flat - flat.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    along = centred @ axis
    cut = _otsu(along)
    one, other = flat[along <= cut], flat[along > cut]
    if min(len(one), len(other)) < 0.002 * len(flat):
        return 0.0
    return float(np.linalg.norm(one.mean(axis=0) - other.mean(axis=0)))


def _shrunk(plane: Floats) -> Floats:
    """A quarter of each side, by means of 4 x 4."""
    rows, columns = plane.shape
    return np.asarray(plane.reshape(rows // 4, 4, columns // 4, 4).mean(axis=(1, 3)), np.float32)


def _otsu(values: npt.NDArray[np.floating]) -> float:
    counts, edges = np.histogram(values, 64)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums * below[-1] - sums[-1] * below) ** 2 / (below * above)
    return float(edges[1:][int(np.argmax(np.nan_to_num(between[:-1])))])


def _lab(colours: Floats) -> Floats:
    """sRGB, 0 to 255, to CIELAB (D65)."""
    share = colours / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    parts = (116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2]))
    return np.asarray(np.stack(parts, axis=-1), np.float32)
