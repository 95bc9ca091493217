"""What every command shares: the configuration, exit codes, JSON on standard output, words on standard error."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Column

from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.sealing import at_rest
from dicom_node.sealing.master_keys import AtRestRefused
from dicom_node.settings import Settings, SettingsRefused, load_settings

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Exit(IntEnum):
    """Exit codes of every command (design section 7)."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    CONFIGURATION = 5


class _Chosen:
    config: Path | None = None


def choose_config(path: Path | None) -> None:
    """Remember ``--config`` for the command that follows."""
    _Chosen.config = path


def chosen_config() -> Path | None:
    """The file given with ``--config``."""
    return _Chosen.config


def settings() -> Settings:
    """The settings in force, or exit 5 with the key that is wrong; from here on stored files are read by their keys."""
    try:
        chosen = load_settings(_Chosen.config)
        at_rest.use(chosen.data.key_file, seals=chosen.data.encrypt)
    except SettingsRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))
    except AtRestRefused as refused_keys:
        stop(Exit.CONFIGURATION, f"data.key_file: {refused_keys}")
    return chosen


def stop(code: Exit, message: str) -> NoReturn:
    """Say why on standard error and leave."""
    err.print(message, markup=False, soft_wrap=True)
    raise typer.Exit(int(code))


def emit(value: Any) -> None:
    """One JSON value on one line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n")
    sys.stdout.flush()


def whole(name: str) -> Column:
    """A column whose words are never cut: what stands in it is typed into the next command."""
    return Column(name, no_wrap=True, overflow="fold")


def spacing_of(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        stop(Exit.USAGE, f"--spacing-mm: expected X,Y,Z, three numbers in millimetres; found {text!r}")
    if not all(0.05 <= value <= 20 for value in (x, y, z)):
        stop(Exit.USAGE, f"--spacing-mm: expected spacings between 0.05 and 20 mm; found {text!r}")
    return x, y, z


def words_of(refused: Refused) -> str:
    """A refusal as a person reads it: what, expected, found, what to do."""
    told = refused.refusal
    details = "".join(f"\n  {k}: {v}" for k, v in (("expected", told.expected), ("found", told.found)) if v)
    return f"refused ({told.code.value}): {told.message}{details}\n  what to do: {told.advice}"


def make_folder(path: Path) -> None:
    """Make the folder for results now: whether it can be written is not found out after the work."""
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextmanager
def answering(*, as_json: bool) -> Iterator[None]:
    """Turn the three kinds of trouble into exit codes."""
    try:
        yield
    except Refused as refused:
        if as_json:
            emit({"refusal": refused.refusal.to_json()})
        stop(Exit.REFUSED, words_of(refused))
    except PeerTrouble as trouble:
        stop(Exit.UNREACHABLE, f"{trouble}")
    except SettingsRefused as refused_settings:
        stop(Exit.CONFIGURATION, str(refused_settings))


Command = Callable[..., None]
JSON_OPTION = typer.Option(False, "--json", help="One JSON value on standard output, for machines.")
