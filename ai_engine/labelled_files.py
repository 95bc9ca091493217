"""What people bring to train and measure with, tables of cases and NIfTI files: opened, or refused in plain words."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import nibabel
from nibabel.filebasedimages import ImageFileError

from ai_engine.faults import WrongInput


def read_rows(table: Path, needed: Collection[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that has at least these columns.

    Raises
    ------
    WrongInput
        If there is no such file, it is no table in UTF-8, or a column is missing.
    """
    if not table.is_file():
        raise WrongInput(f"expected a table {table.name!r} in the folder {table.parent.name!r}")
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, rows = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error):
        raise WrongInput(f"{table.name}: expected a table of comma-separated values in UTF-8") from None
    if not set(needed) <= set(columns):
        found = ", ".join(columns)[:200] or "none"
        raise WrongInput(f"{table.name}: expected the columns {', '.join(needed)}; found {found}")
    return rows


def open_nifti(path: Path) -> Any:
    """A NIfTI image; its array is not read yet.

    Raises
    ------
    WrongInput
        If the file is missing or is no NIfTI file.
    """
    if not path.is_file():
        raise WrongInput(f"expected a NIfTI file {path.name!r}, found none")
    try:
        return nibabel.load(path)
    except (ImageFileError, ValueError, EOFError, zlib.error, gzip.BadGzipFile):
        raise WrongInput(f"{path.name}: expected a NIfTI file, found something else") from None
