"""`ai-node benchmark`: a node over real HTTP beside the re-created design in a process of its own, same weights.

Both sides count the same voxels, so they did the same work; the other side answers one request after the other.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.cli.common import Exit
from tests.fixtures_packages import make_tiny_package
from tests.support.api import ApiNode, head, nifti
from tests.support.browsing import served

pytestmark = pytest.mark.component


@pytest.mark.timeout(600)
def test_both_sides_do_the_same_work_and_the_report_says_how_long_it_took(tmp_path: Path) -> None:
    models = tmp_path / "models"
    make_tiny_package(models, role="t1c", intensity="none", threshold=150.0)
    config, key = tmp_path / "node.yaml", tmp_path / "key"
    config.write_text(yaml.safe_dump({"engine": {"models": str(models)}}), encoding="utf-8")
    picture, out = nifti(head(), tmp_path / "case.nii.gz"), tmp_path / "out"
    node = ApiNode(tmp_path / "node", models)
    key.write_text(node.key, encoding="utf-8")
    try:
        with served(node.app) as address:
            words = ["--config", str(config), "benchmark", str(picture), "--out", str(out), "--pid", str(os.getpid())]
            words += ["--url", f"{address}/api/v1/predict/nnUNet", "--key-file", str(key), "--rival", "tiny-bright"]
            said = CliRunner().invoke(app, [*words, "--warm-ups", "1", "--runs", "6", "--users", "1,3"])
    finally:
        node.close()
    assert said.exit_code == Exit.DONE, said.output
    found = json.loads((out / "benchmark.json").read_text(encoding="utf-8"))
    ours, theirs = found["arms"]["node"], found["arms"]["re-created design"]
    for arm in (ours, theirs):
        assert [level["answered"] for level in arm["levels"]] == [6, 6], arm["levels"]
        assert len({run["run_id"] for run in arm["runs"]}) == 12
        assert all(run["client_s"] > run["server_s"] for run in arm["runs"]), "what is left over is the network"
        assert all(level["network_s"]["mean"] > 0 and level["memory_mb"] > 100 for level in arm["levels"])
        assert arm["memory_slope"]["verdict"] in ("steady", "grows")
        sampled = {one for sample in arm["samples"] for one in sample["run_ids"]}
        assert sampled & {run["run_id"] for run in arm["runs"]} and arm["proportional_peak_mb"] > 100
    assert ours["class_shares"] == pytest.approx(theirs["class_shares"], abs=0.02), "nnU-Net adds up in half precision"
    assert set(ours["class_shares"]) == {"BG", "FLAIR"} and ours["class_shares"]["FLAIR"] > 0.1
    assert ours["parameters"] == theirs["parameters"] and ours["file_mb"] == theirs["file_mb"]
    alone, three = (level["waited_s"]["most"] for level in theirs["levels"])
    assert alone < three > theirs["levels"][1]["server_s"]["p50"], "one lock: whoever comes third waits for two"
    assert [row["users"] for row in found["comparisons"][0]["levels"]] == [1, 3]
    page = (out / "benchmark.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 3 and "Mann-Whitney" in (out / "benchmark.md").read_text(encoding="utf-8")
