"""`ai-node models switch` while requests by HTTP come in: none fails, each is answered by a version in force for it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from ai_engine.packages import seal_package
from dicom_node.cli import app
from dicom_node.record.tables import predictions
from tests.fixtures_packages import make_tiny_package
from tests.support.api import ApiNode, head, nifti

pytestmark = pytest.mark.component

OLD, NEW = "1.0.0", "1.1.0"
USERS = 3
PER_SWITCH = 6
"""So many answers are waited for between two switches."""


class Switched(ApiNode):
    """A node whose versions are switched as a person does it."""

    def __init__(self, folder: Path, models: Path) -> None:
        api = {
            "aliases": {"nnUNet": {"model": "tiny-bright", "default_role": "flair"}},
            "requests_per_minute": 100_000,
            "images_per_minute": 100_000,
        }
        super().__init__(folder, models, api=api)
        self.config = folder / "node.yaml"
        self.config.write_text(yaml.safe_dump(self.settings.model_dump(mode="json", exclude_none=True)))

    def switch(self, version: str, *options: str) -> Any:
        command = ["models", "switch", f"tiny-bright@{version}", "--no-test", "--reason", "test", *options]
        return CliRunner().invoke(app, ["--config", str(self.config), *command])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Switched]:
    make_tiny_package(tmp_path / "models", version=OLD)
    make_tiny_package(tmp_path / "models", version=NEW, threshold=1.2)
    made = Switched(tmp_path / "node", tmp_path / "models")
    yield made
    made.close()


@dataclass
class Load:
    """Users who ask again and again, each with pictures of their own."""

    node: ApiNode
    picture: np.ndarray[Any, Any]
    folder: Path
    answers: list[tuple[float, float, int, str]] = field(default_factory=list)
    """Begun, ended, status, model."""

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._user, args=(n,), daemon=True) for n in range(USERS)]
        for thread in self._threads:
            thread.start()

    def _user(self, number: int) -> None:
        client, own = self.node.client(), self.picture.copy()
        for count in range(10_000):
            if self._over.is_set():
                return
            own[0, 0, number] = count  # no two requests carry the same picture: no cache answers for a model
            image = nifti(own, self.folder / f"{number}.nii.gz").read_bytes()
            begun = time.monotonic()
            said = client.post("/api/v1/predict/nnUNet", files={"image": ("scan.nii.gz", image)})
            self.answers.append((begun, time.monotonic(), said.status_code, said.json().get("model", "")))

    def wait_for(self, more: int) -> None:
        wanted, deadline = len(self.answers) + more, time.monotonic() + 240  # a model may have to be loaded first
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.02)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(240)


@pytest.mark.timeout(900)
def test_no_request_fails_and_each_is_answered_by_a_version_that_was_in_force(node: Switched, tmp_path: Path) -> None:
    assert node.switch(OLD).exit_code == 0
    in_force = [(0.0, OLD)]
    load = Load(node, head(), tmp_path)
    try:
        load.wait_for(PER_SWITCH)
        for version in (NEW, OLD, NEW):
            begun = time.monotonic()
            said = node.switch(version)
            assert said.exit_code == 0, said.output
            in_force.append((begun, version))
            in_force.append((time.monotonic(), ""))  # from here on no other
            load.wait_for(PER_SWITCH + USERS)
    finally:
        load.stop()
    assert {status for _, _, status, _ in load.answers} == {200}
    assert Counter(row["state"] for row in node.rows(predictions)) == {"built": len(load.answers)}
    used = Counter(model for *_, model in load.answers)
    assert set(used) == {f"tiny-bright@{OLD}", f"tiny-bright@{NEW}"} and min(used.values()) >= PER_SWITCH
    assert sorted(node.tools.models.warm()) == sorted(used)  # type: ignore[attr-defined]
    for begun, ended, _, model in load.answers:
        assert model.partition("@")[2] in _possible(in_force, begun, ended)


def _possible(in_force: list[tuple[float, str]], begun: float, ended: float) -> set[str]:
    """The versions that were in force at some moment of a request; during a switch both are."""
    possible, current = set(), ""
    for at, version in in_force:
        if at > ended:
            break
        if version:
            possible |= {current, version} if current else {version}
            current = version
        elif at <= begun:
            possible = {current}
    return possible


def test_the_oracle_itself() -> None:
    told = [(0.0, OLD), (10.0, NEW), (11.0, "")]
    assert _possible(told, 1.0, 2.0) == {OLD}
    assert _possible(told, 9.0, 10.5) == {OLD, NEW}
    assert _possible(told, 12.0, 13.0) == {NEW}


def test_the_first_switch_is_compared_with_the_version_that_a_bare_name_stood_for(
    node: Switched, tmp_path: Path
) -> None:
    """Nobody had set `stable`, and yet a version was in force: readers knew its regions."""
    other = tmp_path / "models" / "tiny-bright" / "1.2.0"
    make_tiny_package(tmp_path / "models", version="1.2.0")
    text = (other / "model.yaml").read_text(encoding="utf-8")
    (other / "model.yaml").write_text(text.replace("key: flair_abnormality", "key: something_else"), encoding="utf-8")
    seal_package(other)
    refused = node.switch("1.2.0")
    assert refused.exit_code == 3 and "something_else" in refused.output and f"tiny-bright@{NEW}" in refused.output
    assert node.switch("1.2.0", "--alias", "candidate").exit_code == 0, "an alias of its own takes no place"
    assert node.switch("1.2.0", "--accept-other-labels").exit_code == 0
    assert node.switch(NEW).exit_code == 3, "and the way back is another change of regions"
