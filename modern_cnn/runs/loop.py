"""The loop around the pure steps: data in, checkpoints and metrics out. One call trains a run, or goes on with it."""
import contextlib
import dataclasses
import logging
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from modern_cnn import models
from modern_cnn.data import augment, formats, sources
from modern_cnn.errors import UserError
from modern_cnn.settings import is_zero
from modern_cnn.training import finetune, devices as mesh, optim, steps
from modern_cnn.runs import log as logs, workdir
from modern_cnn import settings
from modern_cnn.runs.checkpoints import Checkpoints, saved_steps
from modern_cnn.runs.load import compile_eval, evaluate
from modern_cnn.training.devices import Apart, Devices
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)

PROFILE_STEPS = (10, 20)  # --profile skips the first steps (compilation) and records this many


class NotFinite(UserError):
    """The loss of `step`, or a parameter after it, is not finite."""

    def __init__(self, text: str, step: int):
        super().__init__(text)
        self.step = step


@dataclasses.dataclass(frozen=True)
class Plan:
    """Numbers derived once from a config and a data set; none of them is ever in a config."""
    batch_size: int
    steps_per_epoch: int  # full batches; the images left over are others in every epoch
    total_steps: int
    schedule: Callable[[jax.Array], jax.Array]


def make_plan(config, spec: sources.Spec, devices: Devices) -> Plan:
    """Raises UserError for a batch larger than the training set or than memory, or one that cannot be divided."""
    batch_size, train_size = config.data.batch_size, spec.sizes["train"]
    if batch_size % (len(devices) * config.accumulate):
        parts = " and ".join([f"{len(devices)} devices"] * (len(devices) > 1)
                             + [f"config.accumulate={config.accumulate} parts"] * (config.accumulate > 1))
        raise UserError(f"config.data.batch_size={batch_size} cannot be divided among {parts}"
                        + (" (--config.parallel.count=N uses fewer)" if len(devices) > 1 else ""))
    if batch_size > train_size:
        raise UserError(f"config.data.batch_size={batch_size} is more than the {train_size} training images of "
                        f"{spec.source}")
    formats.check_memory(f"a batch of {spec.source}", batch_size, *spec.image_shape[:2])
    steps_per_epoch = train_size // batch_size
    total = config.epochs * steps_per_epoch
    peak = optim.peak_learning_rate(config.optimizer, batch_size)
    schedule = optim.make_schedule(config.schedule, peak, steps_per_epoch, total)
    return Plan(batch_size, steps_per_epoch, min(total, config.max_steps or total), schedule)


