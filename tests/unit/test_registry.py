"""The registry's rules: what a reference stands for, who gets which version, and what may not take another's place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ai_engine.geometry import Affine
from ai_engine.packages import load_package
from dicom_node import registry as rules
from dicom_node.models import check_models
from dicom_node.record import Database, audit, registry
from dicom_node.record.registry import Choice
from dicom_node.refusals import Refused
from dicom_node.routing.book import parse_routes
from dicom_node.settings import Settings
from dicom_node.stages import trial as trials
from dicom_node.stages.context import ModelDescription
from dicom_node.stages.trial import compare
from tests.fixtures_packages import make_tiny_package
from tests.fixtures_results import findings_of

pytestmark = pytest.mark.unit

MILLIMETRE = Affine(np.eye(4))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/records.sqlite")
    made.migrate()
    yield made
    made.close()


def put(database: Database, alias: str, *choices: Choice) -> None:
    with database.write() as connection:
        registry.set_alias(connection, "tiny", alias, choices, "tester", "because")


def resolved(database: Database, reference: str, subject: str = "1.2.3") -> str:
    with database.read() as connection:
        return rules.resolve(connection, reference, subject).reference


def test_a_bare_name_is_left_alone_until_stable_is_set(database: Database) -> None:
    assert resolved(database, "tiny") == "tiny"
    put(database, "stable", Choice("1.0.0", "a" * 64))
    assert resolved(database, "tiny") == "tiny@1.0.0"


def test_an_exact_version_ignores_aliases(database: Database) -> None:
    put(database, "stable", Choice("1.0.0", "a" * 64))
    assert resolved(database, "tiny@2.0.0") == "tiny@2.0.0"


def test_an_alias_that_was_never_set_is_refused_by_name(database: Database) -> None:
    put(database, "stable", Choice("1.0.0", "a" * 64))
    with pytest.raises(Refused) as refused:
        resolved(database, "tiny@candidate")
    assert "stable" in refused.value.refusal.expected


def test_the_start_checks_the_very_packages_that_aliases_stand_for(database: Database, tmp_path: Path) -> None:
    models = tmp_path / "models"
    folder = make_tiny_package(models, name="tiny", version="1.0.0")
    make_tiny_package(models, name="tiny", version="1.1.0")
    settings = Settings(engine={"models": models})
    routes = parse_routes(
        "schema_version: 1\nroutes:\n  - {name: r, when: {attribute: Modality, equals: MR}, role_sets: [[flair]], "
        "model: tiny@candidate, result_family: f}\n"
    )
    with pytest.raises(Refused) as unset:
        check_models(settings, routes, database)
    assert "none is set" in unset.value.refusal.expected
    put(database, "candidate", Choice("1.0.0", load_package(folder, weights=False).digest_sha256))
    check_models(settings, routes, database)
    _rename_region(folder)  # sealed again: whole, and not what was put in force
    with pytest.raises(Refused) as other:
        check_models(settings, routes, database)
    assert other.value.refusal.code.value == "model-hash-mismatch"


def test_a_switch_is_audited_with_what_was_before(database: Database) -> None:
    put(database, "stable", Choice("1.0.0", "a" * 64))
    put(database, "stable", Choice("1.1.0", "b" * 64))
    with database.read() as connection:
        assert audit.verify(connection) is None
        assert audit.head(connection)[0] == 2


def test_shares_are_kept_and_a_study_keeps_its_version(database: Database) -> None:
    put(database, "stable", Choice("1.0.0", "a" * 64, 80), Choice("1.1.0", "b" * 64, 20))
    subjects = [f"1.2.826.{number}" for number in range(2000)]
    first = [resolved(database, "tiny", subject) for subject in subjects]
    assert first == [resolved(database, "tiny", subject) for subject in subjects]
    share = first.count("tiny@1.1.0") / len(first)
    assert 0.17 < share < 0.23  # 20 % of 2,000, three standard deviations


def test_a_version_that_reads_other_roles_cannot_take_the_place(tmp_path: Path) -> None:
    make_tiny_package(tmp_path, name="tiny", version="1.1.0", role="t1")
    with pytest.raises(Refused) as refused:
        rules.check_switch(tmp_path, "tiny", "1.1.0", predecessor=None, role_sets={("flair",)})
    assert "flair" in refused.value.refusal.expected
    assert "t1" in refused.value.refusal.found


def test_other_regions_need_to_be_accepted(tmp_path: Path) -> None:
    make_tiny_package(tmp_path, name="tiny", version="1.0.0")
    folder = make_tiny_package(tmp_path, name="tiny", version="1.1.0")
    _rename_region(folder)
    before = "1.0.0"
    with pytest.raises(Refused) as refused:
        rules.check_switch(tmp_path, "tiny", "1.1.0", predecessor=before, role_sets=set())
    assert "something_else" in refused.value.refusal.found
    chosen = rules.check_switch(
        tmp_path, "tiny", "1.1.0", predecessor=before, role_sets={("flair",)}, accept_other_labels=True
    )
    assert chosen.version == "1.1.0"


def test_a_changed_package_is_not_switched_to(tmp_path: Path) -> None:
    folder = make_tiny_package(tmp_path, name="tiny", version="1.1.0")
    weights = next(folder.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(Refused) as refused:
        rules.check_switch(tmp_path, "tiny", "1.1.0", predecessor=None, role_sets=set())
    assert refused.value.refusal.code.value == "model-hash-mismatch"


def test_a_comparison_matches_regions_by_key_not_by_label_value() -> None:
    mask = np.zeros((4, 10, 10), np.uint8)
    mask[1, 2:6, 2:6], mask[2, 2:4, 2:4] = 1, 2
    said = findings_of(mask, MILLIMETRE)
    swapped = np.array([0, 3, 1], np.uint8)[mask]  # the same regions under other values
    relabelled = {"flair_abnormality": {"label": 3}, "core": {"label": 1}, "whole": {"composite_of": (1, 3)}}
    says = replace(said, regions=tuple(replace(region, **relabelled[region.key]) for region in said.regions))
    found = compare(mask, said, swapped, says)["regions"]
    assert [entry["key"] for entry in found] == ["flair_abnormality", "core", "whole"]
    assert [entry["dice"] for entry in found] == [1.0, 1.0, 1.0]
    assert found[0]["difference_ml"] == 0.0


def test_empty_against_empty_is_one_and_says_so() -> None:
    empty = np.zeros((4, 10, 10), np.uint8)
    said = findings_of(empty, MILLIMETRE)
    entry = compare(empty, said, empty, said)["regions"][0]
    assert (entry["dice"], entry["both_empty"], entry["difference_percent"]) == (1.0, True, None)


@pytest.mark.parametrize("is_stopping", [False, True])
def test_a_fault_ends_a_trial_and_a_stop_of_the_worker_does_not(
    database: Database, monkeypatch: pytest.MonkeyPatch, is_stopping: bool
) -> None:
    said: list[tuple[Any, ...]] = []
    monkeypatch.setattr(trials, "_trial", lambda _tools, _number: 1 / 0)
    monkeypatch.setattr(registry, "end_trial", lambda _connection, *told, **more: said.append((*told, more)))
    monkeypatch.setattr(registry, "uncount_start", lambda _connection, number: said.append((number, "uncounted")))
    stopping = threading.Event()
    if is_stopping:
        stopping.set()
    assert trials.trial(SimpleNamespace(database=database, stopping=stopping), 7) == []
    if is_stopping:
        assert said == [(7, "uncounted")]
    else:
        ((number, state, more),) = said
        assert (number, state) == (7, registry.FAILED)
        assert "ZeroDivisionError" in more["reason"]


def test_a_candidate_on_another_grid_is_not_compared() -> None:
    candidate = ModelDescription("tiny", "1.1.0", "d" * 64, "s" * 64, ("t1c", "flair"), "t1c")
    trials._on_the_same_grid(candidate, "t1c")
    with pytest.raises(Refused) as refused:
        trials._on_the_same_grid(candidate, "flair")
    assert "grid of flair" in refused.value.refusal.expected


def _rename_region(folder: Path) -> None:
    import yaml

    from ai_engine.packages import seal_package

    described = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
    described["labels"][0]["key"] = "something_else"
    (folder / "model.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    seal_package(folder)
