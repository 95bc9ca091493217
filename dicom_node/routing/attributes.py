"""What a clause of a route may ask about: a closed list, without anything that identifies a patient.

DICOM elements keep their keywords; the others are computed by `dicom_node.routing.facts`.  Patient names, identifiers
and birth dates are not in the list: a route that needs them would put them into logs and explanations.
"""

from __future__ import annotations

_OF_THE_DATA_SET = """
    Modality SOPClassUID TransferSyntaxUID Manufacturer ManufacturerModelName StudyDescription SeriesDescription
    ProtocolName SeriesNumber AcquisitionNumber BodyPartExamined ImageType ScanningSequence SequenceVariant ScanOptions
    SequenceName PulseSequenceName EchoPulseSequence MRAcquisitionType AcquisitionContrast EchoTime RepetitionTime
    InversionTime FlipAngle EchoTrainLength MagneticFieldStrength DiffusionBValue ContrastBolusAgent
    NumberOfTemporalPositions ConvolutionKernel RescaleType SliceThickness SpacingBetweenSlices Rows Columns
    SamplesPerPixel PhotometricInterpretation PatientPosition BurnedInAnnotation LossyImageCompression
    QualityControlSubject PatientIdentityRemoved AnatomicRegionCode AnatomicRegionScheme ImageLaterality DeclaredPicture
"""
DICOM_ATTRIBUTES = frozenset(_OF_THE_DATA_SET.split())
"""Elements of the data set, as the series' lowest slice has them; all are among those that the node keeps."""

_COMPUTED = """
    NumberOfInstances NumberOfSlices NumberOfOrientations SliceStepMm SpacingMm Plane AcquiredAt EchoTimes
    DiffusionBValues CallingAETitle PatientAgeYears
"""
COMPUTED_ATTRIBUTES = frozenset(_COMPUTED.split())
"""What `facts` adds."""

ROUTE_ATTRIBUTES = DICOM_ATTRIBUTES | COMPUTED_ATTRIBUTES

ROLES = ("t1", "t1c", "t2", "flair", "pd", "dwi", "adc", "swi", "t2star")
"""Sequence roles a model may ask for."""

PHOTOGRAPH = "dermoscopy"
"""Role of a photograph of skin.  Whether it was taken through a dermatoscope is for the model's quality gate to see."""

OTHER_ROLES = ("localizer", "derived", "own-result", "other")
"""What a series is when it is none of `ROLES`; never given to a model as a sequence."""

ANY_IMAGE = "image"
"""Role of a route that reads any series its clauses accept, whatever its sequence (CT, radiographs)."""
