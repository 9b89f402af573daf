"""Trials that train together: runs whose configs differ in numbers alone, as one compiled program.

A trial's step is `loop.train_function`, with the numbers that differ as traced values in a copy of the config; keys,
order of the images and augmentation are those of the single run, which it equals within float rounding. What goes
from step to step are the states of all trials, stacked along a leading axis. Every trial has a workdir of its own,
written by a `loop.Run`, which a single run can go on with.
"""
import contextlib
import copy
import itertools
import json
import logging
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from modern_cnn import settings
from modern_cnn.data import sources
from modern_cnn.errors import UserError
from modern_cnn.runs import log as logs
from modern_cnn.runs import loop, workdir
from modern_cnn.runs.load import eval_function
from modern_cnn.training.devices import Apart
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)

# The fields that may differ beside the seed. One that is 0 or unset leaves out a part of the program, so that trials
# with and without are two programs.
NUMBERS = ("optimizer.learning_rate", "optimizer.weight_decay", "optimizer.momentum", "optimizer.ema_decay",
           "schedule.factor", "model.dropout_rate", "loss.label_smoothing")
PROGRESS_SECONDS = 10.0  # between two lines that say how far it is


def _get(config, field: str) -> Any:
    """The value of a field; None where the config has none."""
    for part in field.split("."):
        if part not in config:
            return None
        config = config[part]
    return config


def _put(config, field: str, value: Any) -> None:
    *sections, last = field.split(".")
    for part in sections:
        config = config[part]
    with config.ignore_type():
        config[last] = value


def program(config) -> str | None:
    """The same text for configs whose runs are one program; None for one that trains alone.

    Alone are streamed sets, whose images come from the host, runs that start from another's weights, and what says how
    several devices share a batch.
    """
    parallel = config.parallel
    if config.data.stream or config.finetune.workdir or (parallel.compile, parallel.batch_norm) != ("jit", "global"):
        return None
    config = copy.deepcopy(config)
    _put(config, "seed", 0)
    for field in NUMBERS:
        value = _get(config, field)
        if value:
            _put(config, field, "any")
    return json.dumps(config.to_dict(), sort_keys=True)


def over_trials(function: Callable, devices: Apart) -> Callable:
    """`function(own, shared)` of one trial as one of all: each leaf of `own` and of the result has an axis for them.

    On a GPU or TPU by vmap. On CPUs by lax.map: sixteen steps of LeNet, batch 256, on two cores of a Xeon that did
    other work too (jax 0.10.2, the best of six), take 418 ms by lax.map, 1,244 by vmap, 973 by vmap over pairs and 630
    in pairs unrolled. Trials divided over two virtual devices take the processor time of lax.map (442 ms to 431): a
    single step keeps two cores busy already, 28 ms of their time, and a sixteenth of these takes as much.
    """
    if jax.default_backend() == "cpu":
        return devices.each(lambda own, shared: jax.lax.map(lambda one: function(one, shared), own))
    return devices.each(jax.vmap(function, in_axes=(0, None)))


def _bare(state: TrainState) -> TrainState:
    """Arrays alone: what is static is made anew from the config, inside the compiled step."""
    return state.replace(module=None, optimizer=None)


def _unstack(tree: Any, count: int) -> list[Any]:
    """In the host's memory, copied: the device's may be donated while a checkpoint is still being written."""
    host = jax.tree.map(np.array, jax.device_get(tree))
    return [jax.tree.map(lambda leaf, i=i: leaf[i, ...], host) for i in range(count)]


def initial_states(configs: Sequence, spec: sources.Spec) -> list[TrainState]:
    """Each run's state of step 0, as `loop.create_state` draws it, without what is static."""
    devices, config = Apart(1), configs[0]
    create = devices.on_every(loop.state_function(config, spec, loop.make_plan(config, spec, devices), devices))
    keys = [jax.random.split(jax.random.key(config.seed))[0] for config in configs]
    return [_bare(jax.device_get(create(jax.random.key_data(key)))) for key in keys]


