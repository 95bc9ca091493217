"""``python -m ai_engine.preparation.measure registration|extraction|native``: the figures of the documentation.

``registration|extraction --data FOLDER [--out FOLDER]``, ``native --head FLAIR.nii.gz --out FOLDER``.

Registration: every case of *brats*, each sequence displaced by a known motion and cut into 5 mm slices, is laid on its
T1c; and registrations are made to fail on purpose.  Extraction: the two persons who are in *lgg-flair* with and in
*brats* without their skull; the brain of *brats* is carried over as truth (affine, because *lgg-flair* does not know
its spacing, which comes out of this too).  Native: any other head, for which there is no truth; its brain is cut to be
looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_engine.preparation.extraction import BrainQuality, extract_brain
from ai_engine.preparation.known import Head, acquired, known_motion, read_head, target_error_mm
from ai_engine.preparation.registration import Sequence, register
from ai_engine.preparation.rigid import Rigid
from ai_engine.preparation.score import MIN_SHARPNESS, Points, Quality, sharpness
from ai_engine.preparation.truth import brain_in_head

JUDGED = (
    ("TCGA_DU_A5TR_19970726", "Brats18_TCIA10_628_1"),
    ("TCGA_DU_A5TW_19980228", "Brats18_TCIA10_639_1"),
)
SEQUENCES = ("flair", "t2", "t1")
SEED = 11


@dataclass(frozen=True)
class Row:
    """One registration: what was done, the error where there is a truth, processor seconds, and the score."""

    case: str
    what: str
    median_mm: float | None
    worst_mm: float | None
    seconds: float
    quality: Quality

    def line(self) -> str:
        """One line of the table."""
        error = "   -      - " if self.median_mm is None else f"{self.median_mm:6.2f} {self.worst_mm:6.2f}"
        verdict = "accepted" if self.quality.is_good else "refused"
        return f"{self.case:22s} {self.what:28s} {error} {self.seconds:5.1f} s  {verdict:8s} {self.quality.words()}"


def registrations(
    brats: Path, cases: tuple[str, ...], sequences: tuple[str, ...] = SEQUENCES, *, with_failures: bool = True
) -> Iterator[Row]:
    """Good registrations of every case, and for each case's first sequence those made to fail.

    Made to fail: the right answer displaced by 3 to 25 mm, as if the search had stopped there; the sequence of
    another person; the sequence mirrored; the sequence upside down.
    """
    random = np.random.default_rng(SEED)
    everyone = sorted(folder.name for folder in brats.iterdir() if folder.is_dir())
    for case in cases:
        t1c = _head(brats, case, "t1ce")
        reference = Sequence.of(t1c.array, t1c.affine)
        targets = t1c.affine.to_patient(np.argwhere(t1c.array > 0)[::997])
        for number, name in enumerate(sequences):
            true = known_motion(random, targets.mean(axis=0), share=1.0 if number == 0 else None)
            moving = acquired(_head(brats, case, name), true)
            sequence = Sequence.of(moving.array, moving.affine)
            started = time.process_time()
            found = register(reference, sequence)
            taken = time.process_time() - started
            yield Row(case, name, *target_error_mm(found.motion, true, targets), taken, found.quality)
            if with_failures and number == 0:
                other = everyone[(everyone.index(case) + 3) % len(everyone)]
                yield from _displaced(case, reference, sequence, found.motion, true, targets, random)
                yield from _wrong(case, reference, sequence, acquired(_head(brats, other, name), true))


def _head(brats: Path, case: str, sequence: str) -> Head:
    return read_head(brats / case / f"{case}_{sequence}.nii.bz2")


def _displaced(
    case: str,
    reference: Sequence,
    moving: Sequence,
    motion: Rigid,
    true: Rigid,
    targets: npt.NDArray[np.float64],
    random: np.random.Generator,
) -> Iterator[Row]:
    from ai_engine.preparation.registration import blurred_as

    points = Points.of(moving.array, moving.affine, moving.head)
    for size in (3.0, 6.0, 12.0, 25.0):
        axis, way = (vector / np.linalg.norm(vector) for vector in random.normal(size=(2, 3)))
        wrong = motion.after(Rigid.about(reference.middle_mm, axis * size / 2, way * size * 0.7))
        peak, view = sharpness(points, blurred_as(reference, moving), reference.affine, wrong.inverse())
        error = target_error_mm(wrong, true, targets)
        yield Row(case, f"stopped {size:.0f} mm away", *error, 0.0, Quality(peak, 0.0, view))


def _wrong(case: str, reference: Sequence, moving: Sequence, stranger: Head) -> Iterator[Row]:
    heads = (
        ("another person", Head(stranger.array, stranger.affine)),
        ("mirrored", Head(np.ascontiguousarray(moving.array[:, :, ::-1]), moving.affine)),
        ("upside down", Head(np.ascontiguousarray(moving.array[::-1]), moving.affine)),
    )
    for what, head in heads:
        started = time.process_time()
        found = register(reference, Sequence.of(head.array, head.affine))
        yield Row(case, what, None, None, time.process_time() - started, found.quality)


@dataclass(frozen=True)
class ExtractionRow:
    """One brain: agreement with the truth, processor seconds, and the score."""

    case: str
    dice: float
    volume_ratio: float
    spacing_mm: tuple[float, float, float]
    seconds: float
    quality: BrainQuality


def extractions(data: Path) -> Iterator[tuple[ExtractionRow, Head, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """The two judged persons: the row, the head, the mask found and the true one."""
    for native, stripped in JUDGED:
        path = data / "brain" / "lgg-flair" / f"{native}_flair.nii.bz2"
        brain = _head(data / "brain" / "brats", stripped, "flair")
        head, truth = brain_in_head(read_head(path, (5.0, 0.95, 0.95)), brain)
        started = time.process_time()
        found = extract_brain(head.array, head.affine)
        taken = time.process_time() - started
        both = np.count_nonzero(found.mask & truth)
        dice = 2 * both / (np.count_nonzero(found.mask) + np.count_nonzero(truth))
        ratio = np.count_nonzero(found.mask) / np.count_nonzero(truth)
        row = ExtractionRow(native, float(dice), float(ratio), head.affine.spacing_mm, taken, found.quality)
        yield row, head, found.mask, truth


def main() -> None:
    """Read the command line, print the table and write it as JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m ai_engine.preparation.measure")
    parser.add_argument("what", choices=("registration", "extraction", "native"))
    parser.add_argument("--data", type=Path, help="folder that holds brain/brats and brain/lgg-flair")
    parser.add_argument("--head", type=Path, help="native: FLAIR of a head with its skull, NIfTI")
    parser.add_argument("--cases", type=int, default=None, help="registration: the first so many cases only")
    parser.add_argument("--sequences", default=",".join(SEQUENCES), help="registration: which are laid on the T1c")
    parser.add_argument("--out", type=Path, help="folder for table.json and pictures")
    given = parser.parse_args()
    if (given.head if given.what == "native" else given.data) is None:
        parser.error("native needs --head, the others need --data")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "native":
        told = _native(read_head(given.head), given.out)
    elif given.what == "registration":
        told = _registration(given.data, given.cases, tuple(given.sequences.split(",")), given.out)
    else:
        told = _extraction(given.data, given.out)
    if given.out is not None:
        (given.out / f"{given.what}.json").write_text(json.dumps(told, indent=1) + "\n")


