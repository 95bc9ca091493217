"""A full-size nnU-Net (31 M parameters, random weights) reads a whole head within 4 GB, warm and from the command line.

Importing it, compiling it and eight passes of 128 x 128 x 128 take minutes on two cores, therefore only in
`make test-long`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.shipped import ours, package, timed, warm, write_case, write_results

pytestmark = [pytest.mark.realdata, pytest.mark.long, pytest.mark.timeout(2400)]

LIMIT_BYTES = 4_000_000_000


def test_a_full_size_network_reads_a_head_within_4_gb(data_dir: Path, tmp_path: Path) -> None:
    results, parameters, _ = write_results(tmp_path / "results", 128)
    assert parameters > 30_000_000
    reference = package(results, tmp_path)
    case = write_case(data_dir / "brain" / "brats" / "Brats18_2013_3_1", tmp_path / "case")
    child = warm(tmp_path / "models" / "full-size" / "1.0.0", case, mirroring=False)
    assert child["passes"] >= 8
    assert child["peak_mb"] * 2**20 < LIMIT_BYTES, "highest resident set of the model's process"
    command = ours(reference, tmp_path / "models", case, tmp_path / "out", mirroring=False)
    whole = timed(command, {"AI_NODE__ENGINE__MODELS": str(tmp_path / "models")})
    assert whole["peak_mb"] * 1e6 < LIMIT_BYTES, "all processes of `ai-node predict` together"