class _Progress(logs.RunLog):
    """Keeps the host from running ahead of the device, and tells of all trials in one line now and then."""

    def __init__(self, runs: Sequence[loop.Run], note: str):
        first = runs[0]
        super().__init__(None, first.step, first.plan.total_steps, first.plan.batch_size, quiet=True)
        self._runs, self._note, self._first, self._last = runs, note, first.step, 0.0

    def restart(self) -> None:
        """After an evaluation, whose time is not training's."""
        super().restart()
        for run in self._runs:
            run.log.restart()

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """A line, unless there was one a moment ago."""
        now = time.perf_counter()
        if now - self._last < PROGRESS_SECONDS or not losses:
            return
        self._last = now
        left = (now - self._start[0]) / max(step - self._first, 1) * (self._total_steps - step)
        log.info("%s%d trials together, step %d/%d, training loss %.4f to %.4f, %s left", self._note, len(losses), step,
                 self._total_steps, min(losses), max(losses), logs.duration(left))


class Together(loop.Run):
    """Runs at the same step of the same program, as one: it takes their steps, and they write what is theirs.

    Args:
      runs: with states without what is static.
      dataset: of all.
      note: begins each line of progress.
    """

    def __init__(self, runs: Sequence[loop.Run], dataset: sources.Dataset, note: str = ""):
        first = runs[0]
        self.runs, self.failed = runs, {}  # number of a run -> why it goes on no more
        self.config, self.spec, self.plan, self.devices = first.config, first.spec, first.plan, first.devices
        self.step = self.resumed_at = self.saved_at = first.step
        self.stopped, self.tracing = 0, False
        self.log = _Progress(runs, note)
        self.feed = dataset.feed(self.devices, self.config.augment.resized_crop)
        numbers = {field: [_get(run.config, field) for run in runs] for field in NUMBERS}
        differ = [field for field, values in numbers.items() if len(set(values)) > 1]
        self.own = self._stack([({field: np.float32(_get(run.config, field)) for field in differ},
                                 jax.random.key_data(jax.random.split(jax.random.key(run.config.seed))[1]))
                                for run in runs])
        self.state = self._stack([run.state for run in runs])
        self.metrics = self._stack([run.metrics for run in runs])
        learn, count = (over_trials(function, self.devices) for function in (self._learn, self._evaluate))
        self.train_fn = jax.jit(lambda state, metrics, own, orders, data: learn((*own, state, metrics, orders), data),
                                donate_argnums=(0, 1))
        self.eval_fn = jax.jit(lambda state, metrics, *shared: count((state, metrics), shared))

    def _stack(self, trees: Sequence[Any]) -> Any:
        """On the devices; the last is there several times where they could not share them equally."""
        trees = jax.device_get([*trees, *[trees[-1]] * (self.devices.padded(len(trees)) - len(trees))])
        return self.devices.divide(jax.tree.map(lambda *leaves: np.stack(leaves), *trees))

    def _learn(self, own: tuple, data: Any) -> tuple[TrainState, Metrics, jax.Array]:
        """A trial's step, traced."""
        numbers, key, state, metrics, order = own
        key = jax.random.wrap_key_data(key)
        config = copy.deepcopy(self.config)
        for field, value in numbers.items():
            _put(config, field, value)
        plan = loop.make_plan(config, self.spec, self.devices)
        module, optimizer = loop.make_parts(config, self.spec, plan, self.devices)
        step = loop.train_function(config, self.spec, plan, key, self.devices, self.feed)
        state, metrics, done = step(state.replace(module=module, optimizer=optimizer), metrics, data, order)
        return _bare(state), metrics, done

    def _evaluate(self, own: tuple, shared: tuple) -> Metrics:
        """A trial's metrics with a batch added, traced."""
        state, metrics = own
        module = loop.build_model(self.config.model.to_dict(), self.spec)
        count = eval_function(self.spec, self.feed, self.config.augment.test_flip)
        return count(state.replace(module=module), metrics, *shared)

    def batches(self, epoch: int, first: int) -> Iterator[tuple]:
        """Arguments of `train_fn`: each trial has an order of its own over the same images."""
        feeds = [next(self.feed.train(run.config.seed, epoch, first, self.plan.batch_size)) for run in self.runs]
        return itertools.repeat((self.own, self._stack([order for _, order in feeds]), feeds[0][0]))

    def _each(self, action: Callable[[int, loop.Run], Any]) -> dict[int, Any]:
        """{number: what `action` returned} for the runs that go on; one that raises goes on no more.

        Raises:
          UserError: none is left; the reason of the last.
        """
        results = {}
        for i, run in enumerate(self.runs):
            if i in self.failed:
                continue
            run.step = self.step
            try:
                results[i] = action(i, run)
            except UserError as e:
                self.failed[i] = e
                log.warning("%s: %s", run.directory.name, e)
        if not results:
            raise self.failed[max(self.failed)]
        return results

    def log_train(self) -> None:
        """Each run's record of what was counted since the last time."""
        metrics = _unstack(self.metrics, len(self.runs))
        self.metrics = self._stack([Metrics.empty()] * len(self.runs))

        def write(i, run):
            run.metrics = metrics[i]
            run.log_train()
            return run.results["train"]["loss"]

        self.log.tell(self.step, list(self._each(write).values()))

    def save(self, validation: dict[int, dict[str, float]] | None = None) -> None:
        """A checkpoint of each."""
        states, metrics = _unstack(self.state, len(self.runs)), _unstack(self.metrics, len(self.runs))

        def write(i, run):
            run.state, run.metrics = states[i], metrics[i]
            run.save(validation and validation[i])

        self._each(write)
        self.saved_at = self.step

    def score(self, split: str, state: TrainState | None = None,
              step: Sequence[int] | None = None) -> dict[int, dict[str, float]]:
        """Evaluates all on a split, and each run records its own, as of its number of `step` where that is given."""
        metrics = self._stack([Metrics.empty()] * len(self.runs))
        batch_size = min(self.plan.batch_size, self.spec.sizes[split])
        for shared in self.feed.evaluation(split, batch_size):
            metrics = self.eval_fn(self.state if state is None else state, metrics, *shared)
        metrics = _unstack(metrics, len(self.runs))
        return self._each(lambda i, run: run.note(split, step[i] if step else self.step, metrics[i]))

    def leave(self) -> None:
        """Saves what a signal has stopped."""
        if self.saved_at < self.step:
            self.save()
        self._each(lambda _, run: run.checkpoints.wait())

    def finish(self) -> list[dict[str, Any] | UserError]:
        """Of each run what `train_and_evaluate` returns, or why it failed."""
        chosen = self._each(lambda _, run: run.choose())
        any_state = next(iter(chosen.values()))[1]
        states = self._stack([chosen[i][1] if i in chosen else any_state for i in range(len(self.runs))])
        steps = {i: step for i, (step, _) in chosen.items()}
        for split in sorted({split for i, step in steps.items() for split in self.runs[i].unscored(step)}):
            self.score(split, states, steps)
        results = self._each(lambda i, run: run.conclude(steps[i]))
        return [results[i] if i in results else self.failed[i] for i in range(len(self.runs))]