def _registration(data: Path, count: int | None, sequences: tuple[str, ...], out: Path | None) -> list[object]:
    brats = data / "brain" / "brats"
    cases = sorted(folder.name for folder in brats.iterdir() if folder.is_dir())
    rows = []
    for row in registrations(brats, tuple(cases[:count]), sequences):
        _say(row.line())
        rows.append(row)
    good = [row for row in rows if row.what in SEQUENCES]
    bad = [row for row in rows if row.what not in SEQUENCES]
    medians = np.array([row.median_mm for row in good])
    worst = np.array([row.worst_mm for row in good])
    _say(
        f"{len(good)} known motions: median target error {np.median(medians):.2f} mm, largest of the medians "
        f"{medians.max():.2f} mm, worst target {worst.max():.2f} mm, "
        f"slowest {max(row.seconds for row in good):.1f} processor seconds"
    )
    _say(
        f"accepted {sum(row.quality.is_good for row in good)} of {len(good)} good; "
        f"refused {sum(not row.quality.is_good for row in bad)} of {len(bad)} made to fail; sharpness of the good from "
        f"{min(row.quality.sharpness for row in good):.3f}, of the failed up to "
        f"{max(row.quality.sharpness for row in bad):.3f}"
    )
    groups: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: row.what not in SEQUENCES):
        groups.setdefault(f"known motion, {row.what}" if row.what in SEQUENCES else row.what, []).append(
            row.quality.sharpness
        )
    for what, scores in groups.items():
        accepted = sum(row.quality.is_good for row in rows if row.what == what.removeprefix("known motion, "))
        _say(f"{what:24s} sharpness {min(scores):6.3f} to {max(scores):6.3f}, accepted {accepted} of {len(scores)}")
    if out is not None:
        from ai_engine.preparation.pictures import separation

        label = f"sharpness (accepted from {MIN_SHARPNESS:g})"
        separation(groups, MIN_SHARPNESS, label, out / "registration.png")
    return [asdict(row) for row in rows]


def _extraction(data: Path, out: Path | None) -> list[object]:
    rows = []
    for row, head, mask, truth in extractions(data):
        verdict = "accepted" if row.quality.is_good else "refused"
        _say(
            f"{row.case}  Dice {row.dice:.3f}  volume {row.volume_ratio:.2f} of the truth  {row.seconds:.1f} s  "
            f"{verdict}: {row.quality.words()}"
        )
        rows.append(row)
        if out is not None:
            from ai_engine.preparation.pictures import three_planes

            three_planes(head.array, head.affine, (mask, truth), out / f"{row.case}.png")
    return [asdict(row) for row in rows]


def _native(head: Head, out: Path | None) -> list[object]:
    started = time.process_time()
    found = extract_brain(head.array, head.affine)
    taken = time.process_time() - started
    _say(f"{'accepted' if found.quality.is_good else 'refused'} in {taken:.1f} s: {found.quality.words()}")
    if out is not None:
        from ai_engine.preparation.pictures import three_planes

        three_planes(head.array, head.affine, (found.mask,), out / "native.png", margin_mm=10.0)
    return [asdict(found.quality)]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
