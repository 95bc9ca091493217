"""A node with accounts, asked by LUNA's clients."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select

from dicom_node.desks.people import People
from dicom_node.record import sites
from dicom_node.record.tables import audit
from tests.fixtures_classifier import make_tiny_classifier
from tests.support.api import ApiNode
from tests.support.photos import saved, scene

PASSWORD = "cuatro pinguinos miran el faro"
RUT = {"key": "rut", "title": "RUT", "system": "urn:oid:2.16.152.1", "issuer": "CHILE", "check": "rut"}
PHOTO = saved(scene())
IMAGE = base64.b64encode(PHOTO).decode()
AUTHORIZATION, ACCESS_TOKEN = "Authorization", "x-access-token"


@dataclass
class Luna:
    """A node, its accounts, and clients of them."""

    node: ApiNode
    ids: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, *roles: str, site: str = "") -> str:
        made = People(self.node.settings.people, self.node.database).create(
            "test", email=address(name), name=name.title(), roles=roles, sites=[site] if site else [], password=PASSWORD
        )
        self.ids[name] = made.public_id
        return made.public_id

    def sign_in(self, name: str, password: str = PASSWORD) -> Any:
        return self.client().post("/signin", json={"email": address(name), "password": password})

    def as_(self, name: str, *, header: str = AUTHORIZATION) -> TestClient:
        """A client with a token of this user, who signs in the first time."""
        if name not in self.tokens:
            self.tokens[name] = self.sign_in(name).json()["token"]
        return self.client(self.tokens[name], header=header)

    def client(self, token: str = "", *, header: str = AUTHORIZATION) -> TestClient:
        shown = {} if not token else {header: f"Bearer {token}" if header == AUTHORIZATION else token}
        return TestClient(self.node.app, base_url="http://127.0.0.1", headers=shown, client=("192.0.2.7", 40000))

    def rows(self, table: Any) -> list[Any]:
        with self.node.database.read() as connection:
            return list(connection.execute(select(table).order_by(table.c.id)).mappings())

    def acts(self) -> list[tuple[str, str]]:
        return [(row["actor"], row["action"]) for row in self.rows(audit)]


def address(name: str) -> str:
    return f"{name}@post.example"


def luna_node(folder: Path, **api: Any) -> Luna:
    """A node with two sites, an administrator, two clinicians, a specialist and an operator; no worker."""
    make_tiny_classifier(folder / "models")
    limits = {"aliases": {"skin-lesion": {"model": "tiny-classifier"}}, "max_photo_mb": 2, **api}
    made = Luna(ApiNode(folder / "node", folder / "models", works=False, api=limits))
    with made.node.database.write() as connection:
        sites.add_site(connection, "test", key="north", title="North", identifier_types=[RUT])
        sites.add_site(connection, "test", key="south", title="South", identifier_types=[RUT])
    made.add("root", "administrator")
    made.add("ana", "clinician", site="north")
    made.add("ben", "clinician", site="north")
    made.add("sol", "specialist", site="north")
    made.add("ops", "operator")
    return made
