"""The `bridge` process: analyses by messages of an AMQP broker, over this installation's records."""

from __future__ import annotations

import threading

from dicom_node.cli.web import Road
from dicom_node.desks.analyses import Analyses
from dicom_node.permissions import Person
from dicom_node.record import Database, people
from dicom_node.settings import Settings
from portal.luna.bridge import Bridge
from portal.luna.broker import Broker


def run_bridge(settings: Settings, database: Database, stop: threading.Event) -> None:
    """Carry messages until `stop` is set."""

    def person_of(public_id: str) -> Person | None:
        with database.read() as connection:
            found = people.user_of_public_id(connection, public_id)
        return found.person(None, "bridge") if found is not None and found.is_active else None

    desk = Analyses(settings, database, Road(settings).put)
    Bridge(Broker(settings.bridge), desk, person_of).run(stop)
