"""Trials that train together: runs whose settings differ in numbers alone, as one compiled program.

A trial has the step, the keys, the order of images and the augmentation of its single run. Numbers that differ are
traced values. The results equal those of the run within float rounding. States and metrics have a leading axis of
trials.
"""
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from modern_cnn.data.sources import Dataset
from modern_cnn.settings import VARYING, Settings, flatten
from modern_cnn.training import whiten
from modern_cnn.training.devices import AXIS, Devices
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.program import (
    Parts,
    Step,
    jit_once,
    make_count,
    make_gradients,
    make_init,
    make_parts,
    make_plan,
    make_step,
    seed_keys,
)
from modern_cnn.training.state import TrainState


def group_key(settings: Settings) -> str | None:
    """Return the same text for runs that can train together; None for a run that must train alone.

    Streamed sets (their images come from the host), runs that start from other weights, those that may stop early, and
    settings of how devices share a batch train alone. A number that is 0 or unset leaves out a part of the program:
    that is another group.
    """
    plain = (settings.parallel.compile, settings.parallel.batch_norm) == ("jit", "global")
    if settings.data.stream or settings.finetune.workdir or settings.early_stopping or not plain:
        return None
    flat = flatten(settings)
    return json.dumps(flat | {"seed": 0} | {name: "any" for name in VARYING if flat.get(name)}, sort_keys=True)


def _bare(state: TrainState) -> TrainState:
    """Return a state without network and optimiser, which are made again inside the compiled step."""
    return state.replace(module=None, optimizer=None)


def over_trials(function: Callable, devices: Devices) -> Callable:
    """Return `function(own, shared)` of one trial as a function of all: `own` and the result are stacked.

    On a GPU or TPU by vmap (not measured there), on CPUs by lax.map. Sixteen steps of LeNet, batch 256, on two cores of
    a busy Xeon (jax 0.10.2, the best of six) take 418 ms by lax.map, 1,244 by vmap, 973 by vmap over pairs and 630 in
    unrolled pairs. Two virtual devices need as much processor time as lax.map on one (442 and 431 ms).
    """
    if jax.default_backend() == "cpu":
        def stacked(own, shared):
            return jax.lax.map(lambda one: function(one, shared), own)
    else:
        stacked = jax.vmap(function, in_axes=(0, None))
    if devices.mesh.size == 1:
        return stacked
    own, shared = jax.sharding.PartitionSpec(AXIS), jax.sharding.PartitionSpec()
    return jax.shard_map(stacked, mesh=devices.mesh, in_specs=(own, shared), out_specs=own, check_vma=False)


