"""ai-node at-rest: keys of what is enciphered on the disk, and bringing stored files to what the settings say."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from dicom_node import files
from dicom_node.cli.common import JSON_OPTION, Exit, emit, err, out, settings, stop
from dicom_node.sealing import at_rest, reseal
from dicom_node.sealing.master_keys import AtRestRefused, Keys, SealBroken, new_key
from dicom_node.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Encryption of what is stored: keys, state, change.")


@app.command("init")
def init(key_file: Path = typer.Argument(..., help="Where the key file shall be; not in the data folder.")) -> None:
    """Make a key file. Keep a copy of it elsewhere: without it nothing that is enciphered can be read again.

    Example: ai-node at-rest init secrets/at-rest-keys
    """
    if key_file.exists():
        stop(Exit.CONFIGURATION, f"{key_file} is there already; `ai-node at-rest rotate` adds a key to it")
    files.write_durably(key_file, f"{new_key()}\n".encode())
    out.print(f"made {key_file}; keep a copy of it elsewhere, not beside the backup of the data", markup=False)
    out.print("then, in the settings: data.key_file, data.encrypt: true; then: ai-node at-rest apply")


@app.command("rotate")
def rotate() -> None:
    """Add a new key, which seals from now on; the old ones go on opening. The running node takes it up by itself.

    Example: ai-node at-rest rotate
    """
    chosen = settings()
    path, keys = _keys(chosen)
    before, old = keys.ids[0], path.read_bytes()
    files.write_durably(path, f"{new_key()}\n".encode() + old)
    fresh = Keys(path)
    reseal.note(chosen.data.folder, reseal.needed(chosen.data.folder) | set(fresh.ids[:1]))
    out.print(f"{fresh.ids[0]} seals now, {before} opens; keep a copy of {path} elsewhere", markup=False)
    out.print("so that the old key can go: ai-node at-rest apply")


@app.command("status")
def status(as_json: bool = JSON_OPTION) -> None:
    """Whether stored files are sealed, and by which keys; looks at each. Exit code 1 when one cannot be opened.

    Example: ai-node at-rest status
    """
    chosen = settings()
    ids = Keys(chosen.data.key_file).ids if chosen.data.key_file is not None else ()
    found = reseal.census(chosen.data.folder)
    lost = sorted(one for one in found if one and one not in ids)
    if as_json:
        emit(
            {
                "encrypt": chosen.data.encrypt,
                "keys": list(ids),
                "files": {one or "plain": count for one, count in sorted(found.items())},
                "without_key": lost,
            }
        )
    else:
        state = f"new files are sealed by {ids[0]}" if chosen.data.encrypt else "new files are not sealed"
        out.print(state)
        for one, count in sorted(found.items()):
            out.print(f"{count:8} files {'sealed by ' + one if one else 'not sealed'}")
    if lost:
        stop(Exit.FAULT, f"data.key_file does not hold {', '.join(lost)}: bring the key file back from its copy")


@app.command("apply")
def apply() -> None:
    """Bring every stored file to what the settings say: sealed by the first key, or not sealed. The node may run.

    Can be ended and begun again. Afterwards keys that seal nothing may be taken out of the key file.

    Example: ai-node at-rest apply
    """
    chosen = settings()
    _, keys = _keys(chosen)
    with Progress(SpinnerColumn(), TextColumn("{task.completed:.0f} files"), console=err) as progress:
        task = progress.add_task("", total=None)
        try:
            done = reseal.apply(chosen.data.folder, keys, on_file=lambda: progress.advance(task))
        except SealBroken as broken:
            stop(Exit.FAULT, f"{broken}; `ai-node at-rest status` says how many")
        except OSError as error:
            stop(Exit.FAULT, f"{error.filename or 'the disk'}: {error.strerror}")
    out.print(f"{done['changed']} changed, {done['kept']} were so already")
    idle = [one for one in keys.ids[1:] if one not in reseal.needed(chosen.data.folder)]
    if idle:
        out.print(f"seals nothing here any more, may go from the key file (backups may need it): {', '.join(idle)}")


def check_keys(chosen: Settings) -> None:
    """Refuse to start where stored files need a key that is not here; note the one that seals from now on (I22)."""
    keys = None if chosen.data.key_file is None else Keys(chosen.data.key_file)
    lost = sorted(reseal.missing(chosen.data.folder, keys))
    if lost:
        stop(
            Exit.CONFIGURATION,
            f"stored files were sealed by {', '.join(lost)}, which data.key_file does not hold: name the key file, or "
            "bring it back from its copy",
        )
    if keys is not None and at_rest.is_sealing():
        reseal.note(chosen.data.folder, reseal.needed(chosen.data.folder) | set(keys.ids[:1]))


def _keys(chosen: Settings) -> tuple[Path, Keys]:
    path = chosen.data.key_file
    if path is None:
        stop(Exit.CONFIGURATION, "data.key_file is not set; `ai-node at-rest init FILE` makes one")
    try:
        return path, Keys(path)
    except AtRestRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))
