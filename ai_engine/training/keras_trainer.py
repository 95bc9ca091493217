"""Training a Keras network of ours with TensorFlow, on one processor and within an hour.

- arithmetic: Keras' ``mixed_bfloat16`` (measured on one core: 0.83 CPU seconds for two patches of 64 cubed, 1.19 in
  float32);
- the length is minutes of processor time, not of the clock, so a paused training is not cut short;
- small patches first, larger ones for the last part (`TrainingPlan.sizes`): the network is fully convolutional and
  normalises by stored statistics, so it may be run on other windows than it was trained on;
- loss: cross entropy plus soft Dice of whole tumour, core and enhancing tumour over the batch;
- an exponential average of the weights is what is shipped, its statistics estimated anew with it;
- one state file without pickled objects: a stopped training goes on.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.backends.tensorflow import build_keras, get_weights, require_tensorflow, set_weights
from ai_engine.runners.keras_layers import Network
from ai_engine.training.keras_data import Patches, Size

Say = Callable[[str], None]
Arrays = dict[str, npt.NDArray[Any]]

STATE_FILE = "keras-state.safetensors"
HISTORY_FILE = "keras-history.json"
REGIONS = ((1, 2, 3), (1, 3), (3,))
"""Whole tumour, core, enhancing tumour, as labels."""


@dataclass(frozen=True)
class TrainingPlan:
    """All that decides a training besides network and data."""

    minutes: float = 60.0
    """Of processor time."""
    sizes: tuple[tuple[float, int, Size], ...] = ((0.6, 2, (64, 64, 64)), (1.0, 1, (96, 96, 96)))
    """Until which share of the time, how many patches a step, how large."""
    learning_rate: float = 2e-3
    warm_up: int = 60
    weight_decay: float = 1e-4
    clip: float = 5.0
    ema_decay: float = 0.99
    statistics_patches: int = 40
    save_every_s: float = 180.0
    threads: int = 1
    seed: int = 2026


class KerasTrainer:
    """One training of one network on one source of patches."""

    def __init__(self, work: Path, network: Network, patches: Patches, plan: TrainingPlan, say: Say) -> None:
        self._tf = tf = require_tensorflow()
        import keras

        if not tf.executing_eagerly() or plan.threads < 1:
            raise ValueError("threads: 1 or more")
        with contextlib.suppress(RuntimeError):  # this process has computed with TensorFlow before: its threads stand
            tf.config.threading.set_intra_op_parallelism_threads(plan.threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        keras.utils.set_random_seed(plan.seed)
        self.work, self.network, self.plan, self.say = work, network, plan, say
        self._patches = patches
        self.model = build_keras(network, policy="mixed_bfloat16")
        self._optimizer = keras.optimizers.AdamW(
            plan.learning_rate, weight_decay=plan.weight_decay, global_clipnorm=plan.clip
        )
        self._optimizer.build(self.model.trainable_variables)
        self._average = [tf.Variable(variable, trainable=False) for variable in self.model.trainable_variables]
        self._keep = tf.Variable(0.0, trainable=False)
        self._steps: dict[Size, Callable[..., Any]] = {}
        self.iteration = 0
        self.used_s = 0.0
        self.history: list[dict[str, float]] = []

    @property
    def progress(self) -> float:
        """Share of the time that is used, 0 to 1."""
        return min(1.0, self.used_s / (60 * self.plan.minutes))

    def run(self, *, max_iterations: int | None = None) -> None:
        """Train until the time is used up, or for `max_iterations` more; safe to kill, then `resume`."""
        stop_at = None if max_iterations is None else self.iteration + max_iterations
        saved, losses = self.used_s, []
        while self.progress < 1 and (stop_at is None or self.iteration < stop_at):
            begin = time.process_time()
            losses.append(self._step())
            self.used_s += (time.process_time() - begin) / self.plan.threads
            if self.iteration % 25 == 0:
                self._record(losses)
                losses = []
            if self.used_s - saved >= self.plan.save_every_s:
                saved = self.used_s
                self.save()
        self.save()

    def _step(self) -> float:
        count, size = next(entry[1:] for entry in self.plan.sizes if self.progress < entry[0] or entry[0] >= 1)
        data, labels = self._patches.draw(count, size)
        warm = min(1.0, (self.iteration + 1) / self.plan.warm_up)
        rate = self.plan.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress)))
        self._optimizer.learning_rate.assign(rate)
        self._keep.assign(min(self.plan.ema_decay, (1 + self.iteration) / (10 + self.iteration)))
        if size not in self._steps:
            self._steps[size] = self._compiled()
        loss = float(self._steps[size](data, labels))
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite at iteration {self.iteration}")
        self.iteration += 1
        return loss

    def _compiled(self) -> Callable[..., Any]:
        tf, model, optimizer = self._tf, self.model, self._optimizer

        def step(data: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = self._loss(model(data, training=True), labels)
            optimizer.apply_gradients(
                zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
            )
            for old, new in zip(self._average, model.trainable_variables, strict=True):
                old.assign(old * self._keep + (1.0 - self._keep) * tf.convert_to_tensor(new))
            return loss

        compiled: Callable[..., Any] = tf.function(step)
        return compiled

    def _loss(self, logits: Any, labels: Any) -> Any:
        tf = self._tf
        logits = tf.cast(logits, tf.float32)
        entropy = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        shares = tf.nn.softmax(logits)
        wrong = []
        for region in REGIONS:
            found = tf.add_n([shares[..., part] for part in region])
            truth = tf.cast(tf.reduce_any([tf.equal(labels, part) for part in region], axis=0), tf.float32)
            overlap = 2 * tf.reduce_sum(found * truth) + 100.0
            wrong.append(1 - overlap / (tf.reduce_sum(found) + tf.reduce_sum(truth) + 100.0))
        return entropy + tf.add_n(wrong) / len(wrong)

    def _record(self, losses: list[float]) -> None:
        entry = {
            "iteration": self.iteration,
            "used_s": round(self.used_s, 1),
            "loss": round(float(np.mean(losses)), 5),
            "rate": float(self._optimizer.learning_rate.numpy()),
        }
        self.history.append(entry)
        left = (60 * self.plan.minutes - self.used_s) / 60
        self.say(
            f"iteration {self.iteration}  loss {entry['loss']:.3f}  {100 * self.progress:.0f} %  {left:.0f} min left"
        )

    # -- what is shipped ------------------------------------------------------------------------------------------

    def averaged_weights(self) -> Arrays:
        """The averaged weights, with the statistics of the normalisation estimated anew under them."""
        import keras

        model = build_keras(self.network)
        set_weights(model, self.network, self._averages())
        norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        usual = self._patches.random.bit_generator.state
        for number in range(self.plan.statistics_patches):
            data, _ = self._patches.draw(*self.plan.sizes[-1][1:])
            for layer in norms:
                layer.momentum = number / (number + 1)
            model(data, training=True)
        self._patches.random.bit_generator.state = usual
        return dict(get_weights(model, self.network))

    def _averages(self) -> Arrays:
        current: Arrays = dict(get_weights(self.model, self.network))
        by_path = {
            variable.path: average
            for variable, average in zip(self.model.trainable_variables, self._average, strict=True)
        }
        for layer in self.network.layers:
            for variable in self.model.get_layer(layer.name).weights:
                if variable.path in by_path:
                    current[f"{layer.name}/{variable.name}"] = np.asarray(by_path[variable.path].numpy())
        return current

    # -- state ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state beside the old one, then put it in its place."""
        from safetensors.numpy import save_file

        arrays: Arrays = {f"model/{name}": value for name, value in get_weights(self.model, self.network).items()}
        arrays |= {f"average/{index}": np.asarray(value.numpy()) for index, value in enumerate(self._average)}
        arrays |= {
            f"optimizer/{index}": np.atleast_1d(np.asarray(value.numpy()))
            for index, value in enumerate(self._optimizer.variables)
        }
        facts = {
            "iteration": self.iteration,
            "used_s": self.used_s,
            "history": self.history,
            "random": self._patches.random.bit_generator.state,
        }
        partial = self.work / f".{STATE_FILE}.part"
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, partial,
                  metadata={"facts": json.dumps(facts)})  # fmt: skip
        os.replace(partial, self.work / STATE_FILE)
        told = {"plan": asdict(self.plan), "history": self.history}
        (self.work / HISTORY_FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def resume(self) -> bool:
        """Go on from the state on disk; false if there is none."""
        from safetensors import safe_open

        path = self.work / STATE_FILE
        if not path.exists():
            return False
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        own = {name.removeprefix("model/"): value for name, value in arrays.items() if name.startswith("model/")}
        set_weights(self.model, self.network, own)
        for index, variable in enumerate(self._average):
            variable.assign(arrays[f"average/{index}"])
        for index, variable in enumerate(self._optimizer.variables):
            variable.assign(arrays[f"optimizer/{index}"].reshape(tuple(variable.shape)))
        self.iteration, self.used_s, self.history = facts["iteration"], facts["used_s"], facts["history"]
        self._patches.random.bit_generator.state = facts["random"]
        return True
