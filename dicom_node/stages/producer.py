"""Who made the results: this installation, as its objects name it."""

from __future__ import annotations

from dicom_node.results import Producer
from dicom_node.settings import Settings
from dicom_node.stages.context import Tools


def manufacturer(settings: Settings) -> str:
    """(0008,0070) of every object the node makes; by it the listener knows its own results again (I18)."""
    return settings.node.organisation or "dicom-ai-node"


def producer(tools: Tools) -> Producer:
    """This installation, as its results name it."""
    node = tools.settings.node
    return Producer(
        manufacturer=manufacturer(tools.settings),
        product="dicom-ai-node",
        version=tools.version,
        instance_id=tools.node_instance,
        contact=node.contact,
        is_research_use_only=node.research_use_only,
    )
