"""Our trainer: nnU-Net's network building, loss and patch loader; time, averaging and resuming are ours.

Differences from ``nnUNetTrainer``, each because training happens on a processor and within hours:

- bf16 autocast on the CPU and channels-last memory (measured together: half the seconds per iteration of fp32);
- the length is minutes of processor time (per thread), not epochs, so that a training which is paused or shares its
  processor is not cut short; the learning rate follows the share of time used (warm-up, then a cosine);
- AdamW, a lower rate for the pretrained encoder;
- augmentation of the whole batch by :mod:`ai_engine.training.augment`;
- an exponential average of the weights is what is validated and shipped: there is no choice of a "best" epoch;
- Dice per patient, on whole slices of the validation patients, not on patches;
- for the last part of the time the validation patients may join the training (``merge_validation_at``);
- one state file, written by replacing, without pickled objects: a stopped training resumes.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ai_engine.runners.efficientnet_unet import MULTIPLE, EfficientNetV2UNet, load_imagenet
from ai_engine.training.augment import Augmentation, augment
from ai_engine.training.copies import base_name, kind_of_copy
from ai_engine.training.prepare import CONFIGURATION, PLANS_NAME, dataset_folder

STATE_FILE = "state.pt"
BEFORE_MERGE_FILE = "state-before-merge.pt"
"""State at the moment when the validation patients joined: the last that they are a fair measure of."""
HISTORY_FILE = "history.json"


@dataclass(frozen=True)
class TrainingSettings:
    """All that decides a training besides the data and the plan."""

    minutes: float = 100.0
    stop_at: float = 1.0
    """Share of the minutes after which to leave off; the learning rate has then not come down to its end."""
    iterations_per_epoch: int = 50
    validate_every_s: float = 600.0
    checkpoint_every_s: float = 180.0
    learning_rate: float = 1e-3
    encoder_rate: float = 4e-4
    weight_decay: float = 0.02
    warm_up_iterations: int = 150
    final_rate_share: float = 0.01
    ema_decay: float = 0.998
    object_share: float = 0.5
    merge_validation_at: float = 1.0
    sampling: Mapping[str, float] = field(default_factory=dict)
    threads: int = 1
    seed: int = 2026
    augmentation: Augmentation = field(default_factory=Augmentation)


def kind_of(name: str, sources: Mapping[str, str]) -> str:
    """Name the sampling group of a preprocessed case: its collection, or ``<collection>-oblique`` and the like."""
    source, kind = sources.get(base_name(name), "other"), kind_of_copy(name)
    return f"{source}-{kind}" if kind else source


def sampling_probabilities(names: list[str], sources: Mapping[str, str], shares: Mapping[str, float]) -> np.ndarray:
    """Give every case a probability so that each group gets its share; without shares all cases count the same."""
    kinds = [kind_of(name, sources) for name in names]
    if not shares:
        return np.full(len(names), 1 / len(names))
    weights = np.array([shares.get(kind, 0.0) / kinds.count(kind) for kind in kinds])
    return np.asarray(weights / weights.sum())


def rate_at(progress: float, iteration: int, settings: TrainingSettings) -> float:
    """Learning rate as a share of the full one: linear warm-up by iterations, cosine by time."""
    warm = min(1.0, (iteration + 1) / settings.warm_up_iterations)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warm * (settings.final_rate_share + (1 - settings.final_rate_share) * cosine)


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice overlap of two masks; 1 if both are empty."""
    total = int(prediction.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2.0 * int((prediction & truth).sum()) / total


def _whole_slices(network: EfficientNetV2UNet, slices: Tensor) -> np.ndarray:
    """Segment ``(S, 1, R, C)`` slices, padded to a size the network takes; ``(S, R, C)`` bool."""
    rows, columns = slices.shape[2:]
    masks = []
    for part in torch.split(slices, 16):
        padded = torch.nn.functional.pad(part, (0, -columns % MULTIPLE, 0, -rows % MULTIPLE))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = network(padded.contiguous(memory_format=torch.channels_last))[:, :, :rows, :columns]
        masks.append(logits[:, 1] > logits[:, 0])
    return np.asarray(torch.cat(masks).numpy())


class FlairTrainer:
    """One training. Built on an ``nnUNetTrainer`` for its network building, loss and loader."""

    def __init__(
        self,
        work: Path,
        dataset_name: str,
        settings: TrainingSettings,
        *,
        sources: Mapping[str, str],
        pretrained: Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        torch.set_num_threads(settings.threads)
        np.random.seed(settings.seed)
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.work = work
        self.folder = dataset_folder(work, dataset_name)
        self.sources = sources
        self.say = say
        self.plans: dict[str, Any] = json.loads((self.folder / f"{PLANS_NAME}.json").read_text(encoding="utf-8"))
        self.description: dict[str, Any] = json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))
        self.split: dict[str, list[str]] = json.loads((self.folder / "split.json").read_text(encoding="utf-8"))
        self.store = self.folder / self.plans["configurations"][CONFIGURATION]["data_identifier"]
        self._base = self._nnunet()
        network = self._base.network
        if pretrained is not None:
            load_imagenet(network, load_file(pretrained))
        self.network: EfficientNetV2UNet = network.to(memory_format=torch.channels_last)
        self.ema = {name: value.detach().clone() for name, value in network.state_dict().items()}
        encoder = list(network.encoder.parameters())
        groups = [
            {"params": encoder, "lr": settings.encoder_rate, "full": settings.encoder_rate},
            {
                "params": list(network.decoder.parameters()),
                "lr": settings.learning_rate,
                "full": settings.learning_rate,
            },
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.iteration = 0
        self.used_s = 0.0
        self.history: list[dict[str, Any]] = []
        self._merged = False
        self.stage = 0

    # -- parts of nnU-Net -----------------------------------------------------------------------------------------

    def _nnunet(self) -> Any:
        folders = {"preprocessed": self.folder.parent, "results": self.work / "results", "raw": self.work / "raw"}
        os.environ.update({f"nnUNet_{name}": str(folder) for name, folder in folders.items()})
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        class _CpuTrainer(nnUNetTrainer):
            def _get_deep_supervision_scales(self) -> list[list[float]]:
                return [[1.0, 1.0], [0.5, 0.5], [0.25, 0.25], [0.125, 0.125]]

            def configure_optimizers(self) -> tuple[None, None]:
                return None, None

        plans = json.loads(json.dumps(self.plans)) | {"continue_training": False}
        trainer = _CpuTrainer(plans, CONFIGURATION, 0, self.description, torch.device("cpu"))
        trainer.initialize()
        return trainer

    def _names(self, side: str) -> list[str]:
        wanted = set(self.split[side])
        found = sorted(path.stem for path in self.store.glob("*.pkl"))
        return [name for name in found if base_name(name) in wanted]

    def _training_names(self) -> list[str]:
        names = self._names("train")
        return sorted(names + self._names("validation")) if self._merged else names

    def _loader(self) -> Any:
        from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
        from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

        names = self._training_names()
        configuration = self.plans["configurations"][CONFIGURATION]
        return nnUNetDataLoader(
            nnUNetDatasetBlosc2(str(self.store), names),
            configuration["batch_size"],
            configuration["patch_size"],
            configuration["patch_size"],
            self._base.label_manager,
            oversample_foreground_percent=self.settings.object_share,
            sampling_probabilities=sampling_probabilities(names, self.sources, self.settings.sampling),
            transforms=None,
        )

    # -- one step -------------------------------------------------------------------------------------------------

    def _step(self, batch: Mapping[str, Tensor]) -> float:
        image, mask = augment(batch["data"], (batch["target"] > 0).float(), self.settings.augmentation)
        image = image.contiguous(memory_format=torch.channels_last)
        targets = [mask] + [(torch.nn.functional.avg_pool2d(mask, 2**k) > 0.5).float() for k in (1, 2, 3)]
        self.network.train()
        self._base.set_deep_supervision_enabled(True)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.network(image)
        loss: Tensor = self._base.loss([output.float() for output in outputs], targets)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        share = rate_at(self.progress, self.iteration, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full"] * share
        self.optimizer.step()
        self._average()
        self.iteration += 1
        return float(loss.detach())

    def _average(self) -> None:
        keep = min(self.settings.ema_decay, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.ema[name].lerp_(value, 1 - keep)
                else:
                    self.ema[name].copy_(value)

    @property
    def progress(self) -> float:
        """Share of the time that is used, 0 to 1."""
        return min(1.0, self.used_s / (60 * self.settings.minutes))

    @property
    def is_done(self) -> bool:
        """Whether the stage has had its share of the time."""
        return self.progress >= self.settings.stop_at

    # -- validation -----------------------------------------------------------------------------------------------

    def averaged_network(self) -> EfficientNetV2UNet:
        """A network in evaluation mode that holds the averaged weights."""
        arguments = self.plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
        with torch.random.fork_rng(devices=[]):  # its first weights are thrown away and must not cost random numbers
            network = EfficientNetV2UNet(1, 2, False, **arguments)
        network.load_state_dict({name: value for name, value in self.ema.items()}, strict=True)
        network.eval().to(memory_format=torch.channels_last)
        return network

    def validate(self) -> dict[str, float]:
        """Dice of every validation case that is not a copy, with the averaged weights."""
        from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

        names = [name for name in self._names("validation") if not kind_of_copy(name)]
        if not names:
            return {}
        network = self.averaged_network()
        dataset = nnUNetDatasetBlosc2(str(self.store), names)
        results: dict[str, float] = {}
        for name in names:
            data, truth, _, _ = dataset.load_case(name)
            image = torch.from_numpy(np.asarray(data[:]))[0][:, None]
            every = 4 if image.shape[0] > 100 else 1
            image = image[::every]
            results[name] = dice(_whole_slices(network, image), np.asarray(truth[:])[0][::every] > 0)
        return results

    # -- state ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state beside the old one, then put it in its place."""
        generator = np.random.get_state(legacy=False)
        inner = generator["state"]
        state = {
            "network": self.network.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "used_s": self.used_s,
            "is_merged": self._merged,
            "stage": self.stage,
            "history": json.dumps(self.history),
            "torch_generator": torch.get_rng_state(),
            "numpy_key": torch.from_numpy(inner["key"].astype(np.int64)),
            "numpy_position": int(inner["pos"]),
        }
        target = self.work / STATE_FILE
        partial = target.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, target)
        history = {"settings": asdict(self.settings), "history": self.history}
        (self.work / HISTORY_FILE).write_text(json.dumps(history, indent=1), encoding="utf-8")

    def resume(self) -> bool:
        """Go on from the state on disk; false if there is none."""
        path = self.work / STATE_FILE
        if not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.ema = state["ema"]
        full = [group["full"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, full, strict=True):
            group["full"] = rate
        self.iteration, self.used_s = state["iteration"], state["used_s"]
        self.stage = int(state.get("stage", 0))
        self._merged = bool(state.get("is_merged", (self.work / BEFORE_MERGE_FILE).exists()))
        self.history = json.loads(state["history"])
        torch.set_rng_state(state["torch_generator"])
        generator = np.random.get_state(legacy=False)
        generator["state"] = {
            "key": state["numpy_key"].numpy().astype(np.uint32),
            "pos": state["numpy_position"],
        }
        np.random.set_state(generator)
        return True

    def begin_stage(self, stage: int) -> None:
        """Start the clock anew with these settings; weights, optimiser and who is learnt from stay."""
        self.stage = stage
        self.used_s = 0.0

    # -- the whole ------------------------------------------------------------------------------------------------

    def run(self, *, max_iterations: int | None = None) -> None:
        """Train until the time is used up, or for ``max_iterations`` more; safe to kill, then :meth:`resume`."""
        settings = self.settings
        loader = self._loader()
        last_save = last_validation = self.used_s
        stop_at = None if max_iterations is None else self.iteration + max_iterations
        while not self.is_done and (stop_at is None or self.iteration < stop_at):
            if not self._merged and self.progress >= settings.merge_validation_at:
                loader = self._merge()
            losses = []
            begin = time.process_time()
            for _ in range(settings.iterations_per_epoch):
                losses.append(self._step(next(loader)))
                now = time.process_time()
                self.used_s += (now - begin) / max(1, settings.threads)
                begin = now
                if self.is_done or (stop_at is not None and self.iteration >= stop_at):
                    break
            self._record(losses)
            if self.used_s - last_validation >= settings.validate_every_s:
                last_validation = self.used_s
                self._validate_and_record()
            if self.used_s - last_save >= settings.checkpoint_every_s:
                last_save = self.used_s
                self.save()
        self._validate_and_record()
        self.save()

    def _merge(self) -> Any:
        self._validate_and_record()
        self.save()
        os.replace(self.work / STATE_FILE, self.work / BEFORE_MERGE_FILE)
        self._merged = True
        self.save()
        self.say("validation patients join the training; their Dice is no measure from here on")
        return self._loader()

    def _record(self, losses: list[float]) -> None:
        entry = {"iteration": self.iteration, "used_s": round(self.used_s, 1), "loss": float(np.mean(losses))}
        entry["rate"] = self.optimizer.param_groups[1]["lr"]
        self.history.append(entry)
        left = max(0.0, 60 * self.settings.minutes - self.used_s)
        pace = self.used_s / max(1, self.iteration)
        self.say(
            f"iteration {self.iteration}  loss {entry['loss']:+.3f}  {pace:.2f} s/iteration  "
            f"{100 * self.progress:.0f} %  {left / 60:.0f} min left"
        )

    def _validate_and_record(self) -> None:
        results = self.validate()
        if not results:
            return
        entry = {"iteration": self.iteration, "used_s": round(self.used_s, 1), "dice": results, "merged": self._merged}
        self.history.append(entry)
        values = ", ".join(f"{name} {value:.3f}" for name, value in results.items())
        self.say(f"validation mean Dice {np.mean(list(results.values())):.3f}: {values}")
