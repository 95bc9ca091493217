"""Put together pictures that are no dermoscopy, from what lies on a developer's machine: nothing is downloaded.

``python -m ai_engine.quality.assemble --data DATA --out FOLDER`` writes ``FOLDER/<kind>/<source>-<number>`` as PNG or
JPEG and ``FOLDER/pictures.csv`` (file, kind, source, part).  Sources are whole origins: a scan, a sample picture, a
recipe of a drawing, a set of pages.  A source lies in one part only, ``fit`` or ``test``, so that the gate is judged on
origins that it was not fitted on; `ai_engine.quality.measure` leaves out whole kinds besides.

Half of the pictures are squeezed to 256 pixels and JPEG 75, which is what the dermoscopy pictures are: neither
sharpness nor compression may give a kind away.

Needs chromium and pdftoppm (poppler-utils) for documents and screens, dcmj2pnm (dcmtk) for DICOM; ``make setup-test``
installs them.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_engine.quality import drawn
from ai_engine.training.skin_cases import decoded, found_pictures, skin_cases

Pixels = npt.NDArray[np.uint8]

SEED = 8
REPOSITORY = Path(__file__).resolve().parents[2]

PARTS: dict[str, dict[str, str]] = {
    "magnetic-resonance": {"brats": "fit", "lgg": "test", "dicom": "test"},
    "documents": {"guides": "fit", "reference": "test", "scans": "test"},
    "screens": {"editor": "fit", "browser": "test"},
    "photographs": {
        **dict.fromkeys(("astronaut", "coffee", "rocket", "motorcycle_left", "china", "coins"), "fit"),
        **dict.fromkeys(("chelsea", "flower", "grace_hopper", "camera", "hubble_deep_field", "clock_motion"), "test"),
    },
    "microscopy-and-eye": {"ihc": "fit", "cell": "fit", "retina": "test", "microaneurysms": "test"},
    "bare-skin": {"train": "fit", "val": "test"},
    "textures": {
        **dict.fromkeys(("waves", "weave", "clouds", "flat", "brick"), "fit"),
        **dict.fromkeys(("grains", "cells", "fur", "grass", "gravel"), "test"),
    },
    "drawings": {"shapes": "fit", "chart": "fit", "scribble": "test", "face": "test", "icons": "test"},
    "plain-skin": {"train": "fit", "val": "test", "portrait": "test"},
}
"""Every source of every kind, and the part it belongs to."""


class MissingTool(RuntimeError):
    """A program or a package that a source needs is not installed."""


@dataclass(frozen=True)
class Ground:
    """What pictures are made from.

    Attributes
    ----------
    folder
        The data folder, with brain, dicom and dermoscopy.
    sources
        Only dermoscopy of these sources is cut up; empty: of all.
    """

    folder: Path
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture that is no dermoscopy.

    Attributes
    ----------
    pixels
        (rows, columns, 3) uint8.
    """

    kind: str
    source: str
    pixels: Pixels

    @property
    def part(self) -> str:
        return PARTS[self.kind][self.source]


def _random(*words: str) -> np.random.Generator:
    return np.random.default_rng([SEED, *(zlib.crc32(word.encode()) for word in words)])


def _as_rgb(array: npt.NDArray[np.uint8]) -> Pixels:
    array = np.asarray(array)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.ascontiguousarray(array[..., :3], dtype=np.uint8)


def _window(array: npt.NDArray[np.float32]) -> Pixels:
    low, high = np.percentile(array, (1, 99.7))
    return _as_rgb(np.asarray(np.clip((array - low) / max(float(high - low), 1e-6), 0, 1) * 255, np.uint8))


