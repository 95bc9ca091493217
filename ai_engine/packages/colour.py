"""sRGB to the CIELab integers of Recommended Display CIELab Value (0062,000D), PS3.3 C.10.7.1.1.

DICOM's PCS is CIELab under D50.  L* 0..100 becomes 0..65535; a* and b* -128..127 become 0..65535.
"""

from __future__ import annotations

_XYZ_D50 = (
    # linear sRGB to XYZ adapted to D50 (Bradford), IEC 61966-2-1 primaries
    (0.4360747, 0.3850649, 0.1430804),
    (0.2225045, 0.7168786, 0.0606169),
    (0.0139322, 0.0971045, 0.7141733),
)
_WHITE_D50 = (0.96422, 1.0, 0.82521)


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
        for row, white in zip(_XYZ_D50, _WHITE_D50, strict=True)
    )
    lightness, a, b = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    stored = (lightness / 100 * 65535, (a + 128) / 255 * 65535, (b + 128) / 255 * 65535)
    red, green, blue = (min(65535, max(0, round(value))) for value in stored)
    return red, green, blue
