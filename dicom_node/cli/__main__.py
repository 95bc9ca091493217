"""So that ``python -m dicom_node.cli`` is ``ai-node``."""

from dicom_node.cli import main

main()
