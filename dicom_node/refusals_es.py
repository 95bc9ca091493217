"""What is wrong and what to do, in Spanish: every refusal, because pages tell them to doctors and to who is on duty.

The English words are `refusals.WORDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.refusals import WORDS, RefusalCode
from dicom_node.sayings import said

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
        "Este modelo lee imágenes de dermatoscopio; esta fotografía se tomó sin él.",
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
    _C.STORAGE_FULL: (
        "El disco del nodo está casi lleno.",
        "Libere espacio o amplíe el disco de datos; luego envíe de nuevo.",
    ),
    _C.NOT_AUTHORISED: ("El remitente no puede hacer esto.", "Añada el remitente a la configuración."),
    _C.UNAUTHENTICATED: ("Quien llama no dijo quién es.", "Envíe una clave de API válida."),
    _C.SOP_CLASS_UNSUPPORTED: ("Este tipo de objeto DICOM no se lee.", "La tabla de conformidad dice cuáles se leen."),
    _C.TRANSFER_SYNTAX_UNSUPPORTED: (
        "Esta codificación no se lee.",
        "Envíelo en una de las sintaxis de transferencia aceptadas.",
    ),
    _C.UID_MISMATCH: ("La orden y el conjunto de datos nombran objetos distintos.", "Repare el remitente."),
    _C.NOT_DICOM: ("Esto no es un objeto DICOM.", "Envíe archivos DICOM (Part 10)."),
    _C.DICOM_TRUNCATED: ("El objeto DICOM está cortado.", "Envíelo de nuevo desde su origen."),
    _C.DICOM_MALFORMED: ("El objeto DICOM no se puede leer.", "Revise el objeto con dciodvfy o dcmdump."),
    _C.NESTING_TOO_DEEP: ("Las secuencias están anidadas demasiado.", "Quite en el origen las secuencias privadas."),
    _C.UID_INVALID: ("Un UID está vacío, es demasiado largo o tiene caracteres no permitidos.", "Repare el remitente."),
    _C.UID_CONFLICT: ("Un mismo UID representa dos contenidos distintos.", "Decida cuál es el bueno: `ai-node held`."),
    _C.DECOMPRESSION_BOMB: ("La entrada ocupa desempaquetada más que el límite.", "Envíela sin comprimir o en partes."),
    _C.ARCHIVE_BOMB: ("El archivo zip ocupa desempaquetado más que el límite.", "Envíe un archivo más pequeño."),
    _C.ARCHIVE_TOO_MANY_ENTRIES: ("El archivo zip contiene demasiados archivos.", "Envíe un estudio por zip."),
    _C.ARCHIVE_UNSAFE_PATH: ("El archivo zip nombra rutas fuera de sí mismo.", "Empaquete el estudio de nuevo."),
    _C.ARCHIVE_UNSAFE_ENTRY: ("El archivo zip contiene enlaces o dispositivos.", "Empaquete solo archivos normales."),
    _C.ARCHIVE_ENCRYPTED: ("El archivo zip está cifrado.", "Envíelo sin contraseña."),
    _C.ARCHIVE_NESTED: ("El archivo zip contiene otro.", "Empaquete solo archivos normales."),
    _C.ARCHIVE_DAMAGED: ("El archivo zip está dañado.", "Empaquete el estudio de nuevo."),
    _C.PREAMBLE_EXECUTABLE: (
        "Los primeros bytes del archivo son los de un programa.",
        "No lo envíe; pregunte de dónde vino.",
    ),
    _C.PATIENT_CONFLICT: (
        "Objetos de un mismo estudio nombran pacientes distintos.",
        "Corrija el estudio en su origen.",
    ),
    _C.GEOMETRY_MISSING: ("Un corte no tiene posición, orientación o espaciado.", "Envíe las imágenes originales."),
    _C.GEOMETRY_INVALID: ("Posición, orientación o espaciado no son posibles.", "Envíe las imágenes originales."),
    _C.GEOMETRY_INCONSISTENT: (
        "Los cortes difieren en orientación, matriz, espaciado o marco de referencia.",
        "Envíe la serie original, no una mezcla.",
    ),
    _C.GEOMETRY_NOT_ORTHOGONAL: ("La rejilla no es rectangular.", "Envíe una reconstrucción ortogonal."),
    _C.GANTRY_TILT: (
        "Los cortes están inclinados unos respecto a otros (gantry).",
        "Envíe una reconstrucción sin inclinación.",
    ),
    _C.ORIENTATION_UNSUPPORTED: ("El modelo no lee esta orientación de corte.", "Envíe la orientación que nombra."),
    _C.SLICES_MISSING: (
        "Falta un corte entre otros.",
        "Envíe los cortes que faltan; empieza una revisión nueva por sí sola.",
    ),
    _C.SLICE_SPACING_NONUNIFORM: ("La distancia entre cortes cambia.", "Envíe la serie original."),
    _C.SLICES_DUPLICATED: ("Dos imágenes distintas tienen la misma posición.", "Envíe la serie sin repeticiones."),
    _C.TOO_FEW_SLICES: ("Hay menos cortes de los necesarios.", "Envíe la serie completa."),
    _C.SERIES_INCOMPLETE: ("Llegaron menos imágenes de las anunciadas.", "Envíe las imágenes que faltan."),
    _C.SERIES_MIXED: (
        "La serie mezcla imágenes que no son una sola pila.",
        "Envíe una pila por serie, y una fotografía; varias las lee una ruta con `cases: one-per-series`.",
    ),
    _C.PIXEL_DATA_MISSING: ("No hay datos de píxeles.", "Envíe imágenes."),
    _C.PIXEL_DATA_LENGTH: (
        "Los datos de píxeles son más cortos o más largos de lo que dice la cabecera.",
        "Envíe el objeto de nuevo.",
    ),
    _C.PIXEL_DECODE_FAILED: (
        "Los datos de píxeles no se pudieron decodificar.",
        "Envíelo en otra sintaxis de transferencia.",
    ),
    _C.PIXEL_FORMAT_UNSUPPORTED: (
        "Este formato de píxeles no se lee para esta modalidad.",
        "Envíe los originales: cortes en escala de grises, o fotografías en color.",
    ),
    _C.PHOTOMETRIC_UNSUPPORTED: (
        "Esta interpretación fotométrica no se lee.",
        "Envíe los originales: cortes en escala de grises, o fotografías en RGB o YBR_FULL_422.",
    ),
    _C.RESCALE_INVALID: (
        "Falta la pendiente o el intercepto de reescalado, o no son posibles.",
        "Envíe las imágenes originales.",
    ),
    _C.IMAGE_BLANK: (
        "Las imágenes no contienen nada.",
        "Revise la adquisición; una imagen vacía no es un resultado negativo.",
    ),
    _C.MODALITY_UNSUPPORTED: ("El modelo no lee esta modalidad.", "Consulte la ficha del modelo."),
    _C.PROTOCOL_UNSUPPORTED: ("El modelo no lee este tipo de adquisición.", "Consulte la ficha del modelo."),
    _C.OUT_OF_DISTRIBUTION: (
        "Las imágenes no se parecen a aquellas para las que se hizo el modelo.",
        "Consulte la ficha del modelo.",
    ),
    _C.REGISTRATION_FAILED: (
        "Las secuencias de este estudio no se pudieron alinear con confianza.",
        "Vea si todas las series muestran la misma cabeza, entera; use un modelo que necesite una sola secuencia.",
    ),
    _C.BRAIN_NOT_FOUND: (
        "El cerebro no se pudo extraer de la cabeza con confianza.",
        "Use un modelo hecho para cabezas nativas, o envíe un estudio sin cráneo.",
    ),
    _C.ROLES_UNFILLED: (
        "Ninguna serie del estudio cubre una secuencia que el modelo necesita.",
        "`ai-node routes explain` muestra qué cláusula no se cumplió.",
    ),
    _C.ROLES_AMBIGUOUS: (
        "Es posible más de una lectura de las series.",
        "`ai-node routes explain` muestra los candidatos.",
    ),
    _C.NOT_NIFTI: ("Esto no es un archivo NIfTI.", "Dé un archivo .nii o .nii.gz."),
    _C.NIFTI_TRUNCATED: ("El archivo NIfTI está cortado.", "Escriba el archivo de nuevo."),
    _C.NIFTI_HEADER_INVALID: ("La cabecera NIfTI no es posible.", "Escriba el archivo de nuevo."),
    _C.NIFTI_SIZE_MISMATCH: ("La cabecera NIfTI y el tamaño del archivo no coinciden.", "Escriba el archivo de nuevo."),
    _C.NIFTI_DIMENSIONS: ("El archivo NIfTI no es una sola imagen tridimensional.", "Dé un volumen por archivo."),
    _C.NIFTI_DATATYPE_UNSUPPORTED: (
        "Este tipo de datos NIfTI no se lee.",
        "Use int16, uint8, int32, float32 o float64.",
    ),
    _C.NIFTI_VALUES_INVALID: ("La imagen NIfTI contiene valores que no son finitos.", "Repare la imagen."),
    _C.NIFTI_UNITS_MISSING: (
        "La cabecera NIfTI no dice que las longitudes son milímetros.",
        "Declárelos con --spacing-mm X,Y,Z.",
    ),
    _C.NIFTI_ORIENTATION_MISSING: ("La cabecera NIfTI no da orientación.", "Escriba sform o qform con un código."),
    _C.NIFTI_ORIENTATION_CONFLICT: ("sform y qform no coinciden.", "Haga que coincidan, o quite una."),
    _C.NIFTI_NOT_ORTHOGONAL: ("La rejilla NIfTI no es rectangular.", "Remuestree a una rejilla ortogonal."),
    _C.GZIP_DAMAGED: ("El flujo gzip está dañado.", "Comprima el archivo de nuevo."),
    _C.IMAGE_IS_LABEL_MAP: (
        "Este archivo es un mapa de etiquetas y no una imagen: números enteros, y pocos.",
        "Envíe la imagen sobre la que se dibujaron las etiquetas.",
    ),
    _C.MODEL_UNTRUSTED: (
        "El paquete del modelo contiene archivos que su manifiesto no nombra.",
        "Importe el modelo de nuevo.",
    ),
    _C.MODEL_HASH_MISMATCH: (
        "Un archivo del paquete del modelo no es el que nombra su manifiesto.",
        "Impórtelo de nuevo.",
    ),
    _C.BACKEND_MISSING: (
        "El programa que este ajuste necesita no está instalado.",
        "Instale el extra que nombra (`make setup-test` los tiene todos), o ponga engine.backend en auto.",
    ),
    _C.VARIANT_NOT_OFFERED: (
        "No se ha demostrado que el modelo sea bastante exacto con estos ajustes.",
        "Use los ajustes del propio paquete, o vea su gate.json: `ai-node models gate`.",
    ),
    _C.PATIENT_CHANGED: ("El paciente del archivo difiere del recibido.", "Decida con `ai-node held`."),
    _C.DELIVERY_CONFLICT: ("El destino guarda otros bytes con nuestro UID.", "Decida con `ai-node held`."),
    _C.DELIVERY_INCOMPLETE: ("El destino no muestra lo que dijo haber guardado.", "Decida con `ai-node held`."),
    _C.RESULT_CHECK_FAILED: (
        "Un objeto del resultado no pasó nuestra propia comprobación antes del envío.",
        "Comuníquelo como una falla.",
    ),
    _C.ISSUER_UNMAPPED: (
        "El emisor del identificador del paciente no tiene sistema de identificadores FHIR.",
        "Asígnelo en node.yaml; luego libérelo con `ai-node held`.",
    ),
    _C.PATIENT_NOT_FOUND: (
        "El servidor FHIR no tiene un Patient activo con este identificador.",
        "Cree allí el Patient; luego libérelo con `ai-node held`.",
    ),
    _C.PATIENT_AMBIGUOUS: (
        "El servidor FHIR tiene más de un Patient para este identificador.",
        "Una allí los Patient; luego libérelo con `ai-node held`.",
    ),
    _C.PATIENT_CONTRADICTED: (
        "Los registros del servidor FHIR contradicen al paciente de las imágenes.",
        "Averigüe cuál es el bueno; luego libérelo o rechácelo con `ai-node held`.",
    ),
    _C.PUBLICATION_BARRED: (
        "Las imágenes están despersonalizadas o son de control de calidad; tales resultados no se publican.",
        "Envíe las imágenes del propio paciente.",
    ),
    _C.PEER_REJECTED: (
        "El sistema receptor rechazó el resultado definitivamente.",
        "Vea qué encontró; corrija su configuración o la nuestra; luego libérelo con `ai-node held`.",
    ),
    _C.REMOVED: (
        "Esto se eliminó según las reglas de conservación de este nodo.",
        "El PACS puede tener su propia copia. Para que se lea de nuevo aquí, envíe otra vez la serie entera.",
    ),
}


def spoken(told_of: Mapping[str, Any], language: str) -> dict[str, str]:
    """A refusal, as records keep it (`Refusal.to_json`), in a language: all of it that a person reads.

    What has a code that is none of ours, a hold in the node's own words, is said as far as the words are known.
    """
    found = {key: str(told_of.get(key) or "") for key in ("code", "message", "expected", "found", "advice")}
    if found["code"] in set(RefusalCode):
        found["message"], found["advice"] = told(RefusalCode(found["code"]), language)
    return {key: text if key == "code" else said(text, language) for key, text in found.items()}


def told(code: RefusalCode, language: str) -> tuple[str, str]:
    """What a refusal means and what to do about it; English where it was not translated."""
    return (SPANISH if language == "es" else {}).get(code, WORDS[code])
