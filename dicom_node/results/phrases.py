"""The fixed words of page and report, in every language the page can be written in.

Wording follows the rules for unreviewed software output: it supports a decision, it is not reviewed, it never
diagnoses and never calls anything normal.
"""

from __future__ import annotations

from collections.abc import Mapping

from dicom_node.refusals import RefusalCode
from dicom_node.refusals_es import told

LANGUAGES = ("en", "es")

_EN = {
    "banner": "Software output for review by a qualified professional",
    "unreviewed": "UNREVIEWED",
    "not_clinical": "Not for clinical use.",
    "ruo": "For research use only. Not for use in diagnostic procedures.",
    "support": "Does not replace diagnosis. Not for measurement of response.",
    "patient": "Patient",
    "patient_id": "Patient ID",
    "issuer": "issuer",
    "birth_date": "Birth date",
    "sex": "Sex",
    "sex_F": "female",
    "sex_M": "male",
    "sex_O": "other",
    "study": "Study",
    "study_date": "Study date",
    "accession": "Accession",
    "study_uid": "Study UID",
    "unknown": "not given",
    "name_not_shown": "(name in characters this page cannot show)",
    "region": "Region",
    "volume": "Volume",
    "long_axis": "Longest diameter",
    "short_axis": "Perpendicular",
    "diameter_3d": "3D diameter",
    "percent": "Share of all",
    "confidence": "Mean model score",
    "absent": "no region above threshold",
    "no_region": "No region above threshold.",
    "no_region_note": "The model ran on these images and marked nothing. This does not exclude disease.",
    "composite": "union",
    "observation": "Image-level result",
    "threshold": "operating point",
    "slice": "slice",
    "axial": "axial",
    "coronal": "coronal",
    "sagittal": "sagittal",
    "of": "of",
    "pictures": "Key slices, as acquired. Outlines: see table.",
    "pictures_empty": "Slices spread over the volume, as acquired.",
    "warnings": "Read first",
    "replaces": "This result replaces an earlier one (revision {n}).",
    "series_used": "Series used",
    "series_line": "{modality} {number} “{description}”, acquired {acquired}, {slices} slices{spacing}",
    "spacing": ", {row} × {column} mm, step {step} mm",
    "grade": "Completeness of the series",
    "grade_promised": "promised: the number of images was announced and has arrived",
    "grade_transferred": "transferred: the sender's number of images has arrived",
    "grade_weak": "weak: nothing confirmed how many images there should be",
    "grade_contradicting": "CONTRADICTING: the evidence disagrees about how many images there should be",
    "acquired": "Images acquired",
    "analysed": "Analysed",
    "notes": "Notes and limits",
    "intended_use": "Intended use",
    "score_note": "Mean model score: mean softmax inside the outline; not a probability of disease.",
    "altered": "Source attributes that did not fit DICOM's limits were shortened or left out: {names}.",
    "more": "… and {n} more in the structured report.",
    "contact": "Contact",
    "made_by": "Made by",
    "model": "Model",
    "weights": "weights sha256",
    "run": "run",
    "page": "page 1 of 1",
    "title": "{title}: automatic segmentation",
    "title_picture": "{title}: AI estimate",
    "heat_banner": "AI – not for measurement – unreviewed – not a diagnosis",
    "heat_legend": "Right: where the network looked (yellow faint, red strongest); not the outline of a lesion.",
    "heat_none": "The photograph as it was read.",
    "photograph": "Photograph, as archived",
    "heat_map": "Where the network looked: yellow faint, red strongest. Not an outline.",
    "photograph_used": "Photograph used",
    "photograph_line": "{modality} {number} “{description}”, taken {acquired}, {columns} × {rows} pixels, site: {site}",
    "above": "AT OR ABOVE the operating threshold of {value}",
    "below": "BELOW the operating threshold of {value}",
    "meaning": "What this means",
    "meaning_above": "The model puts this picture at or above its threshold. A qualified person should see "
    "the lesion; the number does not say that it is malignant.",
    "meaning_below": "The model puts this picture below its threshold. This does NOT exclude malignancy: a lesion that "
    "changes, bleeds or worries should be seen by a qualified person, whatever this number says.",
    "meaning_estimate": "The number is the model's own estimate from one picture, at its operating threshold. It knows "
    "nothing of history, touch, or other lesions.",
    "not_diagnosis": "This is not a diagnosis and does not replace an examination or a biopsy.",
    "document_title": "AI {title} - unreviewed",
}

