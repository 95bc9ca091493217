"""What one input may cost.  Every bound of this room stands here; each refuses by name when passed (invariant I7)."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds on bytes, counts, depth, time and memory.

    The element and item counts hold for everything outside the Per-frame Functional Groups Sequence; inside it an
    enhanced object may have `max_frame_elements` elements and as many items, because it has them for each frame.
    """

    max_file_bytes: int = 4 * GIBIBYTE
    max_header_bytes: int = 16 * MEBIBYTE
    """All elements but pixel data and other bulk values."""
    max_elements: int = 20_000
    max_items: int = 50_000
    max_frame_elements: int = 400_000
    max_depth: int = 32
    scan_s: float = 10.0
    max_files: int = 20_000
    """Files of one series."""
    max_frames: int = 20_000
    max_decoded_bytes: int = 2 * GIBIBYTE
    """Stored pixel values of one series, as its headers claim them."""
    max_frame_bytes: int = 256 * MEBIBYTE
    """Stored pixel values of one frame."""
    max_picture_pixels: int = 50_000_000
    """Of one photograph."""
    max_icc_bytes: int = 4 * MEBIBYTE
    """Of its colour profile."""
    child_memory_bytes: int = 3 * GIBIBYTE
    """Address space of the decoding child, libraries included."""
    child_cpu_s: int = 120
    child_wall_s: float = 180.0
    min_slices: int = 2
    """Below this no spacing can be read from positions."""
    max_nifti_bytes: int = 2 * GIBIBYTE
    """Uncompressed."""
    max_archive_bytes: int = 4_000_000_000
    """Of all files of one archive, counted while they are unpacked."""
