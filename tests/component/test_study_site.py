"""Whose a study is: of the site that asked for its analysis, else its sender's, else the only one's, else nobody's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.gather import Indexer
from dicom_node.permissions import Role
from dicom_node.record import Database, arrivals, sites, tables
from dicom_node.volume.header import content_digest, read_header
from tests.support import slices
from tests.support.people import HERE, THERE, make_sites, make_user
from tests.support.rows import add_row

pytestmark = pytest.mark.component


class Files:
    """A vault that is the file system."""

    data_folder = Path("/")

    def drop(self, path: str) -> None: ...
    def to_quarantine(self, path: str) -> str:
        return path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    made.migrate()
    make_sites(made)
    yield made
    made.close()


def arrive(database: Database, made: slices.SeriesFiles, site_of_sender: str | None) -> str | None:
    """One series comes from a sender and is indexed; the site of its study."""
    with database.write() as connection:
        arrival = arrivals.open_arrival(connection, "MODALITY", "127.0.0.1")
        for file, uid in zip(made.files, made.uids, strict=True):
            received = arrivals.Received(
                uid, slices.MR, "1.2.840.10008.1.2.1", made.study_uid, made.series_uid, str(file), 1, uid, "MODALITY"
            )
            arrivals.add_instance(connection, received, arrival)
    Indexer(
        database,
        Files(),
        read_header=read_header,
        content_digest=content_digest,
        is_input=lambda _: True,
        on_indexed=lambda _: None,
        site_of=lambda ae_title: {"MODALITY": site_of_sender}.get(ae_title),
    ).index_batch()
    with database.read() as connection:
        wanted = select(tables.studies.c.site).where(tables.studies.c.uid == made.study_uid)
        return connection.execute(wanted).scalar_one()


def test_a_study_is_of_the_site_that_its_sender_is_of(database: Database, tmp_path: Path) -> None:
    assert arrive(database, slices.series(tmp_path / "a", 2), THERE) == THERE
    assert arrive(database, slices.series(tmp_path / "b", 2), None) is None, "two sites, and nobody says whose"


def test_where_there_is_one_open_site_everything_is_its(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        sites.close_site(connection, "test", THERE)
    assert arrive(database, slices.series(tmp_path / "a", 2), None) == HERE


def test_an_analysis_is_of_the_site_of_who_asked_whoever_sends_it(database: Database, tmp_path: Path) -> None:
    made = slices.series(tmp_path / "a", 2)
    user = make_user(database, "eva", [Role.CLINICIAN])
    with database.write() as connection:
        add_row(
            connection, tables.analyses, public_id="a" * 32, user_id=user.id, site=HERE, study_uid=made.study_uid,
            state="submitted", is_identified=False, consent="care",
        )  # fmt: skip
    assert arrive(database, made, THERE) == HERE
