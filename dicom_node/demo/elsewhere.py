"""The three studies of the demonstration, sent to an archive that is already there; nothing is started or awaited.

For the sender of the `demo` profile of docker/compose.yaml, and for trying an installation of one's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from dicom_node.demo.sending import Peer, SendReport, find_files, send_files
from dicom_node.demo.study import Fate, make_study

CALLING_AE_TITLE = "DEMO"


def send_elsewhere(
    peer: Peer, *, seed: int = 1, on_study: Callable[[Fate, SendReport], None] = lambda _fate, _report: None
) -> dict[Fate, SendReport]:
    """Make each study in a temporary folder and send it by C-STORE, one association per study.

    Parameters
    ----------
    peer
        Must know the AE title ``DEMO`` at the address this is called from.
    on_study
        Called after each study.

    Raises
    ------
    PeerTrouble
        If no association can be opened.
    """
    reports = {}
    for number, fate in enumerate(Fate):
        with tempfile.TemporaryDirectory(prefix="ai-node-demo-") as folder:
            study = make_study(Path(folder), fate, seed=seed + number)
            files, _ = find_files(study.folder)
            reports[fate] = send_files(files, peer, calling_ae_title=CALLING_AE_TITLE)
        on_study(fate, reports[fate])
    return reports
