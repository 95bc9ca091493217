"""The attributes that the node keeps of every instance: a closed list, each with its tag and VR (PS3.6).

Nothing else of a header travels.  The list serves four readers: the gate of identity, routing, geometry and pixels.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """One kept element: its keyword, its VR, and whether its value is always a list."""

    keyword: str
    vr: str
    is_list: bool = False


def _table(text: str) -> dict[int, Attribute]:
    table = {}
    for line in text.split("\n"):
        if fields := line.split():
            table[int(fields[0], 16)] = Attribute(fields[2], fields[1], "*" in fields[3:])
    return table


TOP_LEVEL = _table(
    """
    00080005 CS SpecificCharacterSet *
    00080008 CS ImageType *
    00080016 UI SOPClassUID
    00080018 UI SOPInstanceUID
    00080020 DA StudyDate
    00080021 DA SeriesDate
    00080022 DA AcquisitionDate
    00080023 DA ContentDate
    0008002A DT AcquisitionDateTime
    00080030 TM StudyTime
    00080031 TM SeriesTime
    00080032 TM AcquisitionTime
    00080033 TM ContentTime
    00080050 SH AccessionNumber
    00080060 CS Modality
    00080070 LO Manufacturer
    00080201 SH TimezoneOffsetFromUTC
    00081010 SH StationName
    00081030 LO StudyDescription
    0008103E LO SeriesDescription
    00081090 LO ManufacturerModelName
    00089205 CS PixelPresentation
    00089206 CS VolumetricProperties
    00089208 CS ComplexImageComponent
    00089209 CS AcquisitionContrast
    00100010 PN PatientName
    00100020 LO PatientID
    00100021 LO IssuerOfPatientID
    00100030 DA PatientBirthDate
    00100040 CS PatientSex
    00100200 CS QualityControlSubject
    00101010 AS PatientAge
    00102201 LO PatientSpeciesDescription
    00120062 CS PatientIdentityRemoved
    00180010 LO ContrastBolusAgent
    00180015 CS BodyPartExamined
    00180020 CS ScanningSequence *
    00180021 CS SequenceVariant *
    00180022 CS ScanOptions *
    00180023 CS MRAcquisitionType
    00180024 SH SequenceName
    00180050 DS SliceThickness
    00180080 DS RepetitionTime
    00180081 DS EchoTime
    00180082 DS InversionTime
    00180086 IS EchoNumbers
    00180087 DS MagneticFieldStrength
    00180088 DS SpacingBetweenSlices
    00180091 IS EchoTrainLength
    00181030 LO ProtocolName
    00181060 DS TriggerTime
    00181164 DS ImagerPixelSpacing
    00181210 SH ConvolutionKernel
    00181314 DS FlipAngle
    00185100 CS PatientPosition
    00189005 SH PulseSequenceName
    00189008 CS EchoPulseSequence
    00189073 FD AcquisitionDuration
    00189087 FD DiffusionBValue
    0020000D UI StudyInstanceUID
    0020000E UI SeriesInstanceUID
    00200010 SH StudyID
    00200011 IS SeriesNumber
    00200012 IS AcquisitionNumber
    00200013 IS InstanceNumber
    00200032 DS ImagePositionPatient *
    00200037 DS ImageOrientationPatient *
    00200052 UI FrameOfReferenceUID
    00200060 CS Laterality
    00200062 CS ImageLaterality
    00200100 IS TemporalPositionIdentifier
    00200105 IS NumberOfTemporalPositions
    00201002 IS ImagesInAcquisition
    00280002 US SamplesPerPixel
    00280004 CS PhotometricInterpretation
    00280006 US PlanarConfiguration
    00280008 IS NumberOfFrames
    00280010 US Rows
    00280011 US Columns
    00280030 DS PixelSpacing *
    00280100 US BitsAllocated
    00280101 US BitsStored
    00280102 US HighBit
    00280103 US PixelRepresentation
    00280120 XS PixelPaddingValue
    00280121 XS PixelPaddingRangeLimit
    00280301 CS BurnedInAnnotation
    00280302 CS RecognizableVisualFeatures
    00281052 DS RescaleIntercept
    00281053 DS RescaleSlope
    00281054 LO RescaleType
    00282002 CS ColorSpace
    00282110 CS LossyImageCompression
    00282112 DS LossyImageCompressionRatio *
    00282114 CS LossyImageCompressionMethod *
    """
)
"""Elements of the main data set.  XS: US or SS, as Pixel Representation says."""

MACROS = {
    0x00209113: _table("00200032 DS ImagePositionPatient *"),
    0x00209116: _table("00200037 DS ImageOrientationPatient *"),
    0x00289110: _table(
        """
        00180050 DS SliceThickness
        00180088 DS SpacingBetweenSlices
        00280030 DS PixelSpacing *
        """
    ),
    0x00289145: _table(
        """
        00281052 DS RescaleIntercept
        00281053 DS RescaleSlope
        00281054 LO RescaleType
        """
    ),
    0x00189112: _table(
        """
        00180080 DS RepetitionTime
        00181314 DS FlipAngle
        00180091 IS EchoTrainLength
        """
    ),
    0x00189114: _table("00189082 FD EchoTime"),
    0x00189115: _table("00189079 FD InversionTime"),
    0x00189117: _table("00189087 FD DiffusionBValue"),
    0x00189226: _table(
        """
        00089007 CS ImageType *
        00089208 CS ComplexImageComponent
        00089209 CS AcquisitionContrast
        """
    ),
    0x00189329: _table("00089007 CS ImageType *"),
    0x00189341: _table("00189342 CS ContrastBolusAgentAdministered"),
    0x00209111: _table(
        """
        00189074 DT AcquisitionDateTime
        00209056 SH StackID
        00209057 UL InStackPositionNumber
        00209128 UL TemporalPositionIdentifier
        """
    ),
}
"""Functional group macros of enhanced images (PS3.3 C.7.6.16.2 and C.8.13.5) under the keywords of the classic ones."""

SHARED_GROUPS = 0x52009229
PER_FRAME_GROUPS = 0x52009230
ANATOMIC_REGION = 0x00082218
ACQUISITION_CONTEXT = 0x00400555
CONCEPT_NAME, CONCEPT_CODE = 0x0040A043, 0x0040A168
CODE_ELEMENTS = _table(
    """
    00080100 SH CodeValue
    00080102 SH CodingSchemeDesignator
    00080104 LO CodeMeaning
    00080119 UC LongCodeValue
    """
)
"""Of an item of a code sequence (PS3.3 table 8.8-1)."""
ICC_PROFILE = 0x00282000

CONTRAST_SEQUENCES = frozenset({0x00180012, 0x00180014})

UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
