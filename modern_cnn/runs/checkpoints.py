"""Checkpoints that are whole, or are not used: Orbax writes them, a digest inside each proves them.

A checkpoint has two parts: 'variables' (parameters and batch statistics, or their averages where a run keeps them: all
that evaluation needs) and 'training' (optimiser, step and the metrics since the last log line, and beside averages the
variables themselves, so that a resumed run is the same run).
"""
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from modern_cnn.errors import UserError
from modern_cnn.training import devices as mesh
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)

KEEP_NEWEST = 2  # the newest may be damaged: there is always one before it


def _leaf_digest(x: jax.Array) -> jax.Array:
    """uint32 that changes whenever one value of `x` does: its bits, weighted by odd numbers, summed modulo 2^32."""
    bits = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    bits = bits.astype(jnp.uint32).ravel()
    weights = jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(2654435761) | jnp.uint32(1)
    return jnp.sum(bits * weights, dtype=jnp.uint32)


@jax.jit
def _digest(tree: Any) -> jax.Array:
    """uint32 [number of leaves]. Integer sums do not depend on the order, so any device and sharding agrees."""
    return jnp.stack([_leaf_digest(x) for x in jax.tree.leaves(tree)])


@jax.jit
def _finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)
                      if jnp.issubdtype(x.dtype, jnp.floating)]).all()


def _reason(error: Exception) -> str:
    """Why a checkpoint failed, in one line without TensorStore's inner workings."""
    return " ".join(str(error).partition("See full TensorStore details")[0].split())[:250] or type(error).__name__


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Higher is better: validation accuracy, then the smaller loss."""
    return metrics["accuracy"], -metrics["loss"]


def _parts(state: TrainState, metrics: Metrics) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, training) of a checkpoint."""
    training = {"step": state.step, "opt_state": state.opt_state, "metrics": metrics}
    return state.scored, training if state.ema is None else training | {"variables": state.variables}


def saved_steps(workdir: Path) -> list[int]:
    """Steps that have a complete checkpoint, ascending."""
    # A checkpoint gets its plain name in the moment it is complete; Orbax's own list has those under way too.
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


