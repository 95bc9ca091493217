"""Who made the results: this installation, as its objects name it."""

from __future__ import annotations

from dicom_node.results import Producer
from dicom_node.settings import Settings
from dicom_node.stages.context import Tools
from dicom_node.words import PRODUCT


def producer(tools: Tools) -> Producer:
    """This installation, as its results name it."""
    return producer_of(tools.settings, tools.version, tools.node_instance)


def producer_of(settings: Settings, version: str, instance_id: str) -> Producer:
    """An installation with these settings, as its results name it."""
    node = settings.node
    return Producer(
        manufacturer=node.organisation or PRODUCT,
        product=PRODUCT,
        version=version,
        instance_id=instance_id,
        contact=node.contact,
        is_research_use_only=node.research_use_only,
    )
