"""What is wrong and what to do, in Spanish: the refusals that whoever sends a photograph, or asks by HTTP, can act on.

The English words are `refusals.WORDS`; a code that is not here is said in English rather than half translated.
"""

from __future__ import annotations

from collections.abc import Mapping

from dicom_node.refusals import WORDS, RefusalCode

_C = RefusalCode

SPANISH: Mapping[RefusalCode, tuple[str, str]] = {
    _C.IMAGE_TOO_SMALL: (
        "La imagen es demasiado pequeña o demasiado estrecha.",
        "Envíe la imagen entera, a tamaño completo, tal como la tomó la cámara.",
    ),
    _C.IMAGE_EXPOSURE: (
        "La imagen es demasiado oscura o demasiado clara para leerla.",
        "Repítala: encienda la luz del dermatoscopio, apóyelo plano sobre la piel y evite los reflejos.",
    ),
    _C.IMAGE_TOO_BLURRED: (
        "La imagen está borrosa.",
        "Repítala: no se mueva, deje que la cámara enfoque y acérquese hasta ver nítida la lesión.",
    ),
    _C.NO_LESION_IN_VIEW: (
        "No se ve ninguna lesión en la imagen.",
        "Coloque la lesión en el centro y acérquese, con algo de piel alrededor.",
    ),
    _C.NOT_SKIN: (
        "Esto no parece una imagen de piel.",
        "Envíe una imagen de dermatoscopio de una sola lesión cutánea.",
    ),
    _C.PICTURE_KIND_UNSUPPORTED: (
        "Este modelo lee imágenes de dermatoscopio; esta es una fotografía corriente.",
        "Tome la imagen a través de un dermatoscopio.",
    ),
    _C.PICTURE_KIND_CONTRADICTED: (
        "La imagen no es del tipo que declaró quien la envía.",
        "Mire la imagen: ¿se tomó a través de un dermatoscopio? Envíela de nuevo con la declaración correcta.",
    ),
    _C.NOT_AN_IMAGE: ("Este archivo no es una imagen.", "Envíe la fotografía como JPEG, PNG o WebP."),
    _C.IMAGE_TYPE_UNSUPPORTED: (
        "Este tipo de archivo de imagen no se lee.",
        "Envíe JPEG, PNG o WebP; un teléfono que hace HEIC tiene un ajuste para JPEG (más compatible).",
    ),
    _C.IMAGE_TYPE_MISMATCH: (
        "La imagen es de otro tipo que el que se declara.",
        "Nombre su tipo verdadero, o no nombre ninguno.",
    ),
    _C.IMAGE_TRUNCATED: ("La imagen está cortada.", "Envíe de nuevo el archivo desde donde se tomó."),
    _C.IMAGE_DECODE_FAILED: (
        "La imagen está dañada y no se puede decodificar.",
        "Envíe de nuevo el archivo desde donde se tomó, como JPEG o PNG.",
    ),
    _C.IMAGE_TOO_LARGE: ("La imagen tiene más píxeles o bytes que el límite.", "Envíela más pequeña."),
    _C.IMAGE_ANIMATED: ("El archivo contiene más de una imagen.", "Envíe una sola imagen fija en cada archivo."),
    _C.IMAGE_MODE_UNSUPPORTED: (
        "Los colores de la imagen son de un tipo que no se lee.",
        "Guárdela como JPEG o PNG en RGB (sRGB) y envíe esa.",
    ),
    _C.IMAGE_TRAILING_DATA: (
        "El archivo contiene algo más que la imagen.",
        "No lo envíe tal como está; guarde solo la imagen y averigüe de dónde vino el archivo.",
    ),
    _C.BASE64_INVALID: (
        "La imagen no está bien escrita en base64.",
        "Codifíquela según RFC 4648, sección 4, sin saltos de línea, o envíe un formulario multipart.",
    ),
    _C.INPUT_EMPTY: ("No hay nada que leer.", "Envíe al menos una imagen."),
    _C.VALIDATION: ("La petición no es válida.", "El mensaje dice qué campo."),
    _C.TOO_LARGE: ("La entrada es mayor que el límite.", "Envíe menos, o suba el límite en node.yaml."),
    _C.TOO_BUSY: ("El nodo tiene demasiado que hacer.", "Inténtelo de nuevo en unos minutos."),
    _C.NOT_READY: ("El nodo no está listo.", "Pregunte la razón a /readyz o a `ai-node doctor`."),
    _C.IDEMPOTENCY_CONFLICT: (
        "Esta Idempotency-Key se usó para otra petición.",
        "Tome una clave nueva para una petición nueva; repita la antigua byte por byte.",
    ),
    _C.PATIENT_UNIDENTIFIED: (
        "El identificador del paciente está vacío o no tiene emisor conocido.",
        "Envíe el identificador y su sistema.",
    ),
}


def told(code: RefusalCode, language: str) -> tuple[str, str]:
    """What a refusal means and what to do about it; English where it was not translated."""
    return (SPANISH if language == "es" else {}).get(code, WORDS[code])
