"""The keys that sign the tokens of the LUNA API."""

from __future__ import annotations

from datetime import timedelta

import typer

from dicom_node.cli.common import JSON_OPTION, emit, out
from dicom_node.cli.operate import actor, record

app = typer.Typer(no_args_is_help=True, help="The keys that sign the tokens of the LUNA API.")


@app.command("list")
def list_keys(as_json: bool = JSON_OPTION) -> None:
    """The keys whose tokens are believed; the last one signs.

    Example: ai-node tokens list
    """
    from portal.luna.keys import NAME, KeyFile

    with record() as (chosen, _):
        known = KeyFile(chosen.data.folder / NAME).known()
    rows = [{"kid": key.kid, "made_at": key.made_at.isoformat()} for key in known]
    if as_json:
        emit(rows)
        return
    for row in rows:
        out.print(f"{row['kid']}  made {row['made_at']}{'  signs' if row is rows[-1] else ''}", markup=False)


@app.command("rotate")
def rotate() -> None:
    """Sign with a new key from now on; nobody is signed out, and the running node needs no restart.

    Example: ai-node tokens rotate
    """
    from dicom_node.record import audit
    from portal.luna.keys import NAME, KeyFile

    with record() as (chosen, database):
        new = KeyFile(chosen.data.folder / NAME).rotate(timedelta(hours=chosen.luna.token_hours))
        with database.write() as connection:
            audit.append(connection, actor(), "token-key-rotated", kid=new.kid)
    out.print(f"tokens are signed by {new.kid} from now on", markup=False)