class StackedProgram:
    """Trials with the same `group_key` as one program, used as `Program`: states and metrics have an axis of trials."""

    def __init__(self, trials: Sequence[Settings], dataset: Dataset):
        self.trials, self.settings, self.spec, self._dataset = trials, trials[0], dataset.spec, dataset
        self.devices = Devices(self.settings.parallel.count, whole_batches=True)
        self._plans = [make_plan(settings, self.spec) for settings in trials]
        self._parts = make_parts(self.settings, self.spec, self.devices)
        self.plan, self.module = self._parts.plan, self._parts.module
        self._feed = dataset.feed(self.devices, self.settings.augment.resized_crop)
        numbers = [{name: flatten(settings).get(name) for name in VARYING} for settings in trials]
        differ = [name for name in VARYING if len({own[name] for own in numbers}) > 1]
        keys = [seed_keys(settings.seed)[1] for settings in trials]
        self._own = self.stack([({name: np.float32(own[name]) for name in differ}, jax.random.key_data(key))
                                for own, key in zip(numbers, keys, strict=True)])
        learn, count, sizes = (over_trials(each, self.devices) for each in (self._learn, self._count, self._sizes))
        self.step: Step = jax.jit(lambda state, metrics, own, orders, data: learn((*own, state, metrics, orders), data),
                                  donate_argnums=(0, 1))
        self.gradients = jax.jit(lambda state, own, orders, data: sizes((*own, state, orders), data))
        self._evaluate = jax.jit(lambda state, metrics, *shared: count((state, metrics), shared))

    def _learn(self, own: tuple, data: Any) -> tuple[TrainState, Metrics, jax.Array]:
        """Return what the step of one trial returns; it is traced."""
        numbers, key, state, metrics, order = own
        parts = self._parts_of(numbers)
        step = make_step(parts, self.spec, self.devices, self._feed, key)
        state = state.replace(module=parts.module, optimizer=parts.optimizer)
        state, metrics, output = step(state, metrics, data, order)
        return _bare(state), metrics, output

    def _sizes(self, own: tuple, data: Any) -> dict[str, jax.Array]:
        """Return what the gradients of one trial return; it is traced."""
        numbers, key, state, order = own
        parts = self._parts_of(numbers)
        gradients = make_gradients(parts, self.spec, self.devices, self._feed, key)
        return gradients(state.replace(module=parts.module, optimizer=parts.optimizer), data, order)

    def _parts_of(self, numbers: dict[str, jax.Array]) -> Parts:
        """Return the parts of the trial with these numbers."""
        options: dict[str, Any] = {name.removeprefix("model."): value for name, value in numbers.items()
                                   if name.startswith("model.")}
        return make_parts(self.settings.replace(numbers), self.spec, self.devices, self.module.clone(**options))

    def _count(self, own: tuple, shared: tuple) -> Metrics:
        """Return the metrics of one trial with a batch added; it is traced."""
        state, metrics = own
        count = make_count(self.spec, self._feed, self.settings.augment)
        return count(state.replace(module=self.module), metrics, *shared)

    def initial_states(self) -> list[TrainState]:
        """Return the state of step 0 of each trial on the host, as `Program.init` draws it, without static parts."""
        create = jit_once(make_init(self._parts, self.spec))
        keys = [seed_keys(settings.seed)[0] for settings in self.trials]
        start = whiten.start_from(self._dataset, self.module, None)
        return [_bare(jax.device_get(create(jax.random.key_data(key), start))) for key in keys]

    def init(self) -> TrainState:
        """Return the states of step 0."""
        return self.stack(self.initial_states())

    def empty_metrics(self) -> Metrics:
        """Return metrics of no examples."""
        return self.stack([Metrics.empty()] * len(self.trials))

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple]:
        """Return the arguments of `step`: each trial has its own order of the same images."""
        feeds = [next(self._feed.train(settings.seed, epoch, first, self.plan.batch_size)) for settings in self.trials]
        args = self._own, self.stack([order for _, order in feeds]), feeds[0][0]
        return itertools.repeat(args, self.plan.steps_per_epoch - first)

    def evaluate(self, state: TrainState, split: str) -> Metrics:
        """Return the metrics of every trial on a split."""
        metrics, batch_size = self.empty_metrics(), min(self.plan.batch_size, self.spec.sizes[split])
        for shared in self._feed.evaluation(split, batch_size):
            metrics = self._evaluate(state, metrics, *shared)
        return metrics

    def learning_rates(self, step: int) -> list[float]:
        """Return the learning rate of a step, of each trial."""
        return [float(plan.schedule(step)) for plan in self._plans]

    def stack(self, trees: Sequence[Any]) -> Any:
        """Return the trees of all trials as one, divided among the devices."""
        more = -len(trees) % self.devices.mesh.size  # the last is repeated until the devices can share them equally
        host = jax.device_get([*trees, *[trees[-1]] * more])
        return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *host), self.devices.divided)

    def unstack(self, tree: Any) -> list[Any]:
        """Return the tree of each trial in the memory of the host."""
        # They are copies: the device may donate its arrays while a checkpoint is still being written.
        host = jax.tree.map(np.array, jax.device_get(tree))
        return [jax.tree.map(lambda leaf, i=i: leaf[i, ...], host) for i in range(len(self.trials))]
