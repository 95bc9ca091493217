"""One classifier, loaded, in this process: pictures in; findings and heat maps out, or a refusal for each that is none.

`ClassifierEngine` ties the pieces together: input gate, network, quality gate, calibration, threshold.  It knows no
DICOM, no database and no network; `ai_engine.host` runs it in a warm child.

Guaranteed: what is refused has no number of any kind in the answer; the same picture under the same settings on the
same machine gives the same bytes, whatever pictures came with it.  Not guaranteed: that a probability is right; the
package says on whom it was calibrated, and that stands in every result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_engine.backends import NetworkOptions, Precision
from ai_engine.faults import ModelFault, OutputNotFinite
from ai_engine.findings import Code, Findings, Measurement, ModelIdentity, Observation
from ai_engine.packages import Classification, ModelPackage
from ai_engine.packages.classification import Output
from ai_engine.packages.common import DescriptionError
from ai_engine.packages.site import SiteOverride, read_override, with_override
from ai_engine.pictures import HeatMap, InputPicture, PictureAnswer
from ai_engine.prediction import EngineSettings
from ai_engine.quality import Verdict, judge, load_rule
from ai_engine.runners.classifier import ClassifierRunner, ClassifierScores
from dicom_node.refusals import Refusal, RefusalCode, Refused

HEAT_MAP_SIDE = 512
"""Longest side of a heat map: the network sees no finer."""

PERCENT = Code("%", "UCUM", "percent")
NO_UNITS = Code("1", "UCUM", "no units")
SKIN = Code("39937001", "SCT", "Skin")
ABOVE = Code("AI-OP-ABOVE", "99AINODE", "At or above operating threshold")
BELOW = Code("AI-OP-BELOW", "99AINODE", "Below operating threshold")


class ClassifierEngine:
    """A classifier's package with its networks opened once.

    Raises
    ------
    ModelFault
        If the package cannot be run: weights that do not fit, no such device.
    Refused
        ``model-untrusted`` if the site's override was not made for this package.
    """

    def __init__(self, package: ModelPackage, settings: EngineSettings | None = None) -> None:
        self.settings = settings or EngineSettings()
        self.package = package
        self.description, self._override = in_force(package, self.settings.site_override)
        self._rule = load_rule(package)
        self._runner = ClassifierRunner(package, _network_options(self.description, self.settings), self.settings.batch)
        self.identity = self._identity()

    @property
    def batch(self) -> int:
        """How many pictures go through the network together."""
        return self._runner.batch

    def run(self, pictures: Sequence[InputPicture]) -> list[PictureAnswer | Refusal]:
        """Answer each picture, or say why not, in their order.

        Raises
        ------
        OutputNotFinite
            If the network answered with NaN or infinity.
        """
        answers: list[PictureAnswer | Refusal | None] = [_gate(picture, self.description) for picture in pictures]
        asked = [number for number, refusal in enumerate(answers) if refusal is None]
        scores = self._runner.run([pictures[number].pixels for number in asked])
        for number, said in zip(asked, scores, strict=True):
            answers[number] = self._answer(pictures[number], said)
        return [answer for answer in answers if answer is not None]

    def _answer(self, picture: InputPicture, said: ClassifierScores) -> PictureAnswer | Refusal:
        started = time.monotonic()
        if not all(np.isfinite(value) for value in said.logits.values()):
            raise OutputNotFinite("the network answered with NaN or infinity")
        verdict = judge(picture.pixels, said.features, picture.declared, self._rule)
        if verdict.refusal is not None:  # before anything is made of the logits: a refused picture has no number
            return verdict.refusal
        site = picture.body_site or SKIN
        values = self.description.probabilities(said.logits)
        observations = tuple(_observation(output, values[output.key], site) for output in self.description.outputs)
        timings = {**said.timings_s, "judge": time.monotonic() - started}
        findings = Findings(
            model=self.identity,
            observations=observations,
            notes=(*self.description.limits, *self._notes(picture, verdict)),
            timings_s=tuple(timings.items()),
        )
        heat = None if said.heat_map is None else _small(said.heat_map)
        return PictureAnswer(findings, heat, verdict.to_json(), timings)

    def _notes(self, picture: InputPicture, verdict: Verdict) -> list[str]:
        declared = picture.declared or "nothing"
        found = ["Age, sex and body site are not used by the model: it sees the picture alone."]
        if verdict.kind:
            found.append(f"Picture declared as: {declared}; taken by the quality check for: {verdict.kind}.")
        else:
            found.append(f"Picture declared as: {declared}; its kind was not checked.")
        for output in self.description.outputs:
            if output.calibration.method != "none":
                how = output.calibration
                found.append(f"{output.code.meaning}: calibrated ({how.method}) on {how.population}.")
            point = output.operating_point
            if point is not None:
                found.append(
                    f"{output.code.meaning}: at the operating threshold, sensitivity {point.sensitivity:.2f} and "
                    f"specificity {point.specificity:.2f} on {point.data} (n = {point.n})."
                )
        if self._override is not None:
            found.append(f"Threshold and calibration are the site's own, measured on: {self._override[0].population}.")
        return found

    def _identity(self) -> ModelIdentity:
        description, network, how = self.description, self._runner.networks[0], self.description.network
        settings = [
            ("architecture", how.architecture),
            ("batch", str(self._runner.batch)),
            ("folds", str(len(self._runner.networks))),
            ("resize", how.resize),
            ("size", "x".join(str(side) for side in how.size)),
            ("threads", str(self.settings.threads)),
            ("threshold", ",".join(f"{output.key}>={output.threshold:g}" for output in description.outputs)),
            ("views", ",".join(how.views)),
        ]
        if self._override is not None:
            settings.append(("site_override", self._override[1]))
        return ModelIdentity(
            name=description.name,
            version=description.version,
            digest_sha256=self.package.digest_sha256,
            title=description.title,
            framework=description.framework,
            backend=network.backend,
            device=network.device,
            precision=network.precision,
            settings=tuple(sorted(settings)),
            intended_use=description.intended_use,
            licence=description.licence,
            words=description.words,
        )


def in_force(package: ModelPackage, override: str | None) -> tuple[Classification, tuple[SiteOverride, str] | None]:
    """The package's description with the site's thresholds and calibration, and the override with its digest.

    Raises
    ------
    Refused
        ``model-untrusted`` if the override cannot be read or was made for another package.
    """
    if not override:
        return package.classification, None
    try:
        read, digest = read_override(Path(override))
        return with_override(package.classification, package.digest_sha256, read), (read, digest)
    except DescriptionError as error:
        raise Refused(
            RefusalCode.MODEL_UNTRUSTED, expected="an override made for this package", found=str(error)[:1000]
        ) from error


def _gate(picture: InputPicture, description: Classification) -> Refusal | None:
    """What the package's declaration says against a picture, before the network."""
    wanted = description.inputs[0].modality
    if picture.modality and picture.modality not in wanted:
        return Refusal(RefusalCode.MODALITY_UNSUPPORTED, " or ".join(wanted), "another modality")
    limits, age = description.patient.age_years, picture.age_years
    if limits is not None and age is not None and not limits[0] <= age <= limits[1]:
        expected = f"a patient of {limits[0]:g} to {limits[1]:g} years"
        return Refusal(RefusalCode.OUT_OF_DISTRIBUTION, expected, "another age")
    return None


