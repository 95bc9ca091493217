"""One model, loaded, in this process: volumes in, mask and findings out.

`Engine` ties the pieces together: input gate, turn to the model's axes, intensity preprocessing, runner, turn back,
post-processing, measuring.  It knows no DICOM, no database and no network; `ai_engine.host` runs it in a warm child.

Guaranteed: the mask lies on the grid of the volumes that came in; the same input under the same settings on the same
machine gives the same bytes (hardening I14); nothing is computed for an input that the package does not declare.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ai_engine.backends import NetworkOptions, Precision, Quantised, chosen_device
from ai_engine.children import processors
from ai_engine.faults import ModelFault
from ai_engine.findings import Findings, ModelIdentity
from ai_engine.gate import Turn, check_input
from ai_engine.geometry import rearrange
from ai_engine.packages import ModelPackage
from ai_engine.packages.accuracy import refuse_unless_offered
from ai_engine.packages.store import INT8
from ai_engine.postprocess import postprocess
from ai_engine.prediction import EngineSettings, InputVolume, Prediction
from ai_engine.preparation.prepared import PreparedStudy
from ai_engine.preparation.rigid import Grid
from ai_engine.report import regions_of
from ai_engine.runners.keras_unet import KerasRunner
from ai_engine.runners.nnunet import NnunetRunner
from ai_engine.runners.scores import RunnerOptions
from dicom_node.refusals import RefusalCode, Refused

GRID_TOLERANCE_MM = 1e-3


class Engine:
    """A package with its networks opened once.

    Raises
    ------
    ModelFault
        If the package cannot be run: names that are not allowed, weights that do not fit, no such device.
    Refused
        ``variant-not-offered`` if the package's accuracy gate does not offer these settings, ``backend-missing`` if
        they need a program that is not installed.
    """

    def __init__(self, package: ModelPackage, settings: EngineSettings | None = None) -> None:
        self.settings = settings or EngineSettings()
        self.package = package
        on_cuda = chosen_device(self.settings.device, self.settings.backend) == "cuda"
        self._gate = refuse_unless_offered(package, self.settings, on_cuda=on_cuda)
        _fix_threads(self.settings.threads)
        self._runner = _runner(package, self.settings)
        self.identity = self._identity()
        _warm_imports()

    def run(self, inputs: Mapping[str, InputVolume]) -> Prediction:
        """Segment one case.

        Parameters
        ----------
        inputs
            Role to volume; exactly one of the package's role sets, all on one grid unless the package asks for its
            studies to be prepared (`ai_engine.preparation`).

        Raises
        ------
        Refused
            If the input is not what the package was made for.
        OutputNotFinite
            If the network answered with NaN or infinity.
        """
        started = time.monotonic()
        study = self._study(inputs)
        first, turn = self._check(study.volumes)
        channels, spacing_mm = self._channels(study.volumes, turn)
        gated = time.monotonic()
        scores = self._runner.run(channels, spacing_mm)
        del channels
        answered = time.monotonic()
        axes, flips = turn.back()
        mask = np.ascontiguousarray(rearrange(scores.mask, axes, flips)).astype(np.uint8, copy=False)
        probability = {
            label: np.asarray(rearrange(values, axes, flips), dtype=np.float16)
            for label, values in scores.probability.items()
        }
        mask, probability = study.back(mask, probability)
        first = inputs[self.package.segmentation.inputs[0].role]
        mask, removed = postprocess(mask, first.affine, self.package.segmentation)
        regions = regions_of(mask, probability, first, self.package.segmentation, removed)
        measured = time.monotonic()
        timings = {
            "gate": gated - started - sum(study.timings_s.values()),
            **study.timings_s,
            **dict(scores.timings_s),
            "measure": measured - answered,
        }
        findings = Findings(
            model=self.identity,
            regions=regions,
            notes=(*self.package.segmentation.limits, *self._left_out(inputs), *study.notes),
            timings_s=tuple(timings.items()),
        )
        return Prediction(mask, first.affine, findings, timings, scores.passes)

    def prepared(self, inputs: Mapping[str, InputVolume]) -> npt.NDArray[np.float32]:
        """What the network sees of a case, ``(channel, S, R, C)``, before it is cut into windows; for calibration.

        Raises
        ------
        Refused
            As `run`.
        """
        study = self._study(inputs)
        _, turn = self._check(study.volumes)
        return self._runner.prepared(*self._channels(study.volumes, turn))

    def _study(self, inputs: Mapping[str, InputVolume]) -> PreparedStudy:
        """The study as the model wants it; as it came, for a package that does not ask for more."""
        description = self.package.segmentation
        self._wanted(inputs)
        first = inputs[description.inputs[0].role]
        rule = description.study_preparation
        if rule is None:
            return PreparedStudy(inputs, Grid.of(first.array, first.affine), True)
        for entry in description.inputs:
            if entry.role in inputs:  # as acquired; whether the skull is on is for the preparation to find
                check_input(inputs[entry.role], entry.model_copy(update={"skull": "any"}), description)
        from ai_engine.preparation.study import prepare_study

        return prepare_study(inputs, rule, description.inputs[0].role)

    def _left_out(self, inputs: Mapping[str, InputVolume]) -> tuple[str, ...]:
        """What a reader must know when the case did not fill every channel."""
        absent = [entry.role for entry in self.package.segmentation.inputs if entry.role not in inputs]
        if not absent:
            return ()
        return (f"Made without {', '.join(absent)}, which the model allows; its card gives the figures for that.",)

    def _wanted(self, inputs: Mapping[str, InputVolume]) -> tuple[str, ...]:
        """The role set that the inputs fill."""
        description = self.package.segmentation
        known = {entry.role for entry in description.inputs}
        wanted = next((roles for roles in description.accepted_roles if set(roles) == set(inputs)), None)
        if wanted is None:
            raise Refused(
                RefusalCode.ROLES_UNFILLED,
                expected=" or ".join(", ".join(roles) for roles in description.accepted_roles),
                found=", ".join(sorted(set(inputs) & known)) or "none of them",
            )
        return wanted

    def _check(self, inputs: Mapping[str, InputVolume]) -> tuple[InputVolume, Turn]:
        description = self.package.segmentation
        wanted = self._wanted(inputs)
        first = inputs[wanted[0]]
        turns = [
            check_input(inputs[entry.role], entry, description) for entry in description.inputs if entry.role in inputs
        ]
        for role in wanted[1:]:
            other = inputs[role]
            if other.array.shape != first.array.shape or not other.affine.close_to(first.affine, GRID_TOLERANCE_MM):
                raise Refused(
                    RefusalCode.GEOMETRY_INCONSISTENT,
                    expected=f"{role} on the grid of {wanted[0]}",
                    found="another grid",
                )
        return first, turns[0]

    def _channels(
        self, inputs: Mapping[str, InputVolume], turn: Turn
    ) -> tuple[npt.NDArray[np.float32], tuple[float, float, float]]:
        from ai_engine.runners.intensity import STANDARDISATIONS

        channels: list[npt.NDArray[np.float32]] = []
        for entry in self.package.segmentation.inputs:
            volume = inputs.get(entry.role)
            if volume is None:  # left out by contract: the network knows this channel as zero everywhere
                channels.append(np.zeros_like(channels[0]))
                continue
            values = rearrange(_without_padding(volume, entry.intensity), turn.axes, turn.flips)
            channels.append(STANDARDISATIONS[entry.intensity](np.ascontiguousarray(values, dtype=np.float32)))
        affine = inputs[self.package.segmentation.inputs[0].role].affine
        step, row, column = (affine.spacing_mm[axis] for axis in turn.axes)
        return np.stack(channels), (step, row, column)

    def _identity(self) -> ModelIdentity:
        description, network, plan = self.package.segmentation, self._runner.networks[0], self._runner.plan
        return ModelIdentity(
            name=description.name,
            version=description.version,
            digest_sha256=self.package.digest_sha256,
            title=description.title,
            framework=description.framework,
            backend=network.backend,
            device=network.device,
            precision=network.precision,
            settings=(
                ("batch", str(network.batch)),
                ("configuration", description.inference.configuration),
                ("folds", str(len(self._runner.networks))),
                ("gate", self._gate),
                ("mirror_axes", ",".join(str(axis) for axis in plan.mirror_axes) or "none"),
                ("step", f"{plan.step:g}"),
                ("threads", str(self.settings.threads)),
                *((("window", self._runner.window),) if self._runner.window != "patch" else ()),
                ("threshold", _threshold_words(self.package)),
            ),
            intended_use=description.intended_use,
            licence=description.licence,
            words=description.words,
        )


def _runner(package: ModelPackage, settings: EngineSettings) -> KerasRunner | NnunetRunner:
    """The package's runner, from the closed list of two."""
    kind = KerasRunner if package.segmentation.runner == "keras" else NnunetRunner
    if settings.window == "located" and kind is NnunetRunner:
        raise ModelFault("a located window goes with packages of runner keras")
    options = RunnerOptions(
        step=settings.step,
        mirroring=settings.mirroring,
        mirror_axes=None if settings.mirror_axes is None else tuple(settings.mirror_axes),
        batch=settings.batch,
        folds=settings.folds,
        window=settings.window,
    )
    quantised = Quantised(*(package.files[name] for name in INT8)) if set(INT8) <= set(package.files) else None
    return kind(package, _network_options(package, settings), options, quantised)


