"""How a command ends that could not be done: by a code and plain words, whatever was raised; never with a traceback.

Commands say by themselves what they refuse.  What still comes up to here is told by its kind: our own refusals in their
words, a file or the disk by its name and what the system says of it, the database likewise, and anything else as a
fault of ours with its type and place, for the text of an exception may quote a patient (I4).
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

import structlog
from sqlalchemy.exc import DBAPIError

from ai_engine.faults import EngineFault, WrongInput
from dicom_node.cli.common import Exit, err, words_of
from dicom_node.refusals import PeerTrouble, Refused

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DATABASE: dict[str, tuple[Exit, str]] = {
    "SQLITE_FULL": (Exit.FAULT, "the disk is full: free space (docs/runbook.md), then try again"),
    "SQLITE_BUSY": (Exit.FAULT, "it is busy: another program holds it; try again, and look who has it open"),
    "SQLITE_READONLY": (Exit.CONFIGURATION, "it cannot be written: run this as the user who runs the node"),
    "SQLITE_CANTOPEN": (Exit.CONFIGURATION, "it cannot be opened: run this as the user who runs the node"),
    "SQLITE_NOTADB": (
        Exit.CONFIGURATION,
        "expected a SQLite database, found another file: bring it back from a back-up",
    ),
    "SQLITE_CORRUPT": (Exit.CONFIGURATION, "it is damaged: keep it, and bring the last back-up back (docs/runbook.md)"),
}
"""What SQLite says, by the beginning of its error's name, and what to do."""


def end(fault: Exception) -> int:
    """Say on standard error why the command ends; its exit code."""
    code, words = told(fault)
    if not words and structlog.is_configured():
        structlog.get_logger().critical("process.fault", exc_info=fault)  # a process of the node: into its log, too
    err.print(words or _place_of(fault), markup=False, soft_wrap=True)
    return int(code)


def told(fault: Exception) -> tuple[Exit, str]:
    """Exit code and words of what was raised; no words for what nobody has thought of."""
    if isinstance(fault, Refused):
        return Exit.REFUSED, words_of(fault)
    if isinstance(fault, EngineFault):  # its text may hold paths and values; its code says what it was
        return Exit.FAULT, f"the model does not run ({fault.code})"
    for code, kinds in _ours():
        if isinstance(fault, kinds):
            return code, str(fault)
    if isinstance(fault, OSError):
        return _of_system(fault)
    return _of_database(fault) if isinstance(fault, DBAPIError) else (Exit.FAULT, "")


def _ours() -> tuple[tuple[Exit, tuple[type[Exception], ...]], ...]:
    """Our own refusals whose words are made to be shown; asked for when there is one, for looking takes imports."""
    from dicom_node.auditing import AuditKeysRefused, HeadsUnreadable
    from dicom_node.durable import AlreadyRunning
    from dicom_node.listen import AlreadyListening
    from dicom_node.record import DatabaseRefused
    from dicom_node.record.acts import UnknownItem
    from dicom_node.routing import RoutesRefused
    from dicom_node.sealing.master_keys import AtRestRefused, SealBroken
    from dicom_node.settings import SettingsRefused
    from dicom_node.tls import TlsRefused

    return (
        (Exit.USAGE, (WrongInput, HeadsUnreadable)),
        (Exit.REFUSED, (UnknownItem,)),
        (Exit.UNREACHABLE, (PeerTrouble,)),
        (
            Exit.CONFIGURATION,
            (
                AlreadyListening,
                AlreadyRunning,
                AtRestRefused,
                AuditKeysRefused,
                DatabaseRefused,
                RoutesRefused,
                SealBroken,
                SettingsRefused,
                TlsRefused,
            ),
        ),
    )


def _of_system(fault: OSError) -> tuple[Exit, str]:
    where = str(fault.filename or "")
    said = fault.strerror or type(fault).__name__
    if fault.errno in _FULL:
        return Exit.FAULT, f"{where or 'the disk'}: {said}: free space (docs/runbook.md), then try again"
    if not where:
        return Exit.FAULT, ""
    wanted = "give it to the user who runs this command, or run it as its owner"
    return Exit.USAGE, f"{where}: {said}" + (f": {wanted}" if isinstance(fault, PermissionError) else "")


def _of_database(fault: DBAPIError) -> tuple[Exit, str]:
    name = str(getattr(fault.orig, "sqlite_errorname", ""))
    known = next((told for start, told in _DATABASE.items() if name.startswith(start)), None)
    if known is not None:
        return known[0], f"the records: {known[1]}"
    return Exit.FAULT, ""


def _place_of(fault: Exception) -> str:
    frames = traceback.extract_tb(fault.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return (
        f"a fault of ours: {type(fault).__name__}{where}. Nothing more is said, for its text may quote a patient. "
        "Please report this line, with the name of the command and the version of the node."
    )
