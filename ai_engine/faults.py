"""What can go wrong in the engine.

The input being wrong is `dicom_node.refusals.Refused`, or `WrongInput` where models are made and measured.  Everything
else here is a fault of ours or of a model: it fails the run loudly and is never shown as a result.
"""

from __future__ import annotations


class WrongInput(ValueError):
    """What a person gave for training, measuring or packaging is not what it must be.

    Base of `TrainingDataError`, `DatasetError` and `DescriptionError`: the text says what was expected and found, and
    is made to be shown.
    """


class EngineFault(RuntimeError):
    """Base of the engine's own faults; `code` is stable."""

    code = "engine-fault"


class ModelFault(EngineFault):
    """The package cannot be run: its weights, plans and description do not fit each other, or a name is not allowed."""

    code = "model-fault"


class OutputNotFinite(EngineFault):
    """The network answered with NaN or infinity (hardening section 5: fails the job)."""

    code = "output-not-finite"


class ChildDied(EngineFault):
    """The model child ended before it answered; counts as one death of the run (hardening I11)."""

    code = "child-died"


class ChildTimeout(EngineFault):
    """The model child was killed because the job's wall clock ran out."""

    code = "child-timeout"


class MemoryExceeded(EngineFault):
    """The model child was killed because it used more memory than its limit."""

    code = "memory-exceeded"


class Unwanted(EngineFault):
    """The model child was ended in the middle of a job because nobody wants its answer any more: nobody's fault."""

    code = "unwanted"


class ChildFault(EngineFault):
    """The model child answered that it failed; it lives on."""

    code = "child-fault"
