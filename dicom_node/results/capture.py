"""The reading as a picture for viewers that show no report: Secondary Capture (PS3.3 A.8.1, C.8.6).

True colour, native, one frame.  That nobody has reviewed it and that it measures nothing is burnt into the pixels,
beside photograph and heat map; no spatial attribute says where a pixel lies on anybody.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from ai_engine.findings import Code
from dicom_node.results import text
from dicom_node.results.objects import Job, code_item, finish, image_item, stamp
from dicom_node.results.phrases import words
from dicom_node.words import ObjectKind, Picture, ResultObject

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.7"
_PURPOSE = Code("121322", "DCM", "Source image for image processing operation")
_LATERALITIES = ("R", "L", "B", "U")


def build_capture(job: Job, picture: Picture, pixels: npt.NDArray[np.uint8]) -> ResultObject:
    """Wrap the picture of a reading.

    Parameters
    ----------
    pixels
        (rows, columns, 3) uint8, from `dicom_node.results.heat.reading_picture`.
    """
    capture = Dataset()
    capture.SOPClassUID = SOP_CLASS_UID
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.ConversionType = "WSD"
    capture.BurnedInAnnotation = "YES"
    capture.RecognizableVisualFeatures = "NO"
    capture.DerivationDescription = text.cut(words("en")["heat_legend"], text.ST_MAX)
    source = image_item(job.sources.series[0].images[0])
    source.PurposeOfReferenceCodeSequence = [code_item(_PURPOSE)]
    capture.SourceImageSequence = [source]
    capture.PatientOrientation = ""
    capture.ImageLaterality = picture.laterality if picture.laterality in _LATERALITIES else "U"
    if job.sources.lossy is not None:
        capture.LossyImageCompression = "01"
        ratios, methods = job.sources.lossy
        if ratios and len(ratios) == len(methods):
            capture.LossyImageCompressionRatio = list(ratios)
            capture.LossyImageCompressionMethod = list(methods)
    capture.SamplesPerPixel = 3
    capture.PhotometricInterpretation = "RGB"
    capture.PlanarConfiguration = 0
    capture.Rows, capture.Columns = pixels.shape[:2]
    capture.BitsAllocated = capture.BitsStored = 8
    capture.HighBit = 7
    capture.PixelRepresentation = 0
    data = np.ascontiguousarray(pixels).tobytes()
    stamp(capture, job, ObjectKind.SC, "OT")
    capture.add_new(0x7FE00010, "OW", data + b"\0" * (len(data) % 2))
    return finish(capture, ObjectKind.SC)
