"""kill -9 in the middle of a deletion: whoever comes next ends it, and nothing is half there (hardening 2.3, K19).

The fail-points: R1 after the decision is committed, R2 after files were unlinked, R3 after it is written down as done.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dicom_node.record import arrivals, audit
from dicom_node.record.tables import instances, removals
from tests.support import slices
from tests.support.quick import FLAIR, Quick

pytestmark = pytest.mark.system


@pytest.mark.timeout(200)
def test_every_moment_of_a_deletion_may_be_the_last(tmp_path: Path) -> None:
    node = Quick(tmp_path / "node")
    data = node.settings.data.folder
    config = tmp_path / "node.yaml"
    config.write_text(yaml.safe_dump(node.settings.model_dump(mode="json", exclude_none=True)))
    try:
        for number, point in enumerate(("R1", "R2", "R3")):
            flair = slices.series(tmp_path / point, 4, **FLAIR)
            node.bring(flair)
            node.quiet(flair.study_uid)
            node.engine.run()
            command = ("retention", "erase", flair.study_uid, "--reason", "patient's request", "--yes", "--json")
            killed = ai_node(config, command, point)
            assert killed.returncode == -signal.SIGKILL, killed.stderr
            assert len(node.rows(removals)) == number + 1
            assert all(row["removed_at"] for row in node.rows(instances)), "decided: every reader is told"
            ended = ai_node(config, ("retention", "run", "--json"))
            assert ended.returncode == 0, ended.stderr
            assert json.loads(ended.stdout)["outcome"] == "done"
            assert {row["state"] for row in node.rows(removals)} == {"done"}
            left = [path for name in ("vault", "artefacts", "cache/volumes") for path in (data / name).rglob("*")]
            assert [path for path in left if path.is_file()] == []
            assert len(node.events("study.removed")) == number + 1, "once"
            with node.database.read() as connection:
                assert audit.verify(connection) is None
                assert dict(arrivals.stored_paths(connection)) == {}
        assert {row["files"] for row in node.rows(removals)} == {node.rows(removals)[0]["files"]}
    finally:
        node.close()


def ai_node(config: Path, command: tuple[str, ...], point: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AI_NODE_")}
    if point is not None:
        environment |= {"AI_NODE_FAILPOINT": point, "AI_NODE_TEST_BUILD": "failpoints-may-kill"}
    whole = [sys.executable, "-m", "dicom_node.cli", "--config", str(config), *command]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=60, check=False)