_ES = {
    "banner": "Resultado de software para que lo revise un profesional calificado",
    "unreviewed": "SIN REVISAR",
    "not_clinical": "No apto para uso clínico.",
    "ruo": "Solo para investigación. No utilizar en procedimientos diagnósticos.",
    "support": "No sustituye al diagnóstico. No apto para medir la respuesta.",
    "patient": "Paciente",
    "patient_id": "ID del paciente",
    "issuer": "emisor",
    "birth_date": "Nacimiento",
    "sex": "Sexo",
    "sex_F": "femenino",
    "sex_M": "masculino",
    "sex_O": "otro",
    "study": "Estudio",
    "study_date": "Fecha del estudio",
    "accession": "N.º de acceso",
    "study_uid": "UID del estudio",
    "unknown": "no consta",
    "name_not_shown": "(nombre en caracteres que esta página no puede mostrar)",
    "region": "Región",
    "volume": "Volumen",
    "long_axis": "Diámetro mayor",
    "short_axis": "Perpendicular",
    "diameter_3d": "Diámetro 3D",
    "percent": "Parte del total",
    "confidence": "Puntuación media",
    "absent": "ninguna región por encima del umbral",
    "no_region": "Ninguna región por encima del umbral.",
    "no_region_note": "El modelo analizó estas imágenes y no marcó nada. Esto no excluye enfermedad.",
    "composite": "unión",
    "observation": "Resultado de la imagen",
    "threshold": "punto de operación",
    "slice": "corte",
    "axial": "axial",
    "coronal": "coronal",
    "sagittal": "sagital",
    "of": "de",
    "pictures": "Cortes clave, tal como se adquirieron. Contornos: vea la tabla.",
    "pictures_empty": "Cortes repartidos por el volumen, tal como se adquirieron.",
    "warnings": "Leer primero",
    "replaces": "Este resultado sustituye a uno anterior (revisión {n}).",
    "series_used": "Series utilizadas",
    "series_line": "{modality} {number} «{description}», adquirida {acquired}, {slices} cortes{spacing}",
    "spacing": ", {row} × {column} mm, paso {step} mm",
    "grade": "Integridad de la serie",
    "grade_promised": "prometida: se anunció el número de imágenes y llegaron todas",
    "grade_transferred": "transferida: llegaron las imágenes que el remitente contó",
    "grade_weak": "débil: nada confirma cuántas imágenes debería haber",
    "grade_contradicting": "CONTRADICTORIA: los indicios no coinciden en cuántas imágenes debería haber",
    "acquired": "Imágenes adquiridas",
    "analysed": "Analizado",
    "notes": "Notas y límites",
    "intended_use": "Uso previsto",
    "score_note": "Puntuación media: softmax medio dentro del contorno; no es una probabilidad de enfermedad.",
    "altered": "Atributos de origen que no cabían en los límites de DICOM se acortaron u omitieron: {names}.",
    "more": "… y {n} más en el informe estructurado.",
    "contact": "Contacto",
    "made_by": "Elaborado por",
    "model": "Modelo",
    "weights": "sha256 de los pesos",
    "run": "ejecución",
    "page": "página 1 de 1",
    "title": "{title}: segmentación automática",
    "title_picture": "{title}: estimación de IA",
    "heat_banner": "IA – no apto para medir – sin revisar – no es un diagnóstico",
    "heat_legend": "Derecha: dónde miró la red (amarillo débil, rojo más fuerte); no es el contorno de una lesión.",
    "heat_none": "La fotografía tal como se leyó.",
    "photograph": "Fotografía, tal como se archivó",
    "heat_map": "Dónde miró la red: amarillo débil, rojo más fuerte. No es un contorno.",
    "photograph_used": "Fotografía utilizada",
    "photograph_line": "{modality} {number} «{description}», tomada {acquired}, {columns} × {rows} px, zona: {site}",
    "above": "EN EL UMBRAL de operación O POR ENCIMA: {value}",
    "below": "POR DEBAJO del umbral de operación: {value}",
    "meaning": "Qué significa",
    "meaning_above": "El modelo sitúa esta imagen en su umbral o por encima. Un profesional calificado "
    "debería ver la lesión; el número no dice que sea maligna.",
    "meaning_below": "El modelo sitúa esta imagen por debajo de su umbral. Esto NO excluye malignidad: una lesión que "
    "cambia, sangra o preocupa debe verla un profesional calificado, diga lo que diga este número.",
    "meaning_estimate": "El número es la estimación del propio modelo a partir de una sola imagen, en su umbral de "
    "operación. No sabe nada de antecedentes, palpación ni otras lesiones.",
    "not_diagnosis": "Esto no es un diagnóstico y no reemplaza un examen clínico ni una biopsia.",
    "document_title": "IA {title} - sin revisar",
}

_TABLES: Mapping[str, Mapping[str, str]] = {"en": _EN, "es": _ES}


def words(language: str) -> Mapping[str, str]:
    """The table of a language.

    Raises
    ------
    ValueError
        If the page cannot be written in that language.
    """
    if language not in _TABLES:
        raise ValueError(f"the page is written in one of {', '.join(LANGUAGES)}; asked for another language")
    return _TABLES[language]


def refusal_words(code: RefusalCode, language: str) -> tuple[str, str]:
    """What a refusal means and what to do about it, in a language; English where it was not translated.

    Raises
    ------
    ValueError
        If pages cannot be written in that language.
    """
    words(language)
    return told(code, language)
