"""Model packages: folders of data that say what a model is, and are opened only when every byte is accounted for.

Implements design section 6 and hardening I9, I25 and section 5 ("unknown file in the folder = refused", "load from the
bytes that were hashed").  The public verb is `load_package`; `find_package` looks a name up, `seal_package` writes the
manifest.  Importing this room needs neither torch nor openvino nor nnunetv2.

Guaranteed: nothing in a package is executed, unpickled or imported, and no name from outside becomes a path.  Not
guaranteed: that a package is *good*; a digest can be pinned in the configuration, but packages are not signed yet.
"""

from ai_engine.packages.classification import Classification
from ai_engine.packages.schema import (
    AnyDescription,
    Composite,
    Description,
    DescriptionError,
    Input,
    Label,
    MeasurementName,
    Patient,
    Postprocessing,
    StudyPreparation,
    Task,
    Threshold,
)
from ai_engine.packages.store import (
    ModelPackage,
    find_package,
    list_packages,
    load_package,
    seal_package,
    segmentation_of,
)

__all__ = [
    "AnyDescription",
    "Classification",
    "Composite",
    "Description",
    "DescriptionError",
    "Input",
    "Label",
    "MeasurementName",
    "ModelPackage",
    "Patient",
    "Postprocessing",
    "StudyPreparation",
    "Task",
    "Threshold",
    "find_package",
    "list_packages",
    "load_package",
    "seal_package",
    "segmentation_of",
]