def magnetic_resonance(ground: Ground, count: int) -> Iterator[Sample]:
    """Slices of brains in three directions: BraTS cases, FLAIR of the LGG cases, DICOM of several vendors."""
    import nibabel

    brats = sorted((ground.folder / "brain" / "brats").glob("*/*.nii*"))
    lgg = sorted((ground.folder / "brain" / "lgg-flair").glob("*_flair.nii.bz2"))
    for source, files in (("brats", [f for f in brats if "seg" not in f.name]), ("lgg", lgg)):
        random = _random("mr", source)
        chosen = [files[int(i)] for i in random.choice(len(files), min(count // 3, len(files)), replace=False)]
        for number in range(count // 3):
            volume = nibabel.load(chosen[number % len(chosen)])
            axis = int(np.argmin(volume.shape)) if source == "lgg" else int(random.integers(3))
            place = int(volume.shape[axis] * random.uniform(0.3, 0.7))
            plane = np.take(np.asanyarray(volume.dataobj), place, axis=axis)
            yield Sample("magnetic-resonance", source, _window(np.rot90(np.asarray(plane, np.float32))))
    yield from _dicom(ground, count - 2 * (count // 3))


def _dicom(ground: Ground, count: int) -> Iterator[Sample]:
    """Every n-th object of two archives, read by dcmtk."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("vendors", "tumour-study-philips"):
            with tarfile.open(ground.folder / "dicom" / f"{name}.tar.xz") as archive:
                archive.extractall(folder, filter="data")
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        random, made = _random("mr", "dicom"), 0
        for index in random.permutation(len(files)):
            target = Path(folder) / "one.png"
            if made < count and _run("dcmj2pnm", "+on", "+Wm", str(files[int(index)]), str(target), check=False):
                made += 1
                yield Sample("magnetic-resonance", "dicom", _as_rgb(np.asarray(Image.open(target).convert("RGB"))))
                target.unlink()


def _run(tool: str, *arguments: str, check: bool = True) -> bool:
    path = shutil.which(tool)
    if path is None:
        raise MissingTool(f"{tool} is not installed; `make setup-test` brings it")
    done = subprocess.run([path, *arguments], capture_output=True, timeout=180, check=False)
    if check and done.returncode:
        raise MissingTool(f"{tool} ended with {done.returncode}")
    return done.returncode == 0


_PAPER = "body{font:14px serif;margin:0} pre,code{font:11px monospace} table,td,th{border:1px solid #888}"
_EDITOR = (
    "@page{size:900px 640px;margin:0} html{-webkit-print-color-adjust:exact}"
    "body{background:#1e1e2a;color:#d4d4c8;font:15px monospace;margin:0;padding:8px 8px 8px 180px;white-space:pre-wrap}"
)
_BROWSER = (
    "@page{size:1000px 700px;margin:0} html{-webkit-print-color-adjust:exact} body{font:15px sans-serif;margin:0;"
    "padding:20px 40px 20px 220px;background:#fff;border-left:180px solid #1c4e80} table{background:#eef4fa}"
    "h1,h2{color:#b03060} td,th{border:1px solid #bcd;padding:4px} code{background:#fde}"
)


def _pages(body: str, style: str, dots_per_inch: int) -> list[Pixels]:
    """Set a page of HTML by chromium, as PDF, and draw its pages by poppler."""
    with tempfile.TemporaryDirectory() as folder:
        page, pdf = Path(folder) / "page.html", Path(folder) / "page.pdf"
        page.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{body}", encoding="utf-8")
        _run("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
             f"--user-data-dir={folder}/profile", f"--print-to-pdf={pdf}", page.as_uri())  # fmt: skip
        _run("pdftoppm", "-r", str(dots_per_inch), "-png", str(pdf), f"{folder}/sheet")
        return [
            _as_rgb(np.asarray(Image.open(path).convert("RGB"))) for path in sorted(Path(folder).glob("sheet*.png"))
        ]


def _markdown(folders: Sequence[str]) -> str:
    from markdown_it import MarkdownIt

    texts = [p.read_text(encoding="utf-8") for f in folders for p in sorted((REPOSITORY / "docs").glob(f))]
    return "<hr>".join(MarkdownIt().enable("table").render(text) for text in texts)


def _code() -> str:
    import html

    files = sorted((REPOSITORY / "ai_engine").glob("*.py"))[:12]
    return html.escape("\n".join(path.read_text(encoding="utf-8") for path in files))


def photographed(random: np.random.Generator, pixels: Pixels, *, screen: bool) -> Pixels:
    """A page or a screen as a phone sees it: aslant, unevenly lit, tinted, noisy, a screen with its raster."""
    image = Image.fromarray(pixels)
    width, height = image.size
    lean = (random.random(8) - 0.3) * 0.12 * np.array([width, height] * 4)
    corners = (np.array([0, 0, 0, height, width, height, width, 0]) + lean * [1, 1, 1, -1, -1, -1, -1, 1]).tolist()
    slanted = np.asarray(
        image.transform((512, 400), Image.Transform.QUAD, corners, Image.Resampling.BICUBIC), np.float32
    )
    light = 0.65 + 0.5 * drawn.cloud(random, 400, 512, 0.3, 2)
    tint = np.array([1.0, random.uniform(0.85, 1.0), random.uniform(0.65, 1.0)], np.float32)
    if screen:
        y, x = np.mgrid[0:400, 0:512]
        light = light * (
            1 + 0.12 * np.sin(x * random.uniform(0.8, 1.4) + 0.2 * y) * np.sin(y * random.uniform(0.8, 1.4))
        )
    picture = slanted * light[..., None] * tint + random.normal(0, 4, slanted.shape)
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def documents(ground: Ground, count: int) -> Iterator[Sample]:
    """Printed pages of this repository, every second one photographed, and two scans of scikit-image."""
    for source, folders in (("guides", ("how-to/*.md", "explanation/*.md")), ("reference", ("reference/*.md",))):
        sheets = _pages(_markdown(folders), _PAPER, 60)
        yield from _handled("documents", source, sheets, count // 2 - 4)
    random = _random("documents", "scans")
    for name in ("page", "text"):
        for crop in _crops(random, library_picture(name), 4):
            yield Sample("documents", "scans", crop)


def screens(ground: Ground, count: int) -> Iterator[Sample]:
    """An editor with source code and a browser with pages; every second one photographed with its raster."""
    yield from _handled("screens", "editor", _pages(_code(), _EDITOR, 72), count // 2)
    pages = _pages(_markdown(("*.md", "decisions/*.md")), _BROWSER, 72)
    yield from _handled("screens", "browser", pages, count - count // 2)


def _handled(kind: str, source: str, sheets: list[Pixels], count: int) -> Iterator[Sample]:
    random = _random(kind, source)
    for number in range(count):
        sheet = sheets[int(random.integers(len(sheets)))]
        shown = photographed(random, sheet, screen=kind == "screens") if number % 2 else sheet
        yield Sample(kind, source, shown)


_SHIPPED = {"china": ("sklearn", "datasets/images"), "flower": ("sklearn", "datasets/images"),
            "grace_hopper": ("matplotlib", "mpl-data/sample_data")}  # fmt: skip


def library_picture(name: str) -> Pixels:
    """A sample picture that a library ships: scikit-image, scikit-learn or matplotlib."""
    library, folder = _SHIPPED.get(name, ("skimage", "data"))
    found = importlib.util.find_spec(library)
    files = sorted((Path(str(found.origin)).parent / folder).glob(f"{name}.*")) if found is not None else []
    if not files:
        raise MissingTool(f"{library} ships no picture {name} here")
    return _as_rgb(np.asarray(Image.open(files[0]).convert("RGB")))


def _crops(random: np.random.Generator, picture: Pixels, count: int) -> Iterator[Pixels]:
    """The whole picture once, then windows of a third to nine tenths of it."""
    rows, columns = picture.shape[:2]
    yield picture
    for _ in range(count - 1):
        share = random.uniform(0.33, 0.9)
        height, width = int(rows * share), int(columns * share)
        top, left = int(random.integers(rows - height + 1)), int(random.integers(columns - width + 1))
        yield picture[top : top + height, left : left + width]


def _from_libraries(kind: str, count: int, names: Sequence[str]) -> Iterator[Sample]:
    for number, name in enumerate(names):
        share = count // len(names) + (number < count % len(names))
        for crop in _crops(_random(kind, name), library_picture(name), share):
            yield Sample(kind, name, crop)


def photographs(ground: Ground, count: int) -> Iterator[Sample]:
    """Everyday photographs that libraries ship, and windows of them: a cat, a cup, a face, flowers, a rocket."""
    yield from _from_libraries("photographs", count, list(PARTS["photographs"]))


def microscopy_and_eye(ground: Ground, count: int) -> Iterator[Sample]:
    """Stained tissue, a cell, the back of an eye."""
    yield from _from_libraries("microscopy-and-eye", count, list(PARTS["microscopy-and-eye"]))


def textures(ground: Ground, count: int) -> Iterator[Sample]:
    """Drawn surfaces, and three photographed ones of scikit-image."""
    yield from _from_libraries("textures", 12, ("brick", "grass", "gravel"))
    for name, pixels in drawn.many(drawn.TEXTURES, count - 12, SEED):
        yield Sample("textures", name, pixels)


def drawings(ground: Ground, count: int) -> Iterator[Sample]:
    """Drawn shapes, charts, scribbles, faces, and emblems that libraries ship."""
    import matplotlib

    icons = sorted((Path(matplotlib.get_data_path()) / "images").glob("*_large.png"))
    for path in icons[: count // 6]:
        mark = Image.open(path).convert("RGBA").resize((320, 320), Image.Resampling.LANCZOS)
        paper = Image.new("RGBA", mark.size, (255, 255, 255, 255))
        yield Sample("drawings", "icons", _as_rgb(np.asarray(Image.alpha_composite(paper, mark).convert("RGB"))))
    for name, pixels in drawn.many(drawn.DRAWINGS, count - len(icons[: count // 6]), SEED + 1):
        yield Sample("drawings", name, pixels)


def dermoscopy(ground: Ground, split: str, random: np.random.Generator, count: int) -> list[Pixels]:
    """Pictures of one split, drawn without repetition, in the order they were drawn."""
    folder = ground.folder / "dermoscopy"
    cases = [
        case
        for case in skin_cases(folder / "labels.csv")
        if case.split == split and (not ground.sources or case.source in ground.sources)
    ]
    chosen = [cases[int(index)] for index in random.permutation(len(cases))[:count]]
    read = {name: decoded(content, name) for name, content in found_pictures(chosen, folder)}
    return [read[case.name] for case in chosen]


def bare_skin(ground: Ground, count: int) -> Iterator[Sample]:
    """Skin beside lesions: the most even corner or edge of a dermoscopy picture, enlarged."""
    for split in ("train", "val"):
        pictures = dermoscopy(ground, split, _random("bare-skin", split), 3 * count)
        patches = [patch for patch in map(_even_border, pictures) if patch is not None]
        for patch in patches[: count // 2]:
            yield Sample("bare-skin", split, patch)


def _even_border(picture: Pixels, side: int = 80) -> Pixels | None:
    """The border window with the least spread of smoothed colour; None where all hold lesion, ink or darkness."""
    rows, columns = picture.shape[:2]
    places = [(r, c) for r in (6, (rows - side) // 2, rows - side - 6) for c in (6, columns - side - 6)]
    best, spread = None, 7.0
    for row, column in places:
        patch = picture[row : row + side, column : column + side]
        small = np.asarray(Image.fromarray(patch).resize((8, 8), Image.Resampling.BOX), np.float32)
        own = float(small.reshape(-1, 3).std(axis=0).max())
        if own < spread and float(small.mean(axis=2).min()) > 90:
            best, spread = patch, own
    if best is None:
        return None
    return np.asarray(Image.fromarray(best).resize((256, 256), Image.Resampling.BICUBIC))


def plain_skin(ground: Ground, count: int) -> Iterator[Sample]:
    """Simulated photographs without a dermatoscope (`drawn.plain_photograph`), and windows of two portraits."""
    for split in ("train", "val"):
        random = _random("plain-skin", split)
        for lesion in dermoscopy(ground, split, random, (count - 8) // 2):
            yield Sample("plain-skin", split, drawn.plain_photograph(random, lesion))
    for name, (top, bottom, left, right) in (("grace_hopper", (60, 330, 140, 370)), ("astronaut", (20, 220, 140, 320))):
        face = library_picture(name)[top:bottom, left:right]
        for crop in _crops(_random("plain-skin", name), face, 4):
            yield Sample("plain-skin", "portrait", crop)


KINDS: dict[str, tuple[Callable[[Ground, int], Iterator[Sample]], int]] = {
    "magnetic-resonance": (magnetic_resonance, 75),
    "documents": (documents, 68),
    "screens": (screens, 60),
    "photographs": (photographs, 72),
    "microscopy-and-eye": (microscopy_and_eye, 32),
    "bare-skin": (bare_skin, 120),
    "textures": (textures, 96),
    "drawings": (drawings, 60),
    "plain-skin": (plain_skin, 108),
}
"""How each kind is made, and how many."""


def samples(kind: str, data: Path, count: int | None = None, sources: tuple[str, ...] = ()) -> Iterator[Sample]:
    """Pictures of one kind, always the same ones.

    Raises
    ------
    MissingTool
        If a program or a package that the kind needs is not installed.
    """
    maker, usual = KINDS[kind]
    yield from maker(Ground(data, sources), usual if count is None else count)


def as_sent(pixels: Pixels, *, squeezed: bool) -> tuple[bytes, str]:
    """Encode a picture: squeezed to 256 pixels and JPEG 75 as the dermoscopy is, or at most 768 pixels wide as PNG."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if squeezed:
        image.resize((256, 256), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=75)
        return buffer.getvalue(), "jpg"
    image.thumbnail((768, 768), Image.Resampling.LANCZOS)
    if min(image.size) < 256:
        factor = 256 / min(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    image.save(buffer, "PNG")
    return buffer.getvalue(), "png"


def assemble(ground: Ground, out: Path, say: Callable[[str], None], kinds: Sequence[str] = tuple(KINDS)) -> int:
    """Write all kinds below a folder, with ``pictures.csv``.

    Returns
    -------
    How many pictures were written.
    """
    table: list[tuple[str, str, str, str]] = []
    for kind in kinds:
        (out / kind).mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(samples(kind, ground.folder, sources=ground.sources)):
            content, ending = as_sent(sample.pixels, squeezed=number % 4 in (0, 3))
            name = f"{kind}/{sample.source}-{number:03d}.{ending}"
            (out / name).write_bytes(content)
            table.append((name, kind, sample.source, sample.part))
        say(f"{kind}: {sum(row[1] == kind for row in table)} pictures")
    with (out / "pictures.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "kind", "source", "part"))
        writer.writerows(table)
    return len(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ai_engine.quality.assemble", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the data folder, with brain, dicom and dermoscopy")
    parser.add_argument("--out", type=Path, required=True, help="where to write; outside the repository")
    parser.add_argument("--without", action="append", default=[], choices=sorted(KINDS), help="leave out a kind")
    parser.add_argument("--source", action="append", default=[], help="cut up dermoscopy of this source only")
    chosen = parser.parse_args(arguments)
    kinds = [kind for kind in KINDS if kind not in chosen.without]
    total = assemble(Ground(chosen.data, tuple(chosen.source)), chosen.out, _say, kinds)
    _say(f"{total} pictures in {chosen.out}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
