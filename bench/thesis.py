"""A node and the re-created design side by side, through `ai-node benchmark`: the thesis's protocol on this machine.

    python -m bench.thesis [--model brain-tumour] [--runs 30] [--users 1,2,4,8] [--case FOLDER] [--small]

The node is started as the demonstration starts it; both sides read the same weights, on a skull-stripped T1c of
240 x 240 x 155.  The other side runs nnU-Net's own predictor in PyTorch with mirroring, one request at a time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.machine import RESULTS, about, machine
from bench.shipped import write_case
from dicom_node.demo.site import Site, SiteOptions
from dicom_node.record import keys


def main(arguments: Sequence[str] | None = None) -> None:
    """Start, measure, print, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("AI_NODE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--case", type=Path, default=data / "brain" / "brats" / "Brats18_2013_3_1")
    parser.add_argument("--model", default="brain-tumour")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--users", default="1,2,4,8")
    parser.add_argument("--warm-ups", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one core for either side, at most 8 GB a process")
    options = parser.parse_args(arguments)
    facts, cores = machine(), os.sched_getaffinity(0)
    folder = Path(tempfile.mkdtemp(prefix="bench-thesis-"))
    try:
        picture = write_case(options.case, folder / "case")["t1c"]
        changes = {"api": {"aliases": {"nnUNet": {"model": options.model, "default_role": "t1c"}}}}
        if options.small:  # the node is started where there is one processor, and takes as many threads
            os.sched_setaffinity(0, {min(cores)})
        with Site(SiteOptions(folder=folder / "site", changes=changes)) as site:
            os.sched_setaffinity(0, cores)
            site.wait_ready()
            key = folder / "key"
            key.write_text(keys.create(site.database, "benchmark", ["predict:run"], actor="bench"), encoding="utf-8")
            key.chmod(0o600)
            command = [sys.executable, "-m", "dicom_node.cli", "benchmark", str(picture)]
            command += ["--url", f"{site.web_url}/api/v1/predict/nnUNet", "--key-file", str(key)]
            command += ["--pid", str(site.node_pid), "--rival", options.model, "--users", options.users]
            command += ["--runs", str(options.runs), "--warm-ups", str(options.warm_ups)]
            command += ["--out", str(RESULTS / ("thesis-small" if options.small else "thesis"))]
            command += ["--small"] if options.small else []
            subprocess.run(command, check=True)
        print(about(facts))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
