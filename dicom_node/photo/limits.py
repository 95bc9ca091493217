"""What one photograph may cost.  Every bound of this room stands here; each refuses by name when passed (I7)."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class PhotoLimits:
    """Bounds on bytes, pixels, time and memory."""

    max_bytes: int = 100 * MEBIBYTE
    """Of the file as it came."""
    max_pixels: int = 50_000_000
    min_side: int = 200
    max_side: int = 10_000
    max_parts: int = 20_000
    """Segments of a JPEG, chunks of a PNG or WebP."""
    max_profile_bytes: int = 4 * MEBIBYTE
    child_memory_bytes: int = 2048 * MEBIBYTE
    """Address space of the decoding child, libraries included."""
    child_cpu_s: int = 60
    child_wall_s: float = 90.0
