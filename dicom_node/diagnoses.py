"""What histology may have said of a skin lesion: a closed list, so that outcomes can be counted and name no patient.

*Malignant* means here what the shipped models were taught to mean: melanoma, basal and squamous cell carcinoma, and
their early forms, actinic keratosis and Bowen disease among them.
"""

from __future__ import annotations

MELANOMAS = ("melanoma", "melanoma-in-situ", "lentigo-maligna")
MALIGNANT = (
    *MELANOMAS,
    "basal-cell-carcinoma",
    "squamous-cell-carcinoma",
    "bowen-disease",
    "actinic-keratosis",
    "other-malignant",
)
BENIGN = (
    "naevus",
    "dysplastic-naevus",
    "seborrhoeic-keratosis",
    "solar-lentigo",
    "dermatofibroma",
    "vascular-lesion",
    "other-benign",
)
DIAGNOSES = (*MALIGNANT, *BENIGN)