def train_together(configs: Sequence, directories: Sequence[Path], note: str = "",
                   stop: Callable[[int], int] = lambda step: 0) -> list[dict[str, Any] | Exception]:
    """Trains runs of one `program` to their ends, each from where its directory is.

    Args:
      note: begins each line of progress.
      stop: what `mesh.stop_signals` gives.
    Returns:
      Of each what `loop.train_and_evaluate` would have returned, or the error with which it ended.
    Raises:
      UserError: something that no run can go on with.
      SystemExit: stopped by SIGTERM (143) or SIGINT (130), after a checkpoint of each.
    """
    for config in configs:
        settings.check(config)
    dataset = sources.load(configs[0].data)
    states = initial_states(configs, dataset.spec)
    outcomes: list[dict[str, Any] | Exception] = [UserError("not trained")] * len(configs)
    with contextlib.ExitStack() as closing:
        at_step: dict[int, list[tuple[int, loop.Run]]] = defaultdict(list)
        for number, (config, directory, state) in enumerate(zip(configs, directories, states, strict=True)):
            try:
                closing.enter_context(workdir.lock(directory))
                run = loop.Run(config, directory, dataset, state)
            except UserError as e:
                outcomes[number] = e
                continue
            closing.callback(run.log.close)
            closing.enter_context(contextlib.closing(run.checkpoints))
            at_step[run.step].append((number, run))
        for numbered in at_step.values():
            group = Together([run for _, run in numbered], dataset, note)
            try:
                group.train(stop)
                if group.stopped:
                    group.leave()
                    log.warning("stopped by %s after step %d, which is saved; the same command goes on from there",
                                signal.Signals(group.stopped).name, group.step)
                    raise SystemExit(128 + group.stopped)
                results = group.finish()
            except UserError as e:  # not one of them is left
                results = [group.failed.get(i, e) for i in range(len(group.runs))]
            for (number, _), result in zip(numbered, results, strict=True):
                outcomes[number] = result
    return outcomes