class Checkpoints:
    """The checkpoints of a workdir: the newest two, and the best on validation."""

    def __init__(self, workdir: Path, *, read_only: bool = False):
        self._workdir = workdir.absolute()
        self.directory = self._workdir / "checkpoints"
        if not read_only:  # Orbax reads every step's metrics when it opens, and one that is damaged would stop it
            damaged = {step: "its validation metrics cannot be read" for step in self.steps()
                       if self._validation(step) == {}}
            if damaged and len(damaged) == len(self.steps()):
                raise self._unreadable(damaged)
            self._set_aside(damaged)
        self._open(read_only)

    def _open(self, read_only: bool) -> None:
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(self.directory, options=ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([
                policies.LatestN(KEEP_NEWEST),
                policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False)]),
            best_fn=_rank,  # without it the metrics would not be written
            lightweight_initialize=read_only, cleanup_tmp_directories=not read_only, create=not read_only,
            read_only=read_only))

    def _validation(self, step: int) -> dict[str, float] | None:
        """What was measured on validation at a step; None if nothing was, {} if it cannot be read."""
        path = self.directory / str(step) / "metrics" / "metrics"
        if not path.exists():
            return None
        try:
            metrics = json.loads(path.read_bytes())
            return metrics if {"accuracy", "loss"} <= metrics.keys() else {}
        except (OSError, ValueError, AttributeError):
            return {}

    def wait(self) -> None:
        """Until the checkpoint that is being written is complete. Raises UserError if it could not be written."""
        try:
            self._manager.wait_until_finished()
        except Exception as e:  # Orbax and TensorStore raise many kinds for a full or broken disk
            raise self._unwritten(e) from e

    def close(self) -> None:
        """Ends the threads that write; what `wait` was not called for is still finished, but its errors are lost."""
        self._manager.close()

    def _unwritten(self, error: Exception) -> UserError:
        steps = self.steps()
        last = f"the last good checkpoint is step {steps[-1]}" if steps else "there is none yet"
        return UserError(f"a checkpoint could not be written to {self.directory}: {_reason(error)}; "
                         f"{last}. Free some space and run the same command again")

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        return saved_steps(self._workdir)

    def result(self, template: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(step, variables shaped as `template`) of the run's result: the best on validation, else the newest.

        One that is damaged is passed over with a warning, for the next best.

        Raises:
          UserError: there is no checkpoint, or none that can be read.
        """
        self.wait()
        mesh.wait_for_all("the checkpoints are written")
        best_first = sorted(self.steps(), key=lambda step: (
            _rank(validation) if (validation := self._validation(step)) else (-1.0, 0.0), step), reverse=True)
        damaged: dict[int, str] = {}
        for step in best_first:
            try:
                return step, self._read(step, variables=template)["variables"]
            except Exception as e:  # any kind of damage, any exception
                damaged[step] = _reason(e)
                log.warning("the checkpoint of step %d is damaged (%s); it is passed over", step, damaged[step])
        if not damaged:
            raise UserError(f"{self._workdir} has no checkpoint yet")
        raise self._unreadable(damaged)

    def save(self, state: TrainState, metrics: Metrics, validation: dict[str, float] | None = None) -> bool:
        """Starts writing a checkpoint and returns; the device may go on.

        Args:
          state: is copied to the host before this returns, so the next step may donate it.
          metrics: what was counted since the last log line.
          validation: 'accuracy' and 'loss' there, by which the best is kept.
        Returns:
          False, with nothing written, where a parameter is not finite.
        Raises:
          UserError: this checkpoint or the one before could not be written.
        """
        variables, training = _parts(state, metrics)
        if not _finite(variables):
            return False
        try:
            self._manager.save(int(state.step), metrics=validation, force=True, args=ocp.args.Composite(
                variables=ocp.args.StandardSave({"tree": variables, "digest": _digest(variables)}),
                training=ocp.args.StandardSave({"tree": training, "digest": _digest(training)})))
        except Exception as e:
            raise self._unwritten(e) from e
        return True

    def _read(self, step: int, **templates: Any) -> dict[str, Any]:
        """The named parts of a checkpoint in the shape of `templates`. Raises whatever a damaged file causes."""
        wanted = {name: {"tree": tree, "digest": np.zeros(len(jax.tree.leaves(tree)), np.uint32)}
                  for name, tree in templates.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(
            **{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}))
        for name in templates:
            if not np.array_equal(_digest(restored[name]["tree"]), restored[name]["digest"]):
                raise ValueError(f"the digest of its {name} does not fit them: some bits have changed")
        return {name: restored[name]["tree"] for name in templates}

    def restore(self, state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics] | None:
        """State and metrics of the newest good checkpoint, shaped as those given; None if there is no checkpoint.

        A damaged one is reported, moved aside to `checkpoints_damaged/`, and the one before is taken.

        Raises:
          UserError: there are checkpoints but none can be read.
        """
        variables, training = _parts(state, metrics)
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                parts = self._read(step, variables=variables, training=training)
            except Exception as e:  # any kind of damage, any exception
                damaged[step] = _reason(e)
                continue
            if damaged:
                self._manager.close()
                self._set_aside(damaged)
                self._open(read_only=False)
                log.warning("going on from step %d instead", step)
            scored, done = parts["variables"], parts["training"]
            collections = done.get("variables", scored).copy()
            ema = None if state.ema is None else scored
            return state.replace(step=done["step"], params=collections.pop("params"), collections=collections,
                                 opt_state=done["opt_state"], ema=ema), done["metrics"]
        if damaged:
            raise self._unreadable(damaged)
        return None

    def _unreadable(self, damaged: dict[int, str]) -> UserError:
        newest = max(damaged)
        return UserError(f"no checkpoint in {self.directory} can be read (step {newest}: {damaged[newest]}); move that "
                         "directory away to start again from step 0")

    def _set_aside(self, damaged: dict[int, str]) -> None:
        """Moves damaged checkpoints out of the way of new ones, without deleting them."""
        aside = self.directory.with_name("checkpoints_damaged")
        mesh.wait_for_all("every process has seen the damage")
        for step, reason in damaged.items() if mesh.leads() else ():
            aside.mkdir(exist_ok=True)
            log.warning("the checkpoint of step %d is damaged (%s); it was moved to %s", step, reason, aside)
            shutil.rmtree(aside / str(step), ignore_errors=True)
            (self.directory / str(step)).rename(aside / str(step))
        mesh.wait_for_all("the damaged are out of the way")
