"""What our own recipes' packages say about themselves, in Spanish: it goes into ``model.yaml`` beside the English.

A recipe whose texts are not all here writes a package without Spanish; people then read its English.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ai_engine.packages.schema import parse_description

SPANISH: Mapping[str, str] = {
    "FLAIR abnormality, brain MR": "Anomalía en FLAIR, RM de cerebro",
    "Research and evaluation only, not for clinical use. Marks FLAIR signal abnormality in brain MR as decision "
    "support for a qualified reader, who stays responsible.": "Solo para investigación y evaluación, no para uso "
    "clínico. Marca anomalías de señal FLAIR en RM de cerebro como apoyo a la decisión de un lector calificado, que "
    "sigue siendo el responsable.",
    "Not for clinical use.": "No apto para uso clínico.",
    "Trained on glioma only; multiple sclerosis, infarction, metastasis and healthy brains were not in the data.": (
        "Entrenado solo con gliomas; no había en los datos esclerosis múltiple, infartos, metástasis ni cerebros sanos."
    ),
    "Skull-stripped heads are refused: on two held-back patients half and more of the lesion was missed.": (
        "Se rechazan las cabezas sin cráneo: en dos pacientes reservados se perdió la mitad de la lesión o más."
    ),
    "Pixel spacing of the training data is assumed (0.95 mm), not known; slices are segmented one by one.": (
        "El tamaño de píxel de los datos de entrenamiento se supone (0,95 mm), no se conoce; los cortes se segmentan "
        "uno por uno."
    ),
    "FLAIR signal abnormality": "Anomalía de señal en FLAIR",
    "Brain tumour parts, Keras, four sequences": "Partes de un tumor cerebral, Keras, cuatro secuencias",
    "Research and evaluation only, not for clinical use. Marks parts of a glioma in skull-stripped, co-registered "
    "brain MR as decision support for a qualified reader, who stays responsible.": "Solo para investigación y "
    "evaluación, no para uso clínico. Marca partes de un glioma en RM de cerebro sin cráneo y corregistrada, como "
    "apoyo a la decisión de un lector calificado, que sigue siendo el responsable.",
    "Trained on six patients with glioma and tested on three: the figures say little about other patients.": (
        "Entrenado con seis pacientes con glioma y probado con tres: las cifras dicen poco sobre otros pacientes."
    ),
    "Expects co-registered sequences without skull, as the BraTS organisers prepare them.": (
        "Espera secuencias corregistradas y sin cráneo, como las preparan los organizadores de BraTS."
    ),
    "From T1c alone it finds little (mean Dice of the whole tumour 0.29 on the three test patients).": (
        "Solo con T1c encuentra poco (Dice medio del tumor completo: 0,29 en los tres pacientes de prueba)."
    ),
    "Small enhancing parts are missed often; other diseases and operated brains were not in the data.": (
        "Las partes captantes pequeñas se pierden a menudo; no había en los datos otras enfermedades ni cerebros "
        "operados."
    ),
    "Necrotic or non-enhancing core": "Núcleo necrótico o no captante",
    "Peritumoural oedema": "Edema peritumoral",
    "Enhancing tumour": "Tumor captante",
    "Whole tumour": "Tumor completo",
    "Tumour core": "Núcleo tumoral",
    "Brain tumour parts, T1c and FLAIR": "Partes de un tumor cerebral, T1c y FLAIR",
    "Research and evaluation only, not for clinical use. Marks the parts of a known brain tumour in MR as decision "
    "support for a qualified reader, who stays responsible. It does not decide whether there is a tumour.": "Solo para "
    "investigación y evaluación, no para uso clínico. Marca las partes de un tumor cerebral ya conocido en RM, como "
    "apoyo a la decisión de un lector calificado, que sigue siendo el responsable. No decide si hay un tumor.",
    "Nine patients with parts outlined is very few: figures on other patients will differ, mostly downwards.": (
        "Nueve pacientes con sus partes delineadas son muy pocos: en otros pacientes las cifras serán distintas, casi "
        "siempre peores."
    ),
    "Measured on skull-stripped, co-registered studies; displaced ones are laid on each other first, which is not in "
    "the figures; heads with their skull are refused.": "Medido en estudios sin cráneo y corregistrados; los "
    "desplazados se superponen primero, lo que no está en las cifras; las cabezas con su cráneo se rechazan.",
    "Glioma before treatment only; other tumours, resection cavities, stroke and healthy brains were not in the "
    "data.": "Solo gliomas antes del tratamiento; no había en los datos otros tumores, cavidades de resección, "
    "accidentes cerebrovasculares ni cerebros sanos.",
    "Without FLAIR, oedema cannot be seen well, the whole tumour comes out too small, and one of nine was missed.": (
        "Sin FLAIR el edema no se ve bien, el tumor completo sale demasiado pequeño y uno de nueve se perdió."
    ),
    "Small or weakly enhancing parts are unreliable: enhancing tumour between Dice 0.16 and 0.87 on the nine "
    "patients.": "Las partes pequeñas o que captan poco no son fiables: tumor captante con Dice entre 0,16 y 0,87 en "
    "los nueve pacientes.",
    "Malignancy of a skin lesion (dermoscopy)": "Malignidad de una lesión de piel (dermatoscopia)",
    "Malignancy of a skin lesion (dermoscopy, CC0)": "Malignidad de una lesión de piel (dermatoscopia, CC0)",
    "For research and evaluation only. Not for clinical use; not a diagnosis. Decision support for a qualified reader, "
    "who stays responsible.": "Solo para investigación y evaluación. No apto para uso clínico; no es un diagnóstico. "
    "Apoyo a la decisión de un lector calificado, que sigue siendo el responsable.",
    "Trained and measured on pictures taken through a dermatoscope; photographs taken without one are refused.": (
        "Entrenado y medido con imágenes tomadas con dermatoscopio; las fotografías tomadas sin él se rechazan."
    ),
    "The pictures show almost only light skin (Fitzpatrick types I to III): for darker skin (IV to VI), palms, soles, "
    "nails and mucosa nothing can be said.": "Las imágenes muestran casi solo piel clara (fototipos de Fitzpatrick I a "
    "III): de piel más oscura (IV a VI), palmas, plantas, uñas y mucosas no se puede decir nada.",
    "Pictures were squeezed to 256 x 256 pixels and compressed: finer texture was never seen.": (
        "Las imágenes se redujeron a 256 x 256 píxeles y se comprimieron: nunca vio una textura más fina."
    ),
    "A low probability does not exclude malignancy: some malignant lesions are missed at every threshold.": (
        "Una probabilidad baja no excluye malignidad: con cualquier umbral se pierden algunas lesiones malignas."
    ),
    "It sees one picture: no history, no change over time, no touch, no other lesions of the patient.": (
        "Ve una sola imagen: ni antecedentes, ni cambios en el tiempo, ni palpación, ni otras lesiones del paciente."
    ),
    "The only malignant lesion it has seen is melanoma: it never saw basal cell carcinoma, actinic keratosis or Bowen "
    "disease, and its output malignant cannot speak of them.": "La única lesión maligna que ha visto es el melanoma: "
    "nunca vio carcinoma basocelular, queratosis actínica ni enfermedad de Bowen, y su salida de malignidad no puede "
    "hablar de ellos.",
    "The probability of melanoma is never above that of malignancy: where its own output says more, it is lowered to "
    "it. Their thresholds were chosen apart, so one may lie at or above its threshold and the other below.": "La "
    "probabilidad de melanoma nunca supera la de malignidad: donde su propia salida dice más, se baja hasta ella. Los "
    "umbrales se eligieron por separado, así que una puede estar en su umbral o por encima y la otra por debajo.",
    "How often pictures that the model answers so showed melanoma, the only malignant lesion it has seen, in the data "
    "it was calibrated on.": "Con qué frecuencia las imágenes a las que el modelo responde así mostraban melanoma, la "
    "única lesión maligna que ha visto, en los datos con que se calibró.",
    "How often pictures that the model answers so showed melanoma in the data it was calibrated on.": "Con qué "
    "frecuencia las imágenes a las que el modelo responde así mostraban melanoma en los datos con que se calibró.",
    "How often pictures that the model answers so showed melanoma, basal cell carcinoma, actinic keratosis or Bowen "
    "disease in the data it was calibrated on.": "Con qué frecuencia las imágenes a las que el modelo responde así "
    "mostraban melanoma, carcinoma basocelular, queratosis actínica o enfermedad de Bowen en los datos con que se "
    "calibró.",
}


def with_words(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a ``model.yaml`` with its Spanish texts, where all of them are known."""
    plain = {key: value for key, value in tree.items() if key != "words"}
    texts = parse_description(yaml.safe_dump(plain, sort_keys=False).encode()).texts
    known = {text: SPANISH[text] for text in texts if text in SPANISH}
    return {**plain, "words": {"es": known}} if len(known) == len(texts) else plain
