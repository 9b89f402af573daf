"""The record of one run: everything that it keeps in its directory."""
import contextlib
import logging
import math
from pathlib import Path
from typing import Any

import jax

from modern_cnn import cli
from modern_cnn.data import sources
from modern_cnn.errors import UserError, some
from modern_cnn.runs import loggers, workdir
from modern_cnn.runs.checkpoints import Checkpoints, saved_steps, stops_early
from modern_cnn.runs.log import Log, Progress, draw_curves, duration, read_metrics
from modern_cnn.settings import Settings
from modern_cnn.training import devices
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.program import Program
from modern_cnn.training.stacked import StackedProgram
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)

HELD_OUT = ("validation", "test")


class NotFinite(UserError):
    """The loss of `step`, or a parameter after it, is not finite."""

    def __init__(self, text: str, step: int):
        super().__init__(text)
        self.step = step


class Record(contextlib.ExitStack):
    """One run's directory and its files: entering locks it, leaving closes them. Only the first process writes."""

    def __init__(self, directory: Path, settings: Settings):
        super().__init__()
        self.directory, self.settings = directory, settings
        self.scores: dict[tuple[str, int], dict[str, float]] = {}  # by split and step, of earlier processes too
        self.failure: UserError | None = None  # why the run cannot go on
        self.parameters = self.first_step = self.saved_step = 0
        self.last_training: dict[str, float] | None = None
        self._log: Log | None = None

    def __enter__(self) -> "Record":
        sources.keep_out(self.directory, self.settings.data, "workdir")
        if (self.directory / "sweep.json").exists():
            raise UserError(f"{self.directory} holds a sweep: choose another --workdir for a run")
        if devices.leads():
            loggers.check(self.settings.loggers)
            self.enter_context(workdir.lock(self.directory))
        return self

    def begin(self, program: Program | StackedProgram, state: TrainState, metrics: Metrics,
              origin: dict[str, Any]) -> tuple[TrainState, Metrics]:
        """Open the files, and return state and metrics of the newest good checkpoint, or those given, of step 0.

        `origin` is for run.json: where weights are from. Raise UserError for another or a longer run, or a damaged one.
        """
        saved, self._plan, self._spec = saved_steps(self.directory), program.plan, program.spec
        if self.settings.early_stopping and "validation" not in self._spec.sizes:
            raise UserError(f"config.early_stopping={self.settings.early_stopping} needs a validation split, and "
                            f"{self._spec.source} has none: --config.data.validation=0.1 holds one out")
        if saved and saved[-1] > self._plan.total_steps:
            raise UserError(f"{self.directory} is at step {saved[-1]} already, beyond the {self._plan.total_steps} "
                            "steps that config.epochs and config.max_steps now ask for")
        self.parameters = sum(x.size for x in jax.tree.leaves(state.params))
        devices.wait_for_all("every process has read what is there")
        if devices.leads():
            run = workdir.describe_machine() | {"parameters": self.parameters, "data": vars(self._spec)} | origin
            workdir.write_run(self.directory, self.settings.to_dict(), run, resuming=bool(saved))
        self.checkpoints = self.enter_context(contextlib.closing(Checkpoints(self.directory)))
        state, metrics = self.checkpoints.restore(state, metrics)
        self.first_step = self.saved_step = int(state.step)
        self.scores = {(each["split"], each["step"]): each for each in read_metrics(self.directory / "metrics.jsonl")
                       if each["step"] <= self.first_step}
        epochs = range(self._plan.steps_per_epoch, self.first_step + 1, self._plan.steps_per_epoch)
        if lost := [str(step) for step in epochs if ("train", step) not in self.scores]:
            log.warning("%s/metrics.jsonl has lost the record of step %s", self.directory, some(lost))
        if devices.leads():
            opened = Log(self.directory, self.first_step, self.settings)
            self._log = self.enter_context(contextlib.closing(opened))
        return state, metrics

    def write_training(self, step: int, metrics: Metrics, means: dict[str, float], speed: float, rate: float) -> None:
        """Write the means since the last record, unless they are not finite: then raise NotFinite."""
        self._check(int(metrics.bad_step))
        self.last_training = means
        self._write(step, "train", means | {"images_per_second": round(speed, 1), "learning_rate": rate})

    def write_norms(self, step: int, state: TrainState, gradients: dict[str, jax.Array]) -> None:
        """Write the statistics of batch norm after a step, and the sizes of the gradients with which it learned."""
        if self._log:
            self._log.write_norms(step, step / self._plan.steps_per_epoch, state.collections.get("batch_stats", {}),
                                  gradients)

    def write_scores(self, step: int, split: str, means: dict[str, float]) -> None:
        """Write the metrics of a whole split, and raise NotFinite if its loss is not finite."""
        self.scores[split, step] = means
        self._write(step, split, means)
        if not math.isfinite(means["loss"]):
            self._check(step, f"on {split} ")

    def _write(self, step: int, split: str, values: dict[str, float]) -> None:
        if self._log:
            self._log.write(step, step / self._plan.steps_per_epoch, split, values)

    @property
    def stops_early(self) -> bool:
        """Whether config.early_stopping ends the run after the last evaluation on validation."""
        validated = [means for (split, _), means in sorted(self.scores.items()) if split == "validation"]
        return stops_early(validated, self.settings.early_stopping)

    def save(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Save a checkpoint with the validation metrics of its step, unless the run has become non-finite."""
        self._check(int(metrics.bad_step))
        if not self.checkpoints.save(state, metrics, self.scores.get(("validation", step))):
            self._check(step)
        self.saved_step = step

    def _check(self, bad_step: int, where: str = "") -> None:
        if bad_step >= 0:
            self.checkpoints.wait()
            kept = saved_steps(self.directory)
            last = (f"the last good checkpoint, step {kept[-1]}, is kept in {self.directory}" if kept else
                    "no checkpoint had been written yet")
            raise NotFinite(
                f"the loss {where}is not finite at step {bad_step} (epoch {bad_step / self._plan.steps_per_epoch:.2f})"
                f"; {last}. Lower config.optimizer.learning_rate (now {self.settings.optimizer.learning_rate}) in "
                "another --workdir, or add --debug_nans to see which operation it was", bad_step)

    def choose(self, state: TrainState) -> tuple[int, TrainState]:
        """Return the result, shaped as `state`: the step of the chosen checkpoint, and the variables in it."""
        chosen, variables = self.checkpoints.result(state.evaluation_variables)
        return chosen, state.replace(params=variables.pop("params"), collections=variables, ema=None)

    def finish(self, chosen: int) -> dict[str, Any]:
        """Return the scores of the chosen checkpoint, {'step', 'test': {'loss', ...}}; the loggers get it too."""
        training = {"train": self.last_training} if self.last_training else {}
        result = {"step": chosen} | training | {
            split: {name: n for name, n in self.scores[split, chosen].items() if name in loggers.OF_SPLIT}
            for split in HELD_OUT if split in self._spec.sizes}
        if self._log:
            self._log.finish(result)
        return result


def summarize(record: Record, program: Program, result: dict[str, Any], progress: Progress) -> None:
    """Draw curves.png and print the table of a finished run."""
    spec, name, step = program.spec, record.settings.model["name"], record.saved_step
    trained = step - record.first_step
    seconds, why = progress.training_seconds, "best on validation" if "validation" in spec.sizes else "the last"
    curves = draw_curves(record.directory, f"{name} on {spec.source}, {record.parameters:,} parameters")
    speed = [("speed", f"{trained * program.plan.batch_size / seconds:,.0f} images/s with compilation, "
                       f"{duration(seconds)} of training")] if trained else []
    log.info("\n%s", "\n".join(cli.text_table([
        ("network", f"{name}, {record.parameters:,} parameters"),
        ("data", ", ".join([spec.origin, *(f"{n:,} {split}" for split, n in spec.sizes.items())])),
        ("device", f"{jax.devices()[0].device_kind} ({jax.default_backend()}), {program.devices.batch_shares} of "
                   f"{jax.device_count()} used"),
        ("trained", f"{step:,} steps of {program.plan.batch_size} images, {step / program.plan.steps_per_epoch:.4g} "
         "epochs" + (", stopped early" if step < program.plan.total_steps else "")
         + (f" ({trained:,} steps in this process)" if record.first_step else "")),
        *speed,
        ("checkpoint", f"step {result['step']}, {why}"),
        *((split, "  ".join(f"{key} {value:.4f}" for key, value in result[split].items()))
          for split in ("train", *HELD_OUT) if split in result),
        ("curves", str(curves))])))
