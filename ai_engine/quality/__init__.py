"""The quality gate: is this a picture that the package may answer?

One verb, `judge`: pixels, the network's pooled features and the sender's declaration in; a `Verdict` out.  It comes
before anybody sees a number: a refused picture has no probability, no category and no heat map.

Two layers.  Measures of the picture itself (`measures`) say whether it is large, bright and sharp enough, has the
colours of skin, and something that differs from the skin around it.  A small linear model on the pooled features that
the classifier computes anyway (`rule.KindModel`) says whether it is dermoscopy, a plain photograph, skin without a
lesion, or something else.  Limits and model belong to the package (``quality:`` in ``model.yaml``).

No standard prescribes such a gate; IMDRF's and the journals' guidance on dermatology software ask that inputs a model
was not made for are recognised and said.  What it was measured to do stands in the package's card.

Arrays only: no DICOM here, and no torch unless a model is fitted (`fit`, `measure`).
"""

from ai_engine.quality.judge import Verdict, judge
from ai_engine.quality.measures import Measures
from ai_engine.quality.rule import KindModel, Rule, load_rule

__all__ = ["KindModel", "Measures", "Rule", "Verdict", "judge", "load_rule"]
