"""Another version reads a photograph along, and later again: its outputs are compared, and nothing is delivered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ai_engine.packages import find_package, load_package
from dicom_node.cli.comparison import outputs_of, page_of, summary_of, told_of
from dicom_node.record import registry
from dicom_node.record.registry import Choice
from dicom_node.record.tables import trials
from dicom_node.stages.trial import compare_pictures, trial_put
from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_photo import lesion_findings, wrapped_lesion
from tests.support.node import Node

pytestmark = pytest.mark.component

MODEL, OLD, NEW = "tiny-classifier", "1.0.0", "1.1.0"
ROUTES = f"""
schema_version: 1
routes:
  - name: skin-lesion
    when: {{attribute: Modality, in: [XC, DMS]}}
    role_sets: [[dermoscopy]]
    cases: one-per-series
    model: {MODEL}
    result_family: skin-lesion
    destinations: [archive]
    publish: all
"""


def digest_of(models: Path, version: str) -> str:
    return load_package(find_package(models, f"{MODEL}@{version}"), weights=False).digest_sha256


def rows_of(node: Node, **chosen: Any) -> list[Any]:
    with node.database.read() as connection:
        return registry.trials_of(connection, **chosen)


def test_a_shadow_and_a_replay_of_a_photograph_are_compared_and_shown(tmp_path: Path) -> None:
    models = tmp_path / "models"
    make_tiny_classifier(models, version=OLD)
    make_tiny_classifier(models, version=NEW, seed=1, threshold=0.999)
    node = Node(tmp_path / "node", models, ROUTES)
    try:
        with node.database.write() as connection:
            registry.set_alias(connection, MODEL, "stable", [Choice(OLD, digest_of(models, OLD))], "tester", "test")
            registry.start_shadow(connection, MODEL, NEW, digest_of(models, NEW), "tester", "test")
        photo, path = wrapped_lesion(tmp_path)
        node.receive([path])
        node.close_series(photo.series_uid)
        node.engine.run()
        assert node.engine.errors == {}
        delivered = len(node.delivered())
        (along,) = node.rows(trials)
        assert along["state"] == "done", along["reason"]
        assert [one["key"] for one in along["comparison"]["observations"]] == ["malignant", "melanoma"]
        with node.database.write() as connection:
            number = registry.add_replay(connection, MODEL, NEW, "tester", "test")
            (run,) = registry.past_runs(connection, MODEL, 20)
            digest = digest_of(models, NEW)
            again, _ = registry.add_trial(connection, int(run["id"]), f"{MODEL}@{NEW}", digest, replay_id=number)
        node.engine.put(trial_put(again))
        node.engine.run()
        told = [told_of(row) for row in rows_of(node, replay_id=number)]
        assert told[0]["observations"] == along["comparison"]["observations"], "the same picture, the same answer"
        assert len(node.delivered()) == delivered > 0
        (malignant, melanoma) = outputs_of(told)
        assert (malignant["n"], melanoma["unit"]) == (1, "%")
        page = page_of("test", told, summary_of(told), node.settings.data.folder / "artefacts")
        assert "no comparison has ended yet" not in page
        assert "Model-estimated probability of malignancy" in page and "99.90" in page, "both thresholds are told"
    finally:
        node.close()


def test_what_lies_on_the_other_side_of_its_threshold_is_said_first() -> None:
    near = compare_pictures(lesion_findings(30.0), lesion_findings(30.9))
    over = compare_pictures(lesion_findings(30.9), lesion_findings(31.1))
    assert [one["same_side"] for one in near["observations"]] == [True, True]
    first = over["observations"][0]
    assert (first["same_side"], first["thresholds"]) == (False, [31.0, 31.0])
    assert first["difference"] == pytest.approx(0.2)
    common = {"run": 1, "reference": "a@1", "candidate": "a@2", "kind": "shadow", "state": "done", "reason": None}
    told = [{**common, "study": name, "picture": None, **found} for name, found in (("near", near), ("over", over))]
    page = page_of("test", told, summary_of(told), Path("nowhere"))
    assert page.index("Study over") < page.index("Study near")
    (malignant, _) = outputs_of(told)
    assert (malignant["n"], malignant["other_side"]) == (2, 1)


def test_a_refused_trial_says_why_in_words(tmp_path: Path) -> None:
    row: dict[str, Any] = dict.fromkeys(("study", "run_id", "reference", "candidate", "comparison", "ended_at"))
    refusal = '{"code": "image-blank", "message": "The image is blank.", "expected": "a picture", "found": "none"}'
    told = told_of({**row, "replay_id": None, "state": "refused", "reason": refusal})  # type: ignore[arg-type]
    assert told["reason"] == "The image is blank. Expected a picture, found none."
    assert "{" not in page_of("test", [told], [], tmp_path).partition("<h2>Study by study")[2]
