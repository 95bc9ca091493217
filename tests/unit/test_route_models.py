"""A route may give its model only role sets that every version in force reads; otherwise nothing starts (I22)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ai_engine.packages import load_package
from ai_engine.packages.site import SiteOverride, write_override
from dicom_node.cli import processes
from dicom_node.models import check_models
from dicom_node.record import Database, registry
from dicom_node.record.registry import Choice
from dicom_node.refusals import Refused
from dicom_node.routing.book import load_routes
from dicom_node.settings import Settings
from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_packages import make_tiny_package

pytestmark = pytest.mark.unit

ROUTES = """\
schema_version: 1
routes:
  - {name: good, when: {attribute: Modality, equals: MR}, role_sets: [[flair]], model: tiny, result_family: f}
  - {name: greedy, when: {attribute: Modality, equals: MR}, role_sets: [[flair], [t1c, flair]], model: tiny,
     result_family: g}
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/records.sqlite")
    made.migrate()
    yield made
    made.close()


def site(tmp_path: Path, routes: str) -> Settings:
    file = tmp_path / "site-routes.yaml"
    file.write_text(routes, encoding="utf-8")
    return Settings(engine={"models": tmp_path / "models"}, routes=file)


def test_role_sets_that_the_model_does_not_read_refuse_the_start(database: Database, tmp_path: Path) -> None:
    make_tiny_package(tmp_path / "models", name="tiny", version="1.0.0")
    settings = site(tmp_path, ROUTES)
    with pytest.raises(Refused) as refused:
        check_models(settings, load_routes(settings.routes), database)
    told = refused.value.refusal
    assert told.expected == "role_sets of route greedy in site-routes.yaml that tiny reads: [flair]"
    assert told.found == "[t1c, flair]"
    with pytest.raises(typer.Exit) as stopped:
        processes._check_models(settings, database)
    assert stopped.value.exit_code == 5
    off = site(tmp_path, ROUTES.replace("{name: greedy,", "{name: greedy, enabled: false,"))
    check_models(off, load_routes(off.routes), database)


def test_every_version_behind_an_alias_is_asked(database: Database, tmp_path: Path) -> None:
    models = tmp_path / "models"
    good = make_tiny_package(models, name="tiny", version="1.0.0")
    other = make_tiny_package(models, name="tiny", version="1.1.0", role="t1")
    settings = site(tmp_path, ROUTES.split("  - {name: greedy")[0].replace("model: tiny", "model: tiny@trial"))
    shares = [(good, "1.0.0", 90), (other, "1.1.0", 10)]
    choices = [Choice(v, load_package(f, weights=False).digest_sha256, p) for f, v, p in shares]
    with database.write() as connection:
        registry.set_alias(connection, "tiny", "trial", choices, "tester", "because")
    with pytest.raises(Refused) as refused:
        check_models(settings, load_routes(settings.routes), database)
    assert refused.value.refusal.expected.endswith("that tiny@1.1.0 reads: [t1]")
    assert refused.value.refusal.found == "[flair]"


def test_a_sites_own_thresholds_are_read_before_anything_starts(database: Database, tmp_path: Path) -> None:
    """A file that is gone, damaged or made for another package stops the start, not the first photograph."""
    package = load_package(make_tiny_classifier(tmp_path / "models"), weights=False)
    file = tmp_path / "site.json"
    routes = tmp_path / "routes.yaml"
    routes.write_text("schema_version: 1\nroutes: []\n", encoding="utf-8")
    engine = {"models": tmp_path / "models", "site_overrides": {"tiny-classifier": file}}
    settings = Settings(engine=engine, routes=routes)
    point = {"sensitivity": 0.9, "specificity": 0.4, "n": 100, "data": "a site"}
    told = {
        "format": 1, "name": "tiny-classifier", "version": "1.0.0", "digest_sha256": package.digest_sha256,
        "outputs": {"malignant": {"threshold": 0.2, "operating_point": point}}, "population": "a site",
    }  # fmt: skip

    def found() -> str:
        with pytest.raises(Refused) as refused:
            check_models(settings, load_routes(settings.routes), database)
        assert refused.value.refusal.expected.endswith("for tiny-classifier that was made with tiny-classifier@1.0.0")
        return str(refused.value.refusal.found)

    assert "cannot be read" in found()
    file.write_text('{"format": 1}')
    assert "name" in found()
    write_override(SiteOverride.model_validate({**told, "digest_sha256": "0" * 64}), file)
    assert "ai-node calibrate" in found()
    with pytest.raises(typer.Exit) as stopped:
        processes._check_models(settings, database)
    assert stopped.value.exit_code == 5
    write_override(SiteOverride.model_validate(told), file)
    check_models(settings, load_routes(settings.routes), database)
