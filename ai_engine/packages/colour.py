"""sRGB to the CIELab integers of Recommended Display CIELab Value (0062,000D), PS3.3 C.10.7.1.1.

L* 0..100 becomes 0..65535; a* and b* -128..127 become 0..65535.  The standard's profile connection space has a D50
white; the readers that exist (pixelmed, dcmjs and so OHIF, highdicom) compute with sRGB's own D65 and no adaptation.
We write what they turn back into the package's own RGB, so that overlay, PDF and viewer show one colour.
"""

from __future__ import annotations

_XYZ = (
    # linear sRGB to XYZ, IEC 61966-2-1
    (0.4124, 0.3576, 0.1805),
    (0.2126, 0.7152, 0.0722),
    (0.0193, 0.1192, 0.9505),
)
_WHITE_D65 = (0.95047, 1.0, 1.08883)


def _linear(value: int) -> float:
    share = value / 255
    return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)


def _curve(value: float) -> float:
    return float(value ** (1 / 3)) if value > (6 / 29) ** 3 else value / (3 * (6 / 29) ** 2) + 4 / 29


def cielab_from_rgb(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Turn 8-bit sRGB into stored CIELab integers."""
    linear = [_linear(value) for value in rgb]
    x, y, z = (
        _curve(sum(factor * value for factor, value in zip(row, linear, strict=True)) / white)
        for row, white in zip(_XYZ, _WHITE_D65, strict=True)
    )
    lightness, a, b = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    stored = (lightness / 100 * 65535, (a + 128) / 255 * 65535, (b + 128) / 255 * 65535)
    first, second, third = (min(65535, max(0, round(value))) for value in stored)
    return first, second, third