def _threshold_words(package: ModelPackage) -> str:
    rule = package.segmentation.threshold
    return rule.rule if rule.value is None else f"{rule.rule}>={rule.value:g}"


def _network_options(package: ModelPackage, settings: EngineSettings) -> NetworkOptions:
    asked = package.segmentation.inference.precision
    given: Precision | None = None if settings.precision == "package" else settings.precision
    on_cpu: Precision = asked.cpu
    if on_cpu == "int8" and settings.backend in ("torch", "tensorflow"):
        on_cpu = "f32"  # int8 is OpenVINO's; what really computed is read back and stands in the result
    return NetworkOptions(
        device=settings.device,
        backend=settings.backend,
        precision_cpu=given or on_cpu,
        precision_cuda=given or asked.cuda,
        threads=settings.threads,
        cache_folder=settings.cache_folder,
    )


def _fix_threads(threads: int) -> None:
    """One thread count for torch's own work (resampling), set before any of it runs."""
    import torch

    torch.set_num_threads(threads or processors())


def _warm_imports() -> None:
    """Import what the first case would wait for (two seconds, measured)."""
    for name in (
        "cc3d",
        "nnunetv2.inference.sliding_window_prediction",
        "nnunetv2.preprocessing.preprocessors.default_preprocessor",
        "scipy.ndimage",
        "scipy.spatial",
    ):
        importlib.import_module(name)


def _without_padding(volume: InputVolume, intensity: str) -> npt.NDArray[np.float32]:
    """Padding becomes air: nnU-Net's outside (0), or the smallest real value where the intensities are standardised."""
    if volume.valid is None or bool(volume.valid.all()):
        return volume.array
    air = np.float32(0) if intensity == "none" else volume.array[volume.valid].min()
    return np.where(volume.valid, volume.array, air)
