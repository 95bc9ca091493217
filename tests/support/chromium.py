"""OHIF in headless Chromium: open a study, show its segmentation, ask the viewer what it holds."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""No flags for graphics: WebGL2 comes from SwiftShader by itself.  The others keep the browser off the network."""
PATIENCE_MS = 90_000

_IS_DRAWN = """() => window.cornerstone && window.cornerstone.getRenderingEngines().some(
  engine => engine.getViewports().some(view => view.getCurrentImageId && view.getCurrentImageId()))"""
_COUNTS = """() => {
  const counts = {};
  for (const segmentation of window.services.segmentationService.getSegmentations())
    for (const id of segmentation.representationData.Labelmap.imageIds) {
      const image = window.cornerstone.cache.getImage(id);
      if (!image) continue;
      const values = image.voxelManager ? image.voxelManager.getScalarData() : image.getPixelData();
      for (const value of values) if (value) counts[value] = (counts[value] || 0) + 1;
    }
  return counts; }"""
_SEGMENTS = """() => window.services.segmentationService.getSegmentations().flatMap(
  s => Object.values(s.segments).map(x => [x.segmentIndex, x.label]))"""
_SHOWN = """() => window.cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports().map(
  view => view.getCurrentImageId ? view.getCurrentImageId() || '' : ''))"""
_SETS = """() => window.services.displaySetService.getActiveDisplaySets().map(
  set => [set.Modality, set.SeriesDescription, set.displaySetInstanceUID])"""
_INDEX = """() => Math.max(...window.cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports().map(
  view => view.getCurrentImageIdIndex ? view.getCurrentImageIdIndex() : -1)))"""

_CANVAS = "() => document.querySelector('canvas.cornerstone-canvas').toDataURL('image/png')"


@dataclass
class Viewer:
    """One page of OHIF."""

    page: Page
    troubles: list[str] = field(default_factory=list)
    """Errors of the page and failed requests, in order."""

    def open(self, url: str) -> None:
        """Go to a study and wait until an image is drawn."""
        self.page.goto(url)
        self.page.wait_for_function(_IS_DRAWN, timeout=PATIENCE_MS)

    def open_list(self, url: str, count: int) -> None:
        """Go to a study of which nothing may be drawn, and wait until so many series are listed."""
        self.page.goto(url)
        listed = f"() => window.services && ({_SETS})().length >= {count}"
        self.page.wait_for_function(listed, timeout=PATIENCE_MS)

    def display_sets(self) -> list[list[str]]:
        """(modality, series description, id) of everything the viewer lists, in its order."""
        return list(self.page.evaluate(_SETS))

    def shown_images(self) -> list[str]:
        """Image ids in the panes; a pane with something else is absent."""
        return [image for image in self.page.evaluate(_SHOWN) if image]

    def has_pdf_pane(self) -> bool:
        """Whether a document is in a pane."""
        return bool(self.page.locator("object[type='application/pdf'], embed, iframe").count())

    def show_segmentation(self, label: str) -> None:
        """Load the SEG with this series description over its images, as a double click does."""
        self.page.get_by_text(label).first.dblclick()
        self.page.wait_for_function(
            "window.services.segmentationService.getSegmentations().length > 0", timeout=PATIENCE_MS
        )

    def show(self, description: str, instance_uid: str) -> None:
        """Load the series with this description, as a double click does, and wait until the instance is shown."""
        self.page.get_by_text(description).first.dblclick()
        self.page.wait_for_function(
            f"() => ({_SHOWN})().some(id => id.includes('{instance_uid}'))", timeout=PATIENCE_MS
        )

    def drawn(self, is_there: Callable[[npt.NDArray[np.uint8]], bool]) -> npt.NDArray[np.uint8]:
        """(rows, columns, 3) uint8: the first pane's pixels without its annotations, once `is_there` says so of them.

        The last ones, when it never does: the caller's assertion then shows what there was.
        """
        for _ in range(40):
            encoded = str(self.page.evaluate(_CANVAS)).partition(",")[2]
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
                pixels: npt.NDArray[np.uint8] = np.asarray(image.convert("RGB"))
            if is_there(pixels):
                break
            self.page.wait_for_timeout(500)
        return pixels

    def label_counts(self) -> dict[int, int]:
        """Segment number -> voxels, in the viewer's own label map."""
        return {int(label): int(count) for label, count in self.page.evaluate(_COUNTS).items()}

    def segments(self) -> list[tuple[int, str]]:
        """Segment number and label, as the viewer's panel names them."""
        return [(int(number), str(label)) for number, label in self.page.evaluate(_SEGMENTS)]

    def go_to_slice(self, index: int) -> int:
        """Go to the image with this index, from 0, by the arrow keys as a reader does; the index shown then."""
        self.page.locator("[data-cy='viewport-pane']").first.click()
        for _ in range(200):
            shown = int(self.page.evaluate(_INDEX))
            if shown == index:
                break
            self.page.keyboard.press("ArrowDown" if shown < index else "ArrowUp")
            self.page.wait_for_timeout(250)
        self.page.wait_for_timeout(1000)
        return int(self.page.evaluate(_INDEX))

    def open_segmentation_panel(self) -> None:
        """Show the list of segments with their names and colours."""
        self.page.locator("[data-cy='panelSegmentation-btn']").first.click()
        self.page.wait_for_timeout(1500)


@contextmanager
def viewer(width: int = 1280, height: int = 800) -> Iterator[Viewer]:
    """A fresh browser with nothing remembered; the first-run tour is switched off."""
    program = shutil.which("chromium")
    if program is None:
        raise RuntimeError("chromium is not installed: `make setup-test`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        try:
            context = browser.new_context(viewport={"width": width, "height": height})
            context.add_init_script("localStorage?.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
            page = context.new_page()
            seen = Viewer(page)
            _listen(page, seen.troubles)
            yield seen
        finally:
            browser.close()


def _listen(page: Page, troubles: list[str]) -> None:
    page.on("pageerror", lambda error: troubles.append(f"page: {error}"))

    def on_response(response: Any) -> None:
        if response.status >= 400:
            troubles.append(f"HTTP {response.status} {response.url[:200]}")

    page.on("response", on_response)
