"""kill -9 of the worker on the road of photographs: the same places, the same oracle as the brain's (test_kill_road).

Two photographs wait at once, so that the run whose job dies takes the other one along (`stages/infer_pictures.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_kill_road import ISSUER, POINTS, Site, finish, random_kills, wait_dead

from dicom_node.body_sites import body_site
from dicom_node.demo.site import free_ports
from dicom_node.orthanc import OrthancChild
from dicom_node.photo import Importer, Occasion, Patient, wrap
from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.peers.fhir_peer import FhirPeer
from tests.support.node import NAMESPACE

pytestmark = pytest.mark.system

ROUTES = """
schema_version: 1
routes:
  - name: skin-lesion
    when: {attribute: Modality, equals: XC}
    exclude: [burned-in, own-result, not-an-image]
    role_sets: [[dermoscopy]]
    cases: one-per-series
    model: tiny-classifier
    result_family: skin-lesion
    destinations: [archive]
    publish: all
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    make_tiny_classifier(tmp_path / "models")
    http_port, dicom_port = free_ports(2)
    orthanc = OrthancChild(tmp_path / "orthanc", http_port, dicom_port, node_port=1)
    with orthanc, FhirPeer() as fhir:
        made = Site(tmp_path / "node", tmp_path / "models", orthanc, fhir, ROUTES, ("DOC", "OT", "SR"))
        yield made
        made.node.close()


def photograph(folder: Path, number: int) -> list[Path]:
    """A drawn lesion of another patient."""
    made = wrap(
        jpeg(drawn_lesion(seed=number)),
        Patient(f"KILL-{number}", ISSUER, f"KILL^{number}"),
        Occasion("2026-11-22T10:00:00+01:00", body_site=body_site("chest"), declared="dermoscopic"),
        Importer(uuid.UUID(NAMESPACE), "0.1.0", "node-1"),
    )
    path = folder / f"photo-{number}.dcm"
    path.write_bytes(made.data)
    return [path]


@pytest.mark.timeout(1200)
def test_killed_at_every_point_with_two_photographs_waiting(site: Site, tmp_path: Path) -> None:
    studies = [site.bring(photograph(tmp_path, number)) for number in (1, 2)]
    for point in POINTS:
        wait_dead(site.start(point), site.log)
    finish(site, studies)
    assert len(site.node.events("run.inferred")) == 2, "no answer was asked for twice"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_at_ten_random_instants(site: Site, tmp_path: Path) -> None:
    random_kills(site, lambda number: photograph(tmp_path, number), 10, studies=4, seed=10)
