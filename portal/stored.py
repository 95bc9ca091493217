"""Files of the data folder as answers: as they lie there or, where they are sealed, deciphered on the way."""

from __future__ import annotations

from pathlib import Path

from fastapi import Response
from fastapi.responses import FileResponse

from dicom_node.sealing import at_rest


def stored_file(path: Path, media_type: str, name: str) -> Response:
    """A stored file to keep under a name, which is one of ours.

    Reads all of a sealed file: what is handed out this way are results, of some megabytes.

    Raises
    ------
    OSError, SealBroken
    """
    if not at_rest.is_sealed(path):
        return FileResponse(path, media_type=media_type, filename=name)
    return Response(
        at_rest.read(path), media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )
