"""Every reason for which the node says no, with the fixed words people read.

One vocabulary for the C-STORE error comment, HTTP problems, job states, reports and metric labels.  The words are fixed
per code and never hold input data; `Refusal.expected` and `Refusal.found` hold numbers and standard terms only.

Three kinds of trouble: the input is wrong (`Refused`), the world is wrong (`PeerTrouble`: try again later), we are
wrong (any other exception: a fault that fails loudly).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RefusalCode(StrEnum):
    """Stable codes; the value is what travels."""

    TOO_BUSY = "too-busy"
    STORAGE_FULL = "storage-full"
    NOT_READY = "not-ready"
    NOT_AUTHORISED = "not-authorised"
    UNAUTHENTICATED = "unauthenticated"
    SOP_CLASS_UNSUPPORTED = "sop-class-unsupported"
    TRANSFER_SYNTAX_UNSUPPORTED = "transfer-syntax-unsupported"
    UID_MISMATCH = "uid-mismatch"
    NOT_DICOM = "not-dicom"
    DICOM_TRUNCATED = "dicom-truncated"
    DICOM_MALFORMED = "dicom-malformed"
    NESTING_TOO_DEEP = "nesting-too-deep"
    UID_INVALID = "uid-invalid"
    UID_CONFLICT = "uid-conflict"
    TOO_LARGE = "too-large"
    DECOMPRESSION_BOMB = "decompression-bomb"
    ARCHIVE_BOMB = "archive-bomb"
    ARCHIVE_TOO_MANY_ENTRIES = "archive-too-many-entries"
    ARCHIVE_UNSAFE_PATH = "archive-unsafe-path"
    ARCHIVE_UNSAFE_ENTRY = "archive-unsafe-entry"
    ARCHIVE_ENCRYPTED = "archive-encrypted"
    ARCHIVE_NESTED = "archive-nested"
    ARCHIVE_DAMAGED = "archive-damaged"
    PREAMBLE_EXECUTABLE = "preamble-executable"
    PATIENT_CONFLICT = "patient-conflict"
    PATIENT_UNIDENTIFIED = "patient-unidentified"
    GEOMETRY_MISSING = "geometry-missing"
    GEOMETRY_INVALID = "geometry-invalid"
    GEOMETRY_INCONSISTENT = "geometry-inconsistent"
    GEOMETRY_NOT_ORTHOGONAL = "geometry-not-orthogonal"
    GANTRY_TILT = "gantry-tilt"
    ORIENTATION_UNSUPPORTED = "orientation-unsupported"
    SLICES_MISSING = "slices-missing"
    SLICE_SPACING_NONUNIFORM = "slice-spacing-nonuniform"
    SLICES_DUPLICATED = "slices-duplicated"
    TOO_FEW_SLICES = "too-few-slices"
    SERIES_INCOMPLETE = "series-incomplete"
    SERIES_MIXED = "series-mixed"
    PIXEL_DATA_MISSING = "pixel-data-missing"
    PIXEL_DATA_LENGTH = "pixel-data-length"
    PIXEL_DECODE_FAILED = "pixel-decode-failed"
    PIXEL_FORMAT_UNSUPPORTED = "pixel-format-unsupported"
    PHOTOMETRIC_UNSUPPORTED = "photometric-unsupported"
    RESCALE_INVALID = "rescale-invalid"
    IMAGE_BLANK = "image-blank"
    MODALITY_UNSUPPORTED = "modality-unsupported"
    PROTOCOL_UNSUPPORTED = "protocol-unsupported"
    OUT_OF_DISTRIBUTION = "out-of-distribution"
    REGISTRATION_FAILED = "registration-failed"
    BRAIN_NOT_FOUND = "brain-not-found"
    ROLES_UNFILLED = "roles-unfilled"
    ROLES_AMBIGUOUS = "roles-ambiguous"
    NOT_NIFTI = "not-nifti"
    NIFTI_TRUNCATED = "nifti-truncated"
    NIFTI_HEADER_INVALID = "nifti-header-invalid"
    NIFTI_SIZE_MISMATCH = "nifti-size-mismatch"
    NIFTI_DIMENSIONS = "nifti-dimensions"
    NIFTI_DATATYPE_UNSUPPORTED = "nifti-datatype-unsupported"
    NIFTI_VALUES_INVALID = "nifti-values-invalid"
    NIFTI_UNITS_MISSING = "nifti-units-missing"
    NIFTI_ORIENTATION_MISSING = "nifti-orientation-missing"
    NIFTI_ORIENTATION_CONFLICT = "nifti-orientation-conflict"
    NIFTI_NOT_ORTHOGONAL = "nifti-not-orthogonal"
    GZIP_DAMAGED = "gzip-damaged"
    IMAGE_IS_LABEL_MAP = "image-is-label-map"
    NOT_AN_IMAGE = "not-an-image"
    IMAGE_TYPE_UNSUPPORTED = "image-type-unsupported"
    IMAGE_TYPE_MISMATCH = "image-type-mismatch"
    IMAGE_TRUNCATED = "image-truncated"
    IMAGE_DECODE_FAILED = "image-decode-failed"
    IMAGE_TOO_LARGE = "image-too-large"
    IMAGE_ANIMATED = "image-animated"
    IMAGE_MODE_UNSUPPORTED = "image-mode-unsupported"
    IMAGE_TRAILING_DATA = "image-trailing-data"
    IMAGE_TOO_SMALL = "image-too-small"
    IMAGE_EXPOSURE = "image-exposure"
    IMAGE_TOO_BLURRED = "image-too-blurred"
    NO_LESION_IN_VIEW = "no-lesion-in-view"
    NOT_SKIN = "not-skin"
    PICTURE_KIND_UNSUPPORTED = "picture-kind-unsupported"
    PICTURE_KIND_CONTRADICTED = "picture-kind-contradicted"
    BASE64_INVALID = "base64-invalid"
    INPUT_EMPTY = "input-empty"
    VALIDATION = "validation"
    IDEMPOTENCY_CONFLICT = "idempotency-conflict"
    MODEL_UNTRUSTED = "model-untrusted"
    MODEL_HASH_MISMATCH = "model-hash-mismatch"
    BACKEND_MISSING = "backend-missing"
    VARIANT_NOT_OFFERED = "variant-not-offered"
    PATIENT_CHANGED = "patient-changed"
    DELIVERY_CONFLICT = "delivery-conflict"
    DELIVERY_INCOMPLETE = "delivery-incomplete"
    RESULT_CHECK_FAILED = "result-check-failed"
    ISSUER_UNMAPPED = "issuer-unmapped"
    PATIENT_NOT_FOUND = "patient-not-found"
    PATIENT_AMBIGUOUS = "patient-ambiguous"
    PATIENT_CONTRADICTED = "patient-contradicted"
    PUBLICATION_BARRED = "publication-barred"
    PEER_REJECTED = "peer-rejected"
    REMOVED = "removed"


_C = RefusalCode

WORDS: dict[RefusalCode, tuple[str, str]] = {
    _C.TOO_BUSY: ("The node has too much to do.", "Send again in a few minutes."),
    _C.STORAGE_FULL: ("The node's disk is nearly full.", "Free space or enlarge the data disk; then send again."),
    _C.NOT_READY: ("The node is not ready.", "Ask /readyz or `ai-node doctor` for the reason."),
    _C.NOT_AUTHORISED: ("The sender is not allowed to do this.", "Add the sender to the configuration."),
    _C.UNAUTHENTICATED: ("The caller did not say who it is.", "Send a valid API key."),
    _C.SOP_CLASS_UNSUPPORTED: ("This kind of DICOM object is not read.", "See the conformance table for what is."),
    _C.TRANSFER_SYNTAX_UNSUPPORTED: ("This encoding is not read.", "Send it in one of the accepted transfer syntaxes."),
    _C.UID_MISMATCH: ("The command and the data set name different objects.", "Repair the sender."),
    _C.NOT_DICOM: ("This is not a DICOM object.", "Send DICOM Part 10 files."),
    _C.DICOM_TRUNCATED: ("The DICOM object is cut off.", "Send the object again from its origin."),
    _C.DICOM_MALFORMED: ("The DICOM object cannot be read.", "Check the object with dciodvfy or dcmdump."),
    _C.NESTING_TOO_DEEP: ("Sequences are nested too deeply.", "Remove private sequences at the origin."),
    _C.UID_INVALID: ("A UID is empty, too long or has characters that are not allowed.", "Repair the sender."),
    _C.UID_CONFLICT: ("One UID stands for two different contents.", "Decide which is right: `ai-node held`."),
    _C.TOO_LARGE: ("The input is larger than the limit.", "Send less, or raise the limit in node.yaml."),
    _C.DECOMPRESSION_BOMB: ("The input unpacks to more than the limit.", "Send it uncompressed or in parts."),
    _C.ARCHIVE_BOMB: ("The archive unpacks to more than the limit.", "Send a smaller archive."),
    _C.ARCHIVE_TOO_MANY_ENTRIES: ("The archive holds too many files.", "Send one study per archive."),
    _C.ARCHIVE_UNSAFE_PATH: ("The archive names paths outside itself.", "Pack the study again."),
    _C.ARCHIVE_UNSAFE_ENTRY: ("The archive holds links or devices.", "Pack plain files only."),
    _C.ARCHIVE_ENCRYPTED: ("The archive is encrypted.", "Send it without a password."),
    _C.ARCHIVE_NESTED: ("The archive holds another archive.", "Pack plain files only."),
    _C.ARCHIVE_DAMAGED: ("The archive is damaged.", "Pack the study again."),
    _C.PREAMBLE_EXECUTABLE: (
        "The file's first bytes are those of a program.",
        "Do not send it; ask where it came from.",
    ),
    _C.PATIENT_CONFLICT: ("Objects of one study name different patients.", "Correct the study at its origin."),
    _C.PATIENT_UNIDENTIFIED: (
        "The patient identifier is empty, a placeholder, or has no known issuer.",
        "Map the issuer in node.yaml, or correct the study and release it.",
    ),
    _C.GEOMETRY_MISSING: ("A slice has no position, orientation or spacing.", "Send the original images."),
    _C.GEOMETRY_INVALID: ("Position, orientation or spacing is not possible.", "Send the original images."),
    _C.GEOMETRY_INCONSISTENT: (
        "Slices differ in orientation, matrix, spacing or frame of reference.",
        "Send the original series, not a mixture.",
    ),
    _C.GEOMETRY_NOT_ORTHOGONAL: ("The grid is not at right angles.", "Send an orthogonal reconstruction."),
    _C.GANTRY_TILT: ("The slices are sheared against each other (gantry tilt).", "Send an untilted reconstruction."),
    _C.ORIENTATION_UNSUPPORTED: ("The model does not read this slice orientation.", "Send the orientation it names."),
    _C.SLICES_MISSING: ("There is a gap between slices.", "Send the missing slices; a new revision starts by itself."),
    _C.SLICE_SPACING_NONUNIFORM: ("The distance between slices changes.", "Send the original series."),
    _C.SLICES_DUPLICATED: ("Two different images have the same position.", "Send the series without repeats."),
    _C.TOO_FEW_SLICES: ("There are fewer slices than needed.", "Send the whole series."),
    _C.SERIES_INCOMPLETE: ("Fewer images arrived than were announced.", "Send the missing images."),
    _C.SERIES_MIXED: (
        "The series mixes images that are not one stack.",
        "Send one stack per series, and one photograph; several are read by a route with `cases: one-per-series`.",
    ),
    _C.PIXEL_DATA_MISSING: ("There is no pixel data.", "Send images."),
    _C.PIXEL_DATA_LENGTH: ("Pixel data is shorter or longer than the header says.", "Send the object again."),
    _C.PIXEL_DECODE_FAILED: ("Pixel data could not be decoded.", "Send it in another transfer syntax."),
    _C.PIXEL_FORMAT_UNSUPPORTED: (
        "This pixel format is not read for this modality.",
        "Send the originals: grey-scale slices, or photographs in colour.",
    ),
    _C.PHOTOMETRIC_UNSUPPORTED: (
        "This photometric interpretation is not read.",
        "Send the originals: grey-scale slices, or photographs in RGB or YBR_FULL_422.",
    ),
    _C.RESCALE_INVALID: ("Rescale slope or intercept is missing or not possible.", "Send the original images."),
    _C.IMAGE_BLANK: ("The images hold no picture.", "Check the acquisition; a blank is not a negative result."),
    _C.MODALITY_UNSUPPORTED: ("The model does not read this modality.", "See the model's card."),
    _C.PROTOCOL_UNSUPPORTED: ("The model does not read this kind of acquisition.", "See the model's card."),
    _C.OUT_OF_DISTRIBUTION: ("The images are unlike those the model was made for.", "See the model's card."),
    _C.REGISTRATION_FAILED: (
        "The sequences of this study could not be laid on each other with confidence.",
        "See whether all series show the same head, whole; use a model that needs one sequence.",
    ),
    _C.BRAIN_NOT_FOUND: (
        "The brain could not be cut out of the head with confidence.",
        "Use a model made for native heads, or send a skull-stripped study.",
    ),
    _C.ROLES_UNFILLED: (
        "No series of the study fills a role that the model needs.",
        "`ai-node routes explain` shows which clause failed.",
    ),
    _C.ROLES_AMBIGUOUS: (
        "More than one reading of the series is possible.",
        "`ai-node routes explain` shows the candidates.",
    ),
    _C.NOT_NIFTI: ("This is not a NIfTI file.", "Give a .nii or .nii.gz file."),
    _C.NIFTI_TRUNCATED: ("The NIfTI file is cut off.", "Write the file again."),
    _C.NIFTI_HEADER_INVALID: ("The NIfTI header is not possible.", "Write the file again."),
    _C.NIFTI_SIZE_MISMATCH: ("The NIfTI header and the file's size disagree.", "Write the file again."),
    _C.NIFTI_DIMENSIONS: ("The NIfTI file is not one three-dimensional image.", "Give one volume per file."),
    _C.NIFTI_DATATYPE_UNSUPPORTED: (
        "This NIfTI data type is not read.",
        "Use int16, uint8, int32, float32 or float64.",
    ),
    _C.NIFTI_VALUES_INVALID: ("The NIfTI image holds values that are not finite.", "Repair the image."),
    _C.NIFTI_UNITS_MISSING: (
        "The NIfTI header does not say that lengths are millimetres.",
        "Declare them with --spacing-mm X,Y,Z.",
    ),
    _C.NIFTI_ORIENTATION_MISSING: ("The NIfTI header gives no orientation.", "Write sform or qform with a code."),
    _C.NIFTI_ORIENTATION_CONFLICT: ("sform and qform disagree.", "Make them agree, or drop one."),
    _C.NIFTI_NOT_ORTHOGONAL: ("The NIfTI grid is not at right angles.", "Resample to an orthogonal grid."),
    _C.GZIP_DAMAGED: ("The gzip stream is damaged.", "Compress the file again."),
    _C.IMAGE_IS_LABEL_MAP: (
        "This file is a label map, not an image: whole numbers, and few of them.",
        "Send the image that the labels were drawn on.",
    ),
    _C.NOT_AN_IMAGE: ("This file is not a picture.", "Send the photograph as JPEG, PNG or WebP."),
    _C.IMAGE_TYPE_UNSUPPORTED: (
        "This kind of picture file is not read.",
        "Send JPEG, PNG or WebP; a telephone that makes HEIC has a setting for JPEG (most compatible).",
    ),
    _C.IMAGE_TYPE_MISMATCH: (
        "The picture is of another type than the one it is said to be.",
        "Name its real type, or leave the type out.",
    ),
    _C.IMAGE_TRUNCATED: ("The picture is cut off.", "Send the file again from where it was taken."),
    _C.IMAGE_DECODE_FAILED: (
        "The picture is damaged and cannot be decoded.",
        "Send the file again from where it was taken, as JPEG or PNG.",
    ),
    _C.IMAGE_TOO_LARGE: ("The picture has more pixels or bytes than the limit.", "Send it smaller."),
    _C.IMAGE_ANIMATED: ("The file holds more than one picture.", "Send one still picture in each file."),
    _C.IMAGE_MODE_UNSUPPORTED: (
        "The picture's colours are of a kind that is not read.",
        "Save it as an RGB (sRGB) JPEG or PNG and send that.",
    ),
    _C.IMAGE_TRAILING_DATA: (
        "The file holds something else besides the picture.",
        "Do not send it as it is; save the picture alone, and ask where the file came from.",
    ),
    _C.IMAGE_TOO_SMALL: (
        "The picture is too small or too narrow.",
        "Send the whole picture in full size, as the camera took it.",
    ),
    _C.IMAGE_EXPOSURE: (
        "The picture is too dark or too bright to be read.",
        "Take it again: switch the dermatoscope's light on, hold it flat on the skin, avoid glare.",
    ),
    _C.IMAGE_TOO_BLURRED: (
        "The picture is blurred.",
        "Take it again: hold still, let the camera focus, move closer until the lesion is sharp.",
    ),
    _C.NO_LESION_IN_VIEW: (
        "No lesion can be seen in the picture.",
        "Put the lesion in the middle and move closer, with some skin around it.",
    ),
    _C.NOT_SKIN: ("This does not look like a picture of skin.", "Send a dermatoscope picture of one skin lesion."),
    _C.PICTURE_KIND_UNSUPPORTED: (
        "This model reads dermatoscope pictures; this is a plain photograph.",
        "Take the picture through a dermatoscope.",
    ),
    _C.PICTURE_KIND_CONTRADICTED: (
        "The picture is not of the kind that its sender declared.",
        "Look at the picture: was it taken through a dermatoscope? Send it again with the right declaration.",
    ),
    _C.BASE64_INVALID: (
        "The picture is not written in base64 as it should be.",
        "Encode it as RFC 4648 section 4 says, without line breaks, or send a multipart form.",
    ),
    _C.INPUT_EMPTY: ("There is nothing to read.", "Give at least one image."),
    _C.VALIDATION: ("The request is not valid.", "See the message for the field."),
    _C.IDEMPOTENCY_CONFLICT: (
        "This Idempotency-Key was used for another request.",
        "Take a new key for a new request; repeat the old one byte by byte.",
    ),
    _C.MODEL_UNTRUSTED: ("The model package holds files its manifest does not name.", "Import the model again."),
    _C.MODEL_HASH_MISMATCH: ("A file of the model package is not the one its manifest names.", "Import it again."),
    _C.BACKEND_MISSING: (
        "The program that this setting needs is not installed.",
        "Install the extra it names (`make setup-test` has them all), or set engine.backend to auto.",
    ),
    _C.VARIANT_NOT_OFFERED: (
        "The model was not shown to be accurate enough under these settings.",
        "Use the package's own settings, or see its gate.json: `ai-node models gate`.",
    ),
    _C.PATIENT_CHANGED: ("The archive's patient differs from the one received.", "Decide with `ai-node held`."),
    _C.DELIVERY_CONFLICT: ("The destination holds other bytes under our UID.", "Decide with `ai-node held`."),
    _C.DELIVERY_INCOMPLETE: ("The destination does not show what it said it stored.", "Decide with `ai-node held`."),
    _C.RESULT_CHECK_FAILED: ("A result object did not pass our own check before sending.", "Report this as a fault."),
    _C.ISSUER_UNMAPPED: (
        "The issuer of the patient identifier has no FHIR identifier system.",
        "Map the issuer in node.yaml; then release it with `ai-node held`.",
    ),
    _C.PATIENT_NOT_FOUND: (
        "The FHIR server has no active Patient with this identifier.",
        "Create the Patient there; then release it with `ai-node held`.",
    ),
    _C.PATIENT_AMBIGUOUS: (
        "The FHIR server has more than one Patient for this identifier.",
        "Merge the Patients there; then release it with `ai-node held`.",
    ),
    _C.PATIENT_CONTRADICTED: (
        "The FHIR server's records contradict the patient of the images.",
        "Find out which is right; then release or reject it with `ai-node held`.",
    ),
    _C.PUBLICATION_BARRED: (
        "The images are de-identified or of a quality control subject; such results are not published.",
        "Send the patient's own images.",
    ),
    _C.PEER_REJECTED: (
        "The receiving system rejected the result for good.",
        "See what it found; correct its configuration or ours; then release it with `ai-node held`.",
    ),
    _C.REMOVED: (
        "This was deleted by the rules of retention of this node.",
        "The archive may have its own copy. To have it read again here, send the whole series again.",
    ),
}


@dataclass(frozen=True)
class Refusal:
    """A named reason: what was expected, what was found, what to do.  Never patient data."""

    code: RefusalCode
    expected: str = ""
    found: str = ""

    @property
    def message(self) -> str:
        return WORDS[self.code][0]

    @property
    def advice(self) -> str:
        return WORDS[self.code][1]

    def to_json(self) -> dict[str, str]:
        return {
            "code": self.code.value,
            "message": self.message,
            "expected": self.expected,
            "found": self.found,
            "advice": self.advice,
        }


class Refused(Exception):
    """The input is wrong: permanent, told to whoever sent it."""

    def __init__(self, code: RefusalCode, expected: str = "", found: str = "") -> None:
        self.refusal = Refusal(code, expected, found)
        super().__init__(code.value)

    def __reduce__(self) -> tuple[type[Refused], tuple[RefusalCode, str, str]]:
        return Refused, (self.refusal.code, self.refusal.expected, self.refusal.found)


class PeerTrouble(Exception):
    """The world is wrong: a peer is down, slow or answered strangely.  Temporary; retried with a bound.

    `is_down`: the peer as a whole is in trouble; False where it works and only this one thing does not go.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, is_down: bool = True) -> None:
        self.retry_after_s = retry_after_s
        self.is_down = is_down
        super().__init__(message)
