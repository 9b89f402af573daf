"""The loop around a program: step, log, evaluate, save. One call trains a run, or goes on with it."""
import contextlib
import logging
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import multihost_utils

from modern_cnn import settings
from modern_cnn.data import sources
from modern_cnn.errors import UserError
from modern_cnn.runs import load, mirror, workdir
from modern_cnn.runs.checkpoints import align, saved_steps
from modern_cnn.runs.log import Progress
from modern_cnn.runs.record import HELD_OUT, Record, summarize
from modern_cnn.settings import Settings
from modern_cnn.training import devices
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.program import Plan, Program
from modern_cnn.training.stacked import StackedProgram
from modern_cnn.training.state import TrainState
from modern_cnn.training.unused import unused

log = logging.getLogger(__name__)

PROFILE_STEPS = (10, 20)  # --profile skips this many steps (compilation) and records this many
Stop = Callable[[int], int]  # step -> the signal to stop for before it, or 0
Watch = Callable[[int, TrainState], None]  # called before each step with the step and the state
Programs = Program | StackedProgram


class Trained(NamedTuple):
    """Where a loop ended; `signal` is what stopped it before its last step, or 0."""
    state: TrainState
    metrics: Metrics
    step: int
    signal: int


def due(settings: Settings, plan: Plan, step: int) -> tuple[bool, bool, bool]:
    """Return whether to log, evaluate and save after a step: at the end of the run all, else as the settings say."""
    epoch, position = divmod(step, plan.steps_per_epoch)
    last = step == plan.total_steps
    left = min(plan.steps_per_epoch - position, plan.total_steps - step)  # in this epoch
    every, save_every = settings.log_every_steps, settings.checkpoint_every_steps
    # A record that the end of the epoch would soon follow is left out.
    logs = last or not position or (every > 0 and position % every == 0 and left >= every // 2)
    evaluates = last or (not position and epoch % settings.eval_every_epochs == 0)
    return logs, evaluates, evaluates or (save_every > 0 and step % save_every == 0)


def fit(program: Programs, records: Sequence[Record] = (), stop: Stop = lambda step: 0, *,
        state: TrainState | None = None, metrics: Metrics | None = None, until: int = 0,
        progress: Progress | None = None, watch: Watch | None = None) -> Trained:
    """Train a program to its last step: one run, trials together, or without records a benchmark or a notebook.

    A record for each trial receives metrics and checkpoints. A record that fails gets no more; if all have
    failed, raise UserError with the last reason. `stop` is asked before each step. The loop starts from `state` and
    `metrics`, by default of step 0, and ends after step `until`, by default the last. `watch` sees each step.
    """
    state = program.init() if state is None else state
    metrics = program.empty_metrics() if metrics is None else metrics
    step = int(jnp.ravel(state.step)[0])
    progress = progress or Progress(program.plan, step, shown=False)
    last, batches, ended_by = until or program.plan.total_steps, None, 0
    done = bool(records) and all(record.stops_early for record in records)
    while step < last and not done and not (ended_by := stop(step)):
        epoch, position = divmod(step, program.plan.steps_per_epoch)
        if batches is None or position == 0:
            batches = program.batches(epoch, position)
        if watch:
            watch(step, state)
        batch, step = next(batches), step + 1
        logs, evaluates, saves = due(program.settings, program.plan, step)
        noted = program.settings.log_norms and records and (logs or step == 1)
        sizes = program.gradients(state, *batch) if noted else {}
        state, metrics, output = program.step(state, metrics, *batch)
        progress.tick(step, output)
        if logs:
            _log(program, records, progress, step, state, metrics)
            metrics = program.empty_metrics()
        else:
            progress.remind(step)
        if noted:
            _each(records, Record.write_norms, [step] * len(records), program.unstack(state), program.unstack(sizes))
        if saves and records:
            with progress.paused(output):
                if evaluates:
                    for split in HELD_OUT if program.settings.test_every_epoch else HELD_OUT[:1]:
                        if split in program.spec.sizes:
                            _score(program, records, progress, split, state, [step] * len(records))
                _save(program, records, step, state, metrics)
            done = evaluates and all(record.stops_early for record in records)
    return Trained(state, metrics, step, ended_by)


def _each(records: Sequence[Record], action: Callable[..., Any], *values: Sequence[Any]) -> list[Any]:
    """Return `action(record, *its values)` of each record, None of one that failed, now or before; raise if all did."""
    results: list[Any] = []
    for record, *own in zip(records, *values, strict=True):
        try:
            results.append(None if record.failure else action(record, *own))
        except UserError as e:
            record.failure = e
            results.append(None)
            if len(records) > 1:
                log.warning("%s: %s", record.directory.name, e)
    if records and all(record.failure for record in records):
        raise [record.failure for record in records if record.failure][-1]
    return results


def _log(program: Programs, records: Sequence[Record], progress: Progress, step: int, state: TrainState,
         metrics: Metrics) -> None:
    """Write and show the training metrics since the last time."""
    counted = program.unstack(metrics)
    means = [each.means(program.spec.num_classes) for each in counted]  # waits for the device
    speed = progress.measure(step)
    if records:
        _each(records, lambda record, *own: record.write_training(step, *own), counted, means, [speed] * len(means),
              program.learning_rates(step - 1))
        means = [mean for record, mean in zip(records, means, strict=True) if not record.failure]
    progress.show(step, "train", means, speed)


def _score(program: Programs, records: Sequence[Record], progress: Progress, split: str, state: TrainState,
           steps: Sequence[int | None]) -> None:
    """Evaluate a split, and write the metrics as those of each record's step; of None nothing is written."""
    means = [each.means(program.spec.num_classes) for each in program.unstack(program.evaluate(state, split))]
    _each(records, lambda record, step, mean: step is None or record.write_scores(step, split, mean), steps, means)
    progress.show(next(step for step in steps if step is not None), split, means)


def _save(program: Programs, records: Sequence[Record], step: int, state: TrainState, metrics: Metrics) -> None:
    _each(records, Record.save, [step] * len(records), program.unstack(state), program.unstack(metrics))


def _complete(program: Programs, records: Sequence[Record], stop: Stop, state: TrainState, metrics: Metrics,
              progress: Progress, watch: Watch | None = None) -> list[Any]:
    """Train to the end as `fit`, and return the result of each record: its chosen checkpoint, scored once."""
    trained = fit(program, records, stop, state=state, metrics=metrics, progress=progress, watch=watch)
    if trained.signal:
        if any(record.saved_step < trained.step for record in records if not record.failure):
            _save(program, records, trained.step, trained.state, trained.metrics)
        _each(records, lambda record: record.checkpoints.wait())
        log.warning("stopped by %s %s", signal.Signals(trained.signal).name,
                    f"after step {trained.step}; a checkpoint is saved" if trained.step else "before the first step")
        raise SystemExit(128 + trained.signal)
    chosen = _each(records, Record.choose, program.unstack(trained.state))
    any_choice = next(choice for choice in chosen if choice)
    steps, states = zip(*(choice or any_choice for choice in chosen), strict=True)
    for split in HELD_OUT:
        unscored = [step if (split, step) not in record.scores and not record.failure else None
                    for record, step in zip(records, steps, strict=True)]
        if split in program.spec.sizes and any(step is not None for step in unscored):
            _score(program, records, progress, split, program.stack(list(states)), unscored)
    return _each(records, Record.finish, steps)


def train_and_evaluate(config: ml_collections.ConfigDict, directory: str | Path, *, profile: bool = False,
                       stop: Stop | None = None, watch: Watch | None = None) -> dict[str, Any]:
    """Train the run of a ConfigDict in a workdir, or go on with the one that is there, to its end.

    With `profile`, PROFILE_STEPS are recorded into profile/; else `watch` sees each step, as in `fit`. `stop` is what
    `stop_signals` gives, of a caller who listens to signals already. Return {'step': the chosen checkpoint, 'test', and
    where there are any 'validation', 'train': {'loss', 'accuracy', ...}}; 'train' is the last record of this process.
    Raise UserError for bad input or a run that cannot go on, SystemExit when stopped by SIGTERM (143), SIGINT (130) or
    SIGHUP (129), after a checkpoint.
    """
    with workdir.disk_errors(Path(directory)), contextlib.ExitStack() as closing:
        # As a context too: JAX 0.10 stops checking once one of its own functions has paused the check in this thread.
        closing.enter_context(jax.debug_nans(jax.config.values["jax_debug_nans"]))
        asked = settings.read(config)
        place = closing.enter_context(mirror.opened(directory, asked.data))
        given, directory = directory, place.directory
        record = closing.enter_context(Record(directory, asked))
        source, begun = asked.finetune.workdir, bool(saved_steps(directory))
        dataset = load.training_data(asked, directory if begun else source)
        program = Program(asked, dataset)
        _warn_of_unused([asked], program)
        finetunes = source and not begun
        start, origin = load.pretrained(asked, program.module, dataset) if finetunes else (None, {})
        state, metrics = record.begin(program, program.init(start), program.empty_metrics(), origin)
        log.info("%s on %s, %s: %s parameters, %d steps of %d images%s", asked.model["name"], program.spec.origin,
                 jax.devices()[0].device_kind, f"{record.parameters:,}", program.plan.total_steps,
                 program.plan.batch_size, f", resuming from step {record.first_step}" if record.first_step else "")
        shown = devices.leads()
        progress = Progress(program.plan, record.first_step, shown=shown)
        closing.enter_context(progress.bar)
        alone, stop = stop is None, stop or closing.enter_context(stop_signals())
        watch = closing.enter_context(profiled(directory / "profile", record.first_step)) if profile else watch
        try:
            [result] = _complete(program, [record], stop, state, metrics, progress, place.watched(watch))
        except SystemExit:
            if alone:  # else the caller says how to go on
                log.warning("to resume, run the same command with --workdir=%s", given)
            raise
        if shown:
            progress.bar.close()
            summarize(record, program, result, progress)
        return result


def _warn_of_unused(trials: Sequence[Settings], program: Programs) -> None:
    for line in dict.fromkeys(line for each in trials for line in unused(each, program.spec, program.plan)):
        log.warning("%s", line)


def train_trials(configs: Sequence[ml_collections.ConfigDict], directories: Sequence[Path], note: str = "",
                 stop: Stop = lambda step: 0) -> list[dict[str, Any] | Exception]:
    """Train runs with the same `stacked.group_key` together to their ends, each from where its directory is.

    `note` begins each line of progress. Return for each run what `train_and_evaluate` would have returned, or the error
    with which it ended. Raise UserError for a problem that stops them all, SystemExit as `train_and_evaluate`.
    """
    trials = [settings.read(config) for config in configs]
    dataset = sources.load(trials[0].data)
    everyone = StackedProgram(trials, dataset)
    _warn_of_unused(trials, everyone)
    outcomes: dict[int, dict[str, Any] | Exception] = {}
    with contextlib.ExitStack() as closing:
        at_step: dict[int, list[tuple[int, Record, TrainState, Metrics]]] = defaultdict(list)
        locked: dict[int, Record] = {}
        for number, directory in enumerate(directories):
            try:
                record = closing.enter_context(Record(directory, trials[number]))
                saved_steps(directory)  # which must be readable
                locked[number] = record
            except UserError as e:
                outcomes[number] = e
        if locked:
            align([record.directory for record in locked.values()])
        states = everyone.initial_states()
        for number, record in locked.items():
            try:
                begun = record.begin(everyone, states[number], jax.device_get(Metrics.empty()), {})
                at_step[record.first_step].append((number, record, *begun))
            except UserError as e:
                outcomes[number] = e
        for step, group in at_step.items():
            numbers, records, states, metrics = zip(*group, strict=True)
            whole = len(records) == len(trials)
            program = everyone if whole else StackedProgram([record.settings for record in records], dataset)
            try:
                results = _complete(program, records, stop, program.stack(states), program.stack(metrics),
                                    Progress(program.plan, step, trials=True, note=note))
            except UserError as e:  # not one of them is left
                results = [e] * len(records)
            outcomes |= {number: record.failure or result
                         for number, record, result in zip(numbers, records, results, strict=True)}
    return [outcomes[number] for number in range(len(trials))]


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Give a function of the step that returns the signal for which all processes stop before it, or 0.

    SIGTERM, SIGINT and SIGHUP (unless it is ignored, as under nohup) are noted instead of killing; a second SIGINT
    interrupts at once. SIGTERM to one of several processes stops all, after the same step; SIGINT kills.
    """
    received: list[int] = []
    if jax.process_count() > 1:  # the coordination service of JAX has its own handler, and finds a step for all
        yield lambda step: signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0
        return

    def note(number, _):
        if number == signal.SIGINT and signal.SIGINT in received:
            raise KeyboardInterrupt
        received.append(number)

    with contextlib.ExitStack() as closing:
        with contextlib.suppress(ValueError):  # not the main thread: signals belong to somebody else
            hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # Windows has none
            heard = [number for number in hangup if signal.getsignal(number) != signal.SIG_IGN]
            for number in (signal.SIGTERM, signal.SIGINT, *heard):
                closing.callback(signal.signal, number, signal.signal(number, note))
        yield lambda step: received[0] if received else 0


@contextlib.contextmanager
def profiled(directory: Path, first_step: int) -> Iterator[Watch]:
    """Give the `watch` of a loop that records PROFILE_STEPS of its steps into a directory."""
    skipped, count = PROFILE_STEPS
    begun = False

    def watch(step, state):
        nonlocal begun
        if step - first_step == skipped:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # its hooks crash the process when a thread of Orbax ends meanwhile
            trace.callback(log.info, "profile: tensorboard --logdir=%s, or open its perfetto_trace.json.gz at "
                           "ui.perfetto.dev", directory)
            trace.enter_context(jax.profiler.trace(directory, create_perfetto_trace=True, profiler_options=options))
            begun = True
        elif step - first_step == skipped + count:
            jax.block_until_ready(state)
            trace.close()

    with contextlib.ExitStack() as trace:
        yield watch
    if not begun:
        log.warning("nothing was profiled: that begins after %d steps, and this process did fewer", skipped)
