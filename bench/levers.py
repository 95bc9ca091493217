"""The levers of the shipped packages: cost and Dice of every way of running them, from their own gate reports.

    python -m bench.levers [--models FOLDER] [NAME ...]
    python -m bench.levers --write docs/explanation/levers.md

Nothing is measured here: ``ai-node models gate`` did that, and its report lives in each package.  `--write` puts the
tables between the marks of a page (``<!-- levers NAME -->`` ... ``<!-- end -->``), so that the page says what the
packages say.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ai_engine.packages import Description, find_package, load_package
from ai_engine.packages.accuracy import about, as_table, report_of

MARK = re.compile(r"<!-- levers (?P<name>[a-z0-9-]+) -->\n.*?<!-- end -->", re.DOTALL)


def segmentations(models: Path) -> list[str]:
    """The packages that answer with a mask; classifiers have no windows, and nothing to choose here."""
    names = sorted(folder.name for folder in models.iterdir() if folder.is_dir())
    return [
        name
        for name in names
        if isinstance(load_package(find_package(models, name), weights=False).description, Description)
    ]


def section(models: Path, name: str) -> str:
    """One package's table and what it was measured on."""
    package = load_package(find_package(models, name), weights=False)
    report = report_of(package)
    if report is None:
        return f"{package.reference} has no gate report.\n"
    return f"{package.reference}. {about(report)}\n\n{as_table(report)}"


def written(page: str, models: Path) -> str:
    """The page with the tables of today's packages between its marks."""

    def put(found: re.Match[str]) -> str:
        return f"<!-- levers {found['name']} -->\n{section(models, found['name'])}<!-- end -->"

    return MARK.sub(put, page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="packages; all that have a report by default")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the marks of this page")
    options = parser.parse_args(arguments)
    if options.write is not None:
        text = options.write.read_text(encoding="utf-8")
        options.write.write_text(written(text, options.models), encoding="utf-8")
        return
    for name in options.names or segmentations(options.models):
        print(f"## {name}\n\n{section(options.models, name)}")


if __name__ == "__main__":
    main()