def build_model(model: dict[str, Any], spec: sources.Spec):
    """The network of a config's `model` section for a data set. Raises UserError where the images do not fit it."""
    module = models.build(**model, num_classes=spec.num_classes)
    try:
        images = jnp.zeros((2, *spec.image_shape))
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=True))["params"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            if leaf.size == 0:
                raise ValueError(f"its {jax.tree_util.keystr(path)} would have the shape {leaf.shape}")
    except (ValueError, TypeError, ZeroDivisionError) as e:
        if isinstance(e, UserError):
            raise
        height, width, channels = spec.image_shape
        hint = " (--config.data.image_size=N resizes them)" if "too small" in str(e) else ""
        raise UserError(f"the network {model['name']!r} cannot be built for the {height}x{width}x{channels} images of "
                        f"{spec.source}: {e}{hint}") from e
    return module


def make_parts(config, spec: sources.Spec, plan: Plan, devices: Devices) -> tuple[Any, optax.GradientTransformation]:
    """(network, optimiser): what of a state is not arrays."""
    module = devices.module(build_model(config.model.to_dict(), spec))
    optimizer = optim.make_optimizer(config.optimizer, plan.schedule)
    return finetune.adapt(config.finetune, module, optimizer, spec.image_shape)


def state_function(config, spec: sources.Spec, plan: Plan, devices: Devices) -> Callable:
    """(data of a key, variables to start from or None) -> the state of step 0, where they say nothing drawn from it."""
    parts, ema = make_parts(config, spec, plan, devices), not is_zero(config.optimizer.ema_decay)
    return lambda data, start=None: TrainState.create(jax.random.wrap_key_data(data), *parts, spec.image_shape, start,
                                                      ema=ema)


def create_state(config, spec: sources.Spec, plan: Plan, key: jax.Array, devices: Devices, *,
                 resuming: bool = False) -> tuple[TrainState, dict[str, Any]]:
    """The state of step 0, drawn from `key`, and for run.json where its weights come from if not all are drawn.

    Args:
      resuming: a checkpoint will replace it: weights to start from are not read again.
    """
    start, origin = None, {}
    if config.finetune.workdir and not resuming:
        start, origin = finetune.pretrained(config, build_model(config.model.to_dict(), spec), spec)
    create = devices.on_every(state_function(config, spec, plan, devices))
    return create(devices.replicate(jax.random.key_data(key)), start), origin  # an argument, as in compile_train


def train_function(config, spec: sources.Spec, plan: Plan, key: jax.Array, devices: Devices, feed) -> Callable:
    """(state, metrics, *arguments of the feed) -> (state, metrics, done): learnt from the next batch of the epoch.

    Of a set on the device the batch is found from `state.step`, so nothing but the call goes there from the host.
    `done` is an array that stays where the others are donated, to ask whether the step is over. Under pmap it is two
    programs, that which finds the batch and that which learns; elsewhere it is to be compiled as one.
    """
    dropout_key, augment_key = jax.random.split(key)
    train_step = devices.spread(partial(
        steps.train_step, label_smoothing=config.loss.label_smoothing, ema_decay=config.optimizer.ema_decay,
        accumulate=config.accumulate))

    def next_batch(step, *args):
        batch = feed.train_batch(step % plan.steps_per_epoch, plan.batch_size, *args)
        key = jax.random.fold_in(augment_key, step)
        images = augment.augment(key, batch["image"], config.augment, cropped=config.data.stream)
        batch = augment.mix(key, images, batch["label"], config.augment)
        return devices.split(batch | {"image": augment.normalize(batch["image"], spec.mean, spec.std)})

    if devices.pmapped:
        next_batch = jax.jit(next_batch)

    def step(state, metrics, *args):
        state, new = train_step(state, next_batch(state.step, *args), dropout_key)
        return state, metrics.merge(new), new.count

    return step


def compile_train(config, spec: sources.Spec, plan: Plan, key: jax.Array, devices: Devices, feed) -> Callable:
    """`train_function`, compiled; state and metrics are donated."""
    if devices.pmapped:
        return train_function(config, spec, plan, key, devices, feed)

    def step(key, *args):
        return train_function(config, spec, plan, jax.random.wrap_key_data(key), devices, feed)(*args)

    # --debug_nans runs a bad step again, operation by operation: its inputs must still be there.
    compiled = jax.jit(step, donate_argnums=() if jax.config.jax_debug_nans else (1, 2))
    # The key as an argument: runs of other seeds find this program in the compilation cache.
    return partial(compiled, devices.replicate(jax.random.key_data(key)))


class Run:
    """One training run: what `train_and_evaluate` builds, and the steps it takes with it.

    Args:
      config, directory: of `train_and_evaluate`.
      dataset, state: the data, and the state of step 0, where there are any already (see trials.py, which also
        compiles its own steps); else they are made.
    """

    def __init__(self, config, directory: Path, dataset: sources.Dataset | None = None,
                 state: TrainState | None = None):
        settings.check(config)
        together = state is not None
        dataset = dataset or sources.load(config.data)
        self.config, self.directory, self.spec = config, directory, dataset.spec
        self.devices = (Apart if together else Devices)(**config.parallel)
        self.plan = make_plan(config, self.spec, self.devices)
        init_key, step_key = jax.random.split(jax.random.key(config.seed))
        origin: dict[str, Any] = {}
        if not together:
            state, origin = create_state(config, self.spec, self.plan, init_key, self.devices,
                                         resuming=bool(saved_steps(directory)))
        self.state, self.metrics = state, self.devices.replicate(Metrics.empty())
        self.parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        self._open(origin, quiet=together)
        if not together:
            self.feed = dataset.feed(self.devices, config.augment.resized_crop)
            self.train_fn = compile_train(config, self.spec, self.plan, step_key, self.devices, self.feed)
            self.eval_fn = compile_eval(self.spec, self.devices, self.feed, config.augment.test_flip)

    def _open(self, origin: dict[str, Any], quiet: bool) -> None:
        """The directory: what it records and has recorded, and the newest checkpoint in it."""
        saved = saved_steps(self.directory)
        if saved and saved[-1] > self.plan.total_steps:
            raise UserError(f"{self.directory} is at step {saved[-1]} already, beyond the {self.plan.total_steps} "
                            "steps that config.epochs and config.max_steps now ask for")
        mesh.wait_for_all("every process has read what is there")
        if mesh.leads():
            described = workdir.describe_run(self.spec, self.parameters) | origin
            workdir.record(self.directory, self.config.to_dict(), described, bool(saved))
        self.checkpoints = Checkpoints(self.directory)
        restored = self.checkpoints.restore(self.state, self.metrics)
        if restored:
            self.state, self.metrics = restored
        self.step = self.resumed_at = self.saved_at = int(self.state.step)
        self.scores = {(record["split"], record["step"]): record
                       for record in logs.read_metrics(self.directory / "metrics.jsonl") if record["step"] <= self.step}
        self.log = logs.RunLog(self.directory if mesh.leads() else None, self.step, self.plan.total_steps,
                               self.plan.batch_size, quiet)
        self.results: dict[str, dict[str, float]] = {}  # the latest of each split
        self.tracing = False
        self.stopped = 0  # the signal that ended the run before its last step

    @property
    def epoch(self) -> float:
        return self.step / self.plan.steps_per_epoch

    def train(self, stop: Callable[[int], int], profile: bool = False) -> None:
        """To the end of the run, or until `stop` tells of a signal."""
        self.log.restart()
        while self.step < self.plan.total_steps and not self.stopped:
            before = self.step
            self.train_epoch(stop, profile)
            if self.step == before:  # a signal came before the first step
                break
            if self.step % self.plan.steps_per_epoch == 0 or self.step >= self.plan.total_steps:
                self.finish_epoch()

    def batches(self, epoch: int, first: int) -> Iterator[tuple]:
        """The arguments of `train_fn`, after state and metrics, for the batches of an epoch from number `first` on."""
        return self.feed.train(self.config.seed, epoch, first, self.plan.batch_size)

    def train_epoch(self, stop: Callable[[int], int], profile: bool) -> None:
        """From `self.step` to the end of its epoch or of the run, or until `stop` tells of a signal."""
        plan = self.plan
        epoch, first = divmod(self.step, plan.steps_per_epoch)
        arguments = self.batches(epoch, first)
        end = min((epoch + 1) * plan.steps_per_epoch, plan.total_steps)
        while self.step < end:
            self.stopped = stop(self.step)
            if self.stopped:
                return
            if profile:
                self._profile()
            self.state, self.metrics, done = self.train_fn(self.state, self.metrics, *next(arguments))
            self.step += 1
            self.log.tick(self.step, done)
            if self.step == end or self._log_due(self.step % plan.steps_per_epoch, end - self.step):
                self.log_train()
            if self.step < end and self._save_due():
                self.save()

    def _save_due(self) -> bool:
        every = self.config.checkpoint_every_steps
        return bool(every) and self.step % every == 0

    def _log_due(self, position: int, left: int) -> bool:
        """Counted within the epoch; a record that the end of the epoch would soon follow is left to that."""
        every = self.config.log_every_steps
        return bool(every) and position % every == 0 and left >= every // 2

    def log_train(self) -> None:
        """Writes what was counted since the last time, and stops the run if it was not finite."""
        means = self.metrics.means(self.spec.num_classes)
        self._check(int(self.metrics.bad_step))
        self.results["train"] = means
        self.metrics = self.devices.replicate(Metrics.empty())
        self.log.train(self.step, self.epoch, means, float(self.plan.schedule(self.step - 1)))
        if self.config.log_norms:
            self.log.norms(self.step, self.epoch, self.state.collections.get("batch_stats", {}))

    def _check(self, bad_step: int) -> None:
        if bad_step >= 0:
            self.checkpoints.wait()
            kept = self.checkpoints.steps()
            raise NotFinite(
                f"the loss is not finite at step {bad_step} (epoch {bad_step / self.plan.steps_per_epoch:.2f}); "
                + (f"the last good checkpoint, step {kept[-1]}, is kept in {self.directory}. " if kept else
                   "no checkpoint had been written yet. ")
                + f"Lower config.optimizer.learning_rate (now {self.config.optimizer.learning_rate}) in another "
                "--workdir, or add --debug_nans to see which operation it was", bad_step)

    def save(self, validation: dict[str, float] | None = None) -> None:
        """A checkpoint of this step, unless the run has become non-finite."""
        self._check(int(self.metrics.bad_step))
        if not self.checkpoints.save(self.state, self.metrics, validation):
            self._check(self.step)
        self.saved_at = self.step

    def finish_epoch(self) -> None:
        """Evaluation and checkpoint where the cadence or the end of the run asks for them."""
        epoch, rest = divmod(self.step, self.plan.steps_per_epoch)
        last = self.step >= self.plan.total_steps
        if not last and (rest or epoch % self.config.eval_every_epochs):
            if self._save_due():
                self.save()
            return
        validation = self.score("validation") if "validation" in self.spec.sizes else None
        if self.config.test_every_epoch:
            self.score("test")
        self.save(validation)
        self.log.restart()

    def score(self, split: str, state: TrainState | None = None, step: int | None = None) -> dict[str, float]:
        """Evaluates a split and records it, by default with the current state."""
        step = self.step if step is None else step
        metrics = evaluate(self.eval_fn, state or self.state, self.feed, split, self.spec, self.plan.batch_size,
                           self.devices)
        return self.note(split, step, metrics)

    def note(self, split: str, step: int, metrics: Metrics) -> dict[str, float]:
        """Records what was counted over a split."""
        means = metrics.means(self.spec.num_classes)
        self.results[split] = self.scores[split, step] = means
        self.log.evaluation(step, step / self.plan.steps_per_epoch, split, means)
        return means

    def _profile(self) -> None:
        start, count = PROFILE_STEPS
        if self.step - self.resumed_at == start:
            jax.block_until_ready(self.state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # its hooks crash the process when one of Orbax's threads ends meanwhile
            jax.profiler.start_trace(self.directory / "profile", create_perfetto_trace=True, profiler_options=options)
            self.tracing = True
        elif self.step - self.resumed_at == start + count:
            self.stop_profile()

    def stop_profile(self) -> None:
        """Writes the trace if one is being recorded."""
        if self.tracing:
            jax.block_until_ready(self.state)
            jax.profiler.stop_trace()
            self.tracing = False
            log.info("profile: tensorboard --logdir=%s, or open its perfetto_trace.json.gz at ui.perfetto.dev",
                     self.directory / "profile")

    def leave(self) -> None:
        """Saves what a signal has stopped."""
        if self.saved_at < self.step:
            self.save()
        self.checkpoints.wait()

    def choose(self) -> tuple[int, TrainState]:
        """The run's result: the step of the chosen checkpoint, and the state in it but for the optimiser's."""
        chosen, variables = self.checkpoints.result(self.state.scored)
        return chosen, self.state.replace(params=variables.pop("params"), collections=variables, ema=None)

    def unscored(self, chosen: int) -> list[str]:
        """The splits on which the chosen checkpoint has no score yet."""
        return [split for split in ("validation", "test")
                if split in self.spec.sizes and (split, chosen) not in self.scores]

    def conclude(self, chosen: int) -> dict[str, Any]:
        """The scores of the chosen checkpoint, each measured once by now; curves.png and the table, unless quiet."""
        for split in ("validation", "test"):
            if split in self.spec.sizes:
                recorded = self.scores[split, chosen]
                self.results[split] = {name: recorded[name] for name in ("loss", "accuracy", "top5")
                                       if name in recorded}
        self.log.close()
        if mesh.leads() and not self.log.quiet:
            curves = logs.draw_curves(
                self.directory, f"{self.config.model.name} on {self.spec.source}, {self.parameters:,} parameters")
            log.info("\n%s", logs.table([*self._summary(chosen), ("curves", str(curves))]))
        return {"step": chosen} | self.results

    def _summary(self, chosen: int) -> list[tuple[str, str]]:
        """The rows of the final table."""
        trained, seconds = self.step - self.resumed_at, self.log.training_seconds
        rows = [
            ("network", f"{self.config.model.name}, {self.parameters:,} parameters"),
            ("data", f"{self.spec.origin}, " + ", ".join(f"{n:,} {split}" for split, n in self.spec.sizes.items())),
            ("device", f"{jax.devices()[0].device_kind} ({jax.default_backend()}), {len(self.devices)} of "
                       f"{jax.device_count()} used"),
            ("trained", f"{self.step:,} steps of {self.plan.batch_size} images, {self.epoch:.4g} epochs"
             + (f" ({trained:,} steps in this process)" if self.resumed_at else "")),
        ]
        if trained:
            rows.append(("speed", f"{trained * self.plan.batch_size / seconds:,.0f} images/s with compilation, "
                                  f"{logs.duration(seconds)} of training"))
        why = "best on validation" if "validation" in self.spec.sizes else "the last"
        rows.append(("checkpoint", f"step {chosen}, {why}"))
        return rows + [(split, "  ".join(f"{name} {value:.4f}" for name, value in self.results[split].items()))
                       for split in ("train", "validation", "test") if split in self.results]


def train_and_evaluate(config, directory: str | Path, *, profile: bool = False,
                       stop: Callable[[int], int] | None = None) -> dict[str, Any]:
    """Trains a run in a directory, or goes on with the one that is there, to its end.

    Args:
      config: a ConfigDict with the fields of configs/base.py.
      directory: the workdir; holds config.json, run.json, metrics.jsonl, checkpoints/, tensorboard/, curves.png.
      profile: record PROFILE_STEPS into `directory`/profile.
      stop: what `mesh.stop_signals` gives, of a caller who listens to signals already.
    Returns:
      {'step': the chosen checkpoint, 'test', and where there are any 'validation', 'train': {'loss', 'accuracy', ..}};
      'train' is the last record of this process.
    Raises:
      UserError: bad input, or a run that cannot go on; whatever was saved stays.
      SystemExit: stopped by SIGTERM (143) or SIGINT (130), after a checkpoint.
    """
    directory = Path(directory)
    lock = workdir.lock(directory) if mesh.leads() else contextlib.nullcontext()
    with workdir.disk_errors(directory), lock, contextlib.ExitStack() as closing:
        # As a context too: JAX 0.10 stops checking once one of its own functions has paused the check in this thread.
        closing.enter_context(jax.debug_nans(jax.config.jax_debug_nans))
        run = Run(config, directory)
        closing.callback(run.log.close)
        closing.enter_context(contextlib.closing(run.checkpoints))
        log.info("%s on %s, %s: %s parameters, %d steps of %d images%s", config.model.name, run.spec.origin,
                 jax.devices()[0].device_kind, f"{run.parameters:,}", run.plan.total_steps, run.plan.batch_size,
                 f", going on from step {run.step}" if run.step else "")
        stop = stop or closing.enter_context(mesh.stop_signals())
        run.train(stop, profile)
        run.stop_profile()
        if profile and run.step - run.resumed_at <= PROFILE_STEPS[0]:
            log.warning("nothing was profiled: that begins after %d steps, and this process did %d", PROFILE_STEPS[0],
                        run.step - run.resumed_at)
        if run.stopped:
            run.leave()
            log.warning("stopped by %s after step %d, which is saved; the same command with --workdir=%s goes on from "
                        "there", signal.Signals(run.stopped).name, run.step, directory)
            raise SystemExit(128 + run.stopped)
        chosen, state = run.choose()
        for split in run.unscored(chosen):
            run.score(split, state, chosen)
        return run.conclude(chosen)
