"""Whose photograph: an identifier as it was typed or scanned becomes one that archives and servers know somebody by.

Pure checks of the identifiers that a site uses (`normalised`), and one question to the site's FHIR server (`look_up`).
Nothing here creates a patient, and nothing guesses: what was not found was not found.
"""

from dicom_node.identity.checks import normalised
from dicom_node.identity.lookup import LookedUp, look_up, patient_server

__all__ = ["LookedUp", "look_up", "normalised", "patient_server"]