def _observation(output: Output, value: float, site: Code) -> Observation:
    """A calibrated output is a probability in per cent; one that is not is a score without unit (standards 2.7)."""
    is_calibrated = output.calibration.method != "none"
    unit, scale = (PERCENT, 100.0) if is_calibrated else (NO_UNITS, 1.0)
    key = "probability" if is_calibrated else "score"
    name = output.code.code()
    return Observation(
        key=output.key,
        name=name,
        finding=output.finding.code(),
        site=site,
        measurements=(Measurement(key, name, value * scale, unit, note=output.meaning),),
        category=ABOVE if value >= output.threshold else BELOW,
        threshold=output.threshold * scale,
    )


def _small(strength: npt.NDArray[np.float32]) -> HeatMap:
    rows, columns = strength.shape
    scale = min(1.0, HEAT_MAP_SIDE / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    image = Image.fromarray(np.ascontiguousarray(strength, dtype=np.float32))
    values = np.asarray(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    return np.ascontiguousarray(np.round(np.clip(values, 0, 1) * 255).astype(np.uint8))


def _network_options(description: Classification, settings: EngineSettings) -> NetworkOptions:
    asked = description.network.precision
    if asked.cpu == "int8":
        raise ModelFault("a classifier in 8-bit integers was not measured and is not offered")
    given: Precision | None = None if settings.precision == "package" else settings.precision
    return NetworkOptions(
        device=settings.device,
        backend="auto" if settings.backend == "tensorflow" else settings.backend,
        precision_cpu=given or asked.cpu,
        precision_cuda=given or asked.cuda,
        threads=settings.threads,
        cache_folder=settings.cache_folder,
    )
