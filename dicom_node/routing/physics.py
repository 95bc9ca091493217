"""What the acquisition itself says about the weighting: echo, repetition and inversion times, flip angle, sequence.

The bounds are those of brain imaging at 1 to 3 tesla (Bernstein, King, Zhou: Handbook of MRI Pulse Sequences, chapters
14 to 17); a series outside all of them gets no evidence rather than a guess.  Times are milliseconds (PS3.3 C.8.3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.routing.clauses import number_of, values_of
from dicom_node.words import SeriesFacts

FLAIR_MIN_REPETITION_MS = 4000.0
"""FLAIR needs at least this; a T2 with a longer one may be FLAIR whose header leaves the inversion time out."""
INVERSION_LIKELY_MS = 7000.0
"""T2-weighted imaging without inversion hardly ever waits so long."""


@dataclass(frozen=True)
class Evidence:
    """One sign for one role: its strength (0 to 1) and the reason in words."""

    role: str
    strength: float
    reason: str


@dataclass(frozen=True)
class Acquisition:
    """The numbers that decide the weighting; None where the header is silent."""

    sequence: frozenset[str]
    echo_ms: float | None
    repetition_ms: float | None
    inversion_ms: float | None
    flip_deg: float | None
    is_3d: bool | None
    is_fat_suppressed: bool
    b_values: tuple[float, ...]


def acquisition(series: SeriesFacts) -> Acquisition:
    """Read the numbers from a series' facts; zero times count as absent."""
    a = series.attributes
    kind = str(a.get("MRAcquisitionType", "")).strip().upper()
    options = {str(v).strip().upper() for v in values_of(a.get("ScanOptions"))}
    b_values = values_of(a.get("DiffusionBValues")) or values_of(a.get("DiffusionBValue"))
    return Acquisition(
        sequence=frozenset(str(v).strip().upper() for v in values_of(a.get("ScanningSequence"))),
        echo_ms=_positive(a.get("EchoTime")),
        repetition_ms=_positive(a.get("RepetitionTime")),
        inversion_ms=_positive(a.get("InversionTime")),
        flip_deg=_positive(a.get("FlipAngle")),
        is_3d={"3D": True, "2D": False}.get(kind),
        is_fat_suppressed=bool(options & {"FS", "SFS", "FSS"}),
        b_values=tuple(n for v in b_values if (n := number_of(v)) is not None),
    )


def weighting(series: SeriesFacts) -> tuple[Evidence, ...]:
    """Evidence for the roles that this acquisition can have; empty when its numbers say nothing."""
    q = acquisition(series)
    if any(b > 10 for b in q.b_values):
        return (Evidence("dwi", 0.9, f"diffusion weighting with b = {max(q.b_values):g} s/mm2"),)
    if "EP" in q.sequence and "IR" not in q.sequence:
        if "GR" in q.sequence:
            return (Evidence("other", 0.6, "gradient-echo echo-planar sequence (perfusion or function)"),)
        return (Evidence("dwi", 0.5, "echo-planar sequence"),)
    if q.echo_ms is None or q.repetition_ms is None:
        return ()
    if q.inversion_ms is not None:
        found = _inversion(q, q.echo_ms, q.repetition_ms, q.inversion_ms)
        if found is not None:
            return (found,)
    if "GR" in q.sequence:
        return _gradient_echo(q, q.echo_ms, q.repetition_ms)
    return _spin_echo(q, q.echo_ms, q.repetition_ms)


def may_be_flair(series: SeriesFacts) -> bool:
    """Whether a T2-weighted acquisition may be FLAIR although its header gives no inversion time (older scanners)."""
    q = acquisition(series)
    return q.inversion_ms is None and (q.repetition_ms or 0.0) >= FLAIR_MIN_REPETITION_MS


def _inversion(q: Acquisition, echo: float, repetition: float, inversion: float) -> Evidence | None:
    said = f"TE {echo:g}, TR {repetition:g}, TI {inversion:g} ms"
    if 1400 <= inversion <= 3300 and repetition >= 3500 and echo >= 60:
        return Evidence("flair", 0.95, f"{said}: fluid is nulled in a T2-weighted image (FLAIR)")
    if inversion < 350 and repetition >= 1500:
        return Evidence("other", 0.8, f"{said}: fat is nulled (STIR)")
    if 350 <= inversion <= 1400 and echo <= 40 and repetition <= 4000:
        is_gradient = "GR" in q.sequence or echo < 7
        shape = ": inversion-prepared gradient echo" if is_gradient else ": T1-weighted inversion recovery"
        return Evidence("t1", 0.92, f"{said}{shape}")
    return None


def _gradient_echo(q: Acquisition, echo: float, repetition: float) -> tuple[Evidence, ...]:
    flip = q.flip_deg
    said = f"gradient echo, TE {echo:g}, TR {repetition:g} ms" + (f", flip {flip:g} degrees" if flip else "")
    if echo >= 14:
        role = "swi" if q.is_3d and repetition <= 80 else "t2star"
        return (Evidence(role, 0.6, f"{said}: T2*-weighted"),)
    if echo <= 12 and flip is not None and ((repetition <= 80 and flip >= 8) or (repetition <= 600 and flip >= 45)):
        return (Evidence("t1", 0.75, f"{said}: T1-weighted"),)
    if echo <= 6 and repetition > 600 and flip is not None and flip <= 20:
        return (Evidence("t1", 0.6, f"{said}: magnetisation-prepared, inversion time not given"),)
    return ()


def _spin_echo(q: Acquisition, echo: float, repetition: float) -> tuple[Evidence, ...]:
    said = f"TE {echo:g}, TR {repetition:g} ms"
    sure = 1.0 if "SE" in q.sequence else 0.75
    if echo <= 40 and repetition <= 1300:
        return (Evidence("t1", 0.9 * sure, f"{said}: short and short, T1-weighted"),)
    if echo >= 70 and repetition >= 1800:
        if "IR" in q.sequence:
            return (Evidence("flair", 0.6, f"{said}, inversion recovery without a given inversion time"),)
        if repetition >= INVERSION_LIKELY_MS:
            return (
                Evidence(
                    "t2", 0.6 * sure, f"{said}: long and very long, T2-weighted or FLAIR without its inversion time"
                ),
                Evidence("flair", 0.45 * sure, "no inversion time is given"),
            )
        return (Evidence("t2", 0.9 * sure, f"{said}: long and long, T2-weighted"),)
    if echo <= 45 and repetition >= 1800:
        return (Evidence("pd", 0.8 * sure, f"{said}: short and long, proton density"),)
    if 45 < echo < 70 and repetition >= 1800:
        return (
            Evidence("t2", 0.5 * sure, f"{said}: between proton density and T2"),
            Evidence("pd", 0.4 * sure, f"{said}: between proton density and T2"),
        )
    return ()


def _positive(value: object) -> float | None:
    values = values_of(value)
    number = number_of(values[0]) if values else None
    return number if number is not None and number > 0 else None
